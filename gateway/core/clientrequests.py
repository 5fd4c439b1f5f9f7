"""How many requests of each client are under way: none may have all of the connections to itself.

Owns the counts and the bound. Whoever knows whose a request is counts it, and ends it with its answer: the token check
of the API, and the pages. A request that is being answered gives way to nobody (``gateway.serve.inbound``), and many
are held for a minute: without a bound one token took every connection from all others.
"""

from gateway.core.errors import Unavailable

_TIMES = 7


class ClientRequests:
    """The counts, for a server that takes so many connections.

    A client may have seven times as many under way as there is room left beside all of them: alone seven eighths, and
    of what others leave again seven eighths. Who has none is never refused: there is always a place for another.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._count = 0
        self._of: dict[str | None, int] = {}

    def begin(self, client: str | None) -> None:
        """Count one, until ``end``; None is the operator. Raises Unavailable, and counts nothing, beyond the bound."""
        own = self._of.get(client, 0)
        if own and own >= _TIMES * (self._connections - self._count - 1):
            raise Unavailable(
                f"This client has {own} requests under way, and the room that is left is for others; try again once "
                "some of them are answered."
            )
        self._of[client] = own + 1
        self._count += 1

    def end(self, client: str | None) -> None:
        """Say that one has its answer, or has ended without."""
        self._count -= 1
        left = self._of[client] - 1
        if left:
            self._of[client] = left
        else:
            del self._of[client]
