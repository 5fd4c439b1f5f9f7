"""A webhook-bridging gateway: it polls tasks for its clients and POSTs a signed webhook when each one ends."""

__version__ = "0.1.0"
