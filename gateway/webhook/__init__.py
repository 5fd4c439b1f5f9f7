"""What a receiver gets, and when."""
