"""What runs all the time: polls, deliveries, housekeeping."""
