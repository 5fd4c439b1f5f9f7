"""Who gives way where there is no room for another client's connection: whoever has been waited for the longest.

Owns that order, for all connections of one server. It must not know what is waited for: a next request, the rest of
one, an answer to be read, a client that may be gone. Called by ``inbound``.
"""

from typing import Protocol
from weakref import WeakKeyDictionary

__all__ = ["Places", "Waited", "places_of"]


class Waited(Protocol):
    """A connection that can be waited for."""

    def give_way(self) -> None:
        """End at once."""


class Places:
    """The connections whose client it is to do something, the longest waited for first."""

    def __init__(self) -> None:
        self._waiting: dict[Waited, None] = {}

    def wait_for(self, connection: Waited) -> None:
        """Wait for its client from now on; one that is waited for already keeps its rank."""
        self._waiting.setdefault(connection)

    def serve(self, connection: Waited) -> None:
        """Wait for its client no more."""
        self._waiting.pop(connection, None)

    def make_room(self) -> bool:
        """Have the one that has been waited for the longest give way; return whether there was one."""
        connection = next(iter(self._waiting), None)
        if connection is None:
            return False
        del self._waiting[connection]
        connection.give_way()
        return True


_PLACES: "WeakKeyDictionary[object, Places]" = WeakKeyDictionary()


def places_of(server: object) -> Places:
    """Return the order among a server's connections, which lasts as long as the server."""
    return _PLACES.setdefault(server, Places())
