"""Settings, profiles and secrets: what the operator says, read and checked."""
