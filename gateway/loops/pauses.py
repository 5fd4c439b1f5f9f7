"""Receivers that are paused by hand: which, since when, and who said so; kept, and the same for every replica.

Owns the small value that keeps them, and how old what is known of it may be. No webhook of a paused receiver is claimed
(``bulkhead``), so nothing of it changes: no attempt is used up, and no time runs out. Read by the deliverer, changed by
whoever runs the gateway, through the pages.
"""

from collections.abc import Callable, Mapping

import msgspec
import structlog

from gateway.core.claims import Lane
from gateway.core.clock import Clock
from gateway.core.errors import Conflict, StoreError
from gateway.core.pausing import holds_back
from gateway.store import Housekeeping

_log = structlog.get_logger()

_KEY = "paused"
_FRESH_S = 5.0
"""So old may be what another replica can have changed, when an attempt begins."""
_MOST = 1000
"""In all; one client may have as many as are left besides: half of them alone, and there is always one for another."""


class Pause(msgspec.Struct, frozen=True):
    """One lane that gets no attempts."""

    client: str
    receiver: str
    since: int
    by: str
    """Whose token it was paused with."""

    @property
    def lane(self) -> Lane:
        return Lane(self.client, self.receiver)


_Kept = list[Pause]


class Pauses:
    """The pauses of one database."""

    def __init__(self, store: Housekeeping, clock: Clock, wake: Callable[[], None]) -> None:
        """``wake``: has the deliverer look."""
        self._store = store
        self._clock = clock
        self._wake = wake
        self._read_at: float | None = None
        self._all: Mapping[Lane, Pause] = {}
        self.lanes: frozenset[Lane] = frozenset()
        """Those that are paused by name, as far as is known here: the same object while nothing has changed."""

    async def follow(self) -> frozenset[Lane]:
        """Return what ``lanes`` is, read anew where others may have changed it. Raises StoreError at the first time."""
        now = self._clock.monotonic()
        if self._read_at is None or (self._store.shared and now - self._read_at >= _FRESH_S):
            known = self._all
            try:
                stored = await self._store.load(_KEY)
                if self._all is known:  # else it was changed here meanwhile, and what was read may be older than that
                    self._know(stored)
            except StoreError:
                if self._read_at is None:
                    raise
            self._read_at = now  # what cannot be read now is asked for again as late
        return self.lanes

    def of(self, client: str, receiver: str, url: str | None = None) -> Pause | None:
        """Return since when and by whom a receiver is paused for a client, or one above it; None: it is not.

        ``url``: of a webhook to it, which a pause of its path may hold back alone.
        """
        found = holds_back(self._all, Lane(client, receiver), url)
        return None if found is None else self._all[found]

    async def pause(self, client: str, receiver: str, by: str) -> None:
        """Make no attempt at a receiver, and at those under it, until it is resumed, on any replica.

        Raises Conflict and StoreError.
        """
        new = Pause(client, receiver, self._clock.now(), by)

        def with_it(known: _Kept) -> _Kept:
            if any(one.lane == new.lane for one in known):
                return known
            if sum(one.client == client for one in known) >= _MOST - len(known):
                raise Conflict(f"{len(known):,} receivers are paused already: resume some before you pause another.")
            return [*known, new]

        if await self._change(with_it):
            _log.info("receiver.paused", receiver=receiver, client=client, by=by)

    async def resume(self, client: str, receiver: str, by: str) -> bool:
        """Make attempts again: what is due by then comes as that of a receiver that nobody has met yet, few at once.

        Return whether there was a pause of it to end. One of a receiver above it holds it back on: ``of`` tells.
        """
        lane = Lane(client, receiver)
        ended = await self._change(lambda known: [one for one in known if one.lane != lane])
        if ended:
            _log.info("receiver.resumed", receiver=receiver, client=client, by=by)
        return ended

    async def _change(self, change: Callable[[_Kept], _Kept]) -> bool:
        """Put another value in the place of the one that stands; return whether it is another."""
        while True:
            stored = await self._store.load(_KEY)
            known = _read(stored)
            wanted = change(known)
            if wanted == known:
                self._know(stored)
                return False
            new = msgspec.json.encode(wanted)
            if await self._store.swap(_KEY, stored, new):
                self._know(new)
                return True

    def _know(self, stored: bytes | None) -> None:
        found = {one.lane: one for one in _read(stored)}
        if found != self._all:
            self._all = found
            self.lanes = frozenset(found)
            self._wake()


def _read(stored: bytes | None) -> _Kept:
    return [] if stored is None else msgspec.json.decode(stored, type=_Kept)
