"""Who gives way where there is no room for another client's connection: whoever has been waited for the longest.

Owns that order, for all connections of one server, and how much they may hold together of what is no request yet. It
must not know what is waited for: a next request, the rest of one, an answer to be read, a client that may be gone.
Called by ``inbound``.
"""

from typing import Protocol
from weakref import WeakKeyDictionary

_MAX_BYTES = 32 * 1024 * 1024


class Waited(Protocol):
    """A connection that can be waited for."""

    def give_way(self) -> None:
        """End at once."""


class Places:
    """The connections whose client it is to do something, the longest waited for first."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        """Bound what all hold together to ``max_bytes``."""
        self._waiting: dict[Waited, None] = {}
        self.beyond: dict[Waited, None] = {}
        """Those that there was no place for, the oldest first; none of them is waited for."""
        self._max_bytes = max_bytes
        self._held: dict[Waited, int] = {}
        self._bytes = 0

    def wait_for(self, connection: Waited) -> None:
        """Wait for its client from now on; one that is waited for already keeps its rank."""
        if connection not in self.beyond:
            self._waiting.setdefault(connection)

    def go_beyond(self, connection: Waited, number: int) -> None:
        """Let it be one of so many without a place; the oldest of them gives way."""
        self.beyond[connection] = None
        if len(self.beyond) > number:
            oldest = next(iter(self.beyond))
            self.leave(oldest)
            oldest.give_way()

    def serve(self, connection: Waited) -> None:
        """Wait for its client no more."""
        self._waiting.pop(connection, None)

    def hold(self, connection: Waited, size: int) -> bool:
        """Note how much memory it takes now; while all take too much together, those that are waited for give way.

        Return whether all is within the bound then.
        """
        self._bytes += size - self._held.pop(connection, 0)
        if size:
            self._held[connection] = size
        while self._bytes > self._max_bytes and self.make_room():
            pass
        return self._bytes <= self._max_bytes

    def leave(self, connection: Waited) -> None:
        """Forget it: it has ended."""
        self._waiting.pop(connection, None)
        self.beyond.pop(connection, None)
        self._bytes -= self._held.pop(connection, 0)

    def make_room(self) -> bool:
        """Have the one that has been waited for the longest give way; return whether there was one."""
        connection = next(iter(self._waiting), None)
        if connection is None:
            return False
        self.leave(connection)
        connection.give_way()
        return True


_PLACES: "WeakKeyDictionary[object, Places]" = WeakKeyDictionary()


def places_of(server: object) -> Places:
    """Return the order among a server's connections, which lasts as long as the server."""
    return _PLACES.setdefault(server, Places())
