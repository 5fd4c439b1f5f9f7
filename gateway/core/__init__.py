"""What everybody speaks in: the model, errors, clock, limits, telemetry. Imports nothing else of the package."""
