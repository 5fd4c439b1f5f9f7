"""Tasks with callbacks whose time has passed: found a part at a time, and remembered until they have none any more.

Owns up to when each upstream's were looked for, and what was found. Any number may have expired of an upstream that
nobody polls any more: they are passed once, a bounded number of them in each look. Called by ``tasks.py``.
"""

from collections import defaultdict

from msgspec import convert

from gateway.core.model import ExpiredTask
from gateway.store.engine import Engine
from gateway.store.rows import FOREVER, first_column

_PART = 1000
"""Expired callbacks, of whichever upstream, that are looked through at once: some milliseconds, after which others
read or write …"""
_PARTS = 10
"""… and so often in one look: after that polls have their turn."""
_GO_ON_MS = 20
_FULL_MS = 1000
"""Until the next look, where more has been found than was asked for."""
_REGISTERED_LATE_MS = 3_600_000
"""So long before a look at what has expired, at most, a callback expired that another process stored after it."""


class Expiries:
    """What has expired of each upstream."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sql = engine.sql
        self._looks: defaultdict[str, _Look] = defaultdict(_Look)

    def note(self, upstream: str, expires_at: int) -> None:
        """Hear of new callbacks on an upstream's tasks, which expire then or later."""
        self._looks[upstream].note(expires_at)

    def forget_times(self) -> None:
        """Know nothing of when callbacks expire: the clock was set."""
        self._looks.clear()

    def look_again(self) -> None:
        """Look anew through what another process may have stored late."""
        for look in self._looks.values():
            if look.until is not None:
                look.note(look.until - _REGISTERED_LATE_MS)

    async def expired(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        """Return tasks with callbacks whose time has passed, and when to look for the next ones. Raises StoreError."""
        look = self._looks[upstream]
        if now >= look.begin:
            next_at = await self._look_on(look, upstream, now, limit)
        else:
            next_at = None if look.begin == FOREVER else look.begin
        return (await self._still_expired(look, now))[:limit], next_at

    async def _look_on(self, look: "_Look", upstream: str, now: int, limit: int) -> int | None:
        """Go through what has expired since the last look, and return when there may be more."""
        # Whatever is registered from here on lowers it; a read that fails has found nothing out.
        begin, look.begin, look.until = look.begin, FOREVER, None
        try:
            for _ in range(_PARTS):
                if len(look.found) >= limit:
                    return now + _FULL_MS
                ends = await self._engine.read(self._sql.SELECT_EXPIRY_END, (begin, now, _PART - 1))
                end = ends[0][0] if ends else now
                found = await self._engine.read(self._sql.SELECT_EXPIRED, (begin, end, upstream))
                look.found.update(first_column(found))
                begin = end + 1
                if not ends:
                    ((next_at,),) = await self._engine.read(self._sql.SELECT_NEXT_EXPIRY, (now,))
                    begin, look.until = FOREVER if next_at is None else next_at, now
                    return None if next_at is None else int(next_at)
            return now + _GO_ON_MS
        finally:
            look.note(begin)

    async def _still_expired(self, look: "_Look", now: int) -> list[ExpiredTask]:
        """Return what was found and has not been settled since, the longest expired first."""
        if not look.found:
            return []
        asked = sorted(look.found)
        rows = await self._engine.read(self._sql.SELECT_EXPIRIES, (self._engine.array(asked),))
        found = convert(rows, list[ExpiredTask])
        look.found.difference_update(asked)
        for task in found:
            if task.expires_at <= now:
                look.found.add(task.seq)
            else:
                look.note(task.expires_at)
        return [task for task in found if task.expires_at <= now]


class _Look:
    """What is known of one upstream's."""

    def __init__(self) -> None:
        self.begin = 0
        """None has expired before that was not found."""
        self.until: int | None = None
        """When it was last gone through all of them; None in the middle of that."""
        self.found: set[int] = set()
        """Tasks, by seq."""

    def note(self, expires_at: int) -> None:
        self.begin = min(self.begin, expires_at)
