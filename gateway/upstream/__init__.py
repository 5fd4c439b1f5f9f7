"""What an upstream is, what its answers mean, and when it is asked."""
