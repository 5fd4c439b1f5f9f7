"""What the tests of the network have in common."""

from tests.transports import make

__all__ = ["make"]
