"""What is reserved of a key's requests, durably, before they are sent: alone, or beside other replicas.

Owns what is stored of them, and when; sends nothing. Called by ``gateway.upstream.budget``.

A restart must not forget what was spent. So requests are reserved before they are sent, some at a time, with what has
ended and what is in flight by then; the next ones while some are left, so that few requests wait for that. After a
start, whatever is not known to have ended counts as sent just then: even a gateway that is killed exceeds no window.

Where replicas spend from the same key, each has its part of what is stored (``spending``), and puts it there only in
the place of what it has read: so its requests fit in beside all that others may be sending. It reserves a part of the
room that is left, gives back what it does not use, and reserves for a few seconds only: whatever was reserved before
this process stood still for longer is not sent. The upstream's pauses and limits hold for all replicas.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import floor, inf

from gateway.core.clock import Clock, wait_for_event
from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateLimiter, RateWindow
from gateway.upstream.spending import Spending, decode, encode, folded

_CHUNKS = 20  # reservations per longest window at most: so many more writes, and at most 3/40 of it lost to a crash
_LEASE_S = 8.0
"""So long after it was stored others count what is open as ended, where it is not stored anew …"""
_MARGIN_S = 5.0
"""… and so long before that nothing of it is sent any more: a request takes its time until the upstream counts it, and
to store takes several tries where others do, too."""
_REFRESH_S = 2.0
_IDLE_S = 1.0
"""What was not used for so long goes to the others."""
_LOOK_S = (0.1, 0.5)
"""How often to look what the others leave, while there is no place: as often as one becomes free, in these bounds."""
_SHARE = 4  # of the room beside others this part is reserved ahead

Load = Callable[[], Awaitable[bytes | None]]
Swap = Callable[[bytes | None, bytes], Awaitable[bool]]
"""Get a small durable value, and put another in the place of the one that was there."""


class Reservations:
    """What one process has reserved; ``swap`` keeps what must outlive it, ``load`` has it."""

    def __init__(
        self, windows: Sequence[RateWindow], limiter: RateLimiter, clock: Clock, load: Load, swap: Swap, replica: str
    ) -> None:
        """``limiter`` counts in these windows. ``replica``: see ``Budget``."""
        self._limiter = limiter
        self._clock = clock
        self._load = load
        self._swap = swap
        self._replica = replica
        longest = max(windows, key=lambda window: window.window_s, default=RateWindow(0, 0.0))
        self._chunk_alone = max(1, longest.limit // _CHUNKS) if windows else 0
        self._stored: bytes | None = None  # as far as this process knows
        self._others: dict[str, Spending] = {}
        self._left = 0  # reserved, and not sent yet
        self._left_until = inf  # until when they may be sent
        self._used_at = self._looked_at = -inf
        self._told = Spending([], 0)  # our own, as it was stored last
        self._told_at = -inf
        self._reserving = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._ahead: asyncio.Task[None] | None = None  # kept from the garbage collector
        self._tending: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.sent = 0
        """How many requests this process has made."""
        self.waiting: Callable[[], int] = lambda: 0
        """Returns how many clients' requests wait here for a place."""
        self.polls_waiting = False
        """Whether more polls are due here than may be sent."""
        self.hear: Callable[[int, bool], None] = lambda count, polls: None
        """Told of requests that others have made, and whether these were polls."""

    async def restore(self) -> None:
        """Count what an earlier process sent, and what it may have sent as late as now. Raises StoreError."""
        found = await self._load()
        own = decode(found, self._clock.now()).get(self._replica)
        if own is not None:
            now, steady = self._clock.now(), self._clock.monotonic()
            for at, count in own.ended:
                self._limiter.restore(count, steady - max(0, now - at) / 1000)
            self._limiter.restore(own.open, steady)
        self._learn(found)

    async def close(self) -> None:
        """Leave what was reserved and not sent to the others. Raises StoreError."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait([self._tending])
        self._left = 0
        if self._replica and self._told.open:
            async with self._saving:
                await self._tell()

    async def reserve(self, count: int) -> int:
        """Make requests that were taken survive a crash as sent; return how many of them may be sent.

        That is fewer where other replicas have taken the places meanwhile. Raises StoreError: then none may be sent.
        """
        if count == 0:
            return 0
        if self._chunk == 0:  # another replica may have been told to wait, or of a limit
            await self.look()
        if self._chunk == 0:
            return 0 if self._is_paused() else count
        async with self._reserving:
            if not self._is_reserved(count):
                async with self._saving:
                    while not self._is_reserved(count):  # once more, where this process stood still meanwhile
                        count = await self._save(count)
            self._left -= count
            self._used_at = self._clock.monotonic()
            if 0 < self._left < self._chunk // 2 and not self._saving.locked() and self._is_alone():
                self._ahead = asyncio.create_task(self._reserve_ahead(), name="reserve-ahead")
        return count

    @property
    def _chunk(self) -> int:
        """How many are reserved at once; 0 where nothing is limited."""
        if self._chunk_alone or not self._replica:
            return self._chunk_alone
        return min((max(1, limit // _CHUNKS) for limit, _, _ in self._limiter.told()), default=0)

    def _is_paused(self) -> bool:
        """Whether the upstream has asked another replica to be left alone, or this one meanwhile."""
        return bool(self._replica) and self._clock.monotonic() < self._limiter.blocked_until

    def _is_reserved(self, count: int) -> bool:
        if self._clock.monotonic() >= self._left_until:
            self._left = 0
        return count <= self._left

    async def _reserve_ahead(self) -> None:
        with suppress(StoreError):  # whoever needs the next place finds out
            async with self._saving:
                if self._left < self._chunk // 2:
                    await self._save(0)

    async def _save(self, taken: int) -> int:
        """Make some more survive a crash, of which ``taken`` count as sent by now; return how many of these may be."""
        while True:
            granted, more = self._fitting(taken)
            if not more or await self._store(more - granted):
                self._left += more
                return granted
            self._learn(await self._load())

    def _fitting(self, taken: int) -> tuple[int, int]:
        """Return how many of those that count as sent may be sent, and how many more to reserve for them and others."""
        if not self._replica:
            return taken, max(self._chunk, taken)
        steady = self._clock.monotonic()
        room = self._limiter.room(steady)
        if taken and self._is_paused():
            return 0, 0
        if room >= 0 and self._is_alone():
            return taken, max(self._chunk, taken)
        granted = max(0, taken + min(0, room))
        wanted = max(granted - self._left, 0)
        ahead = min(self._chunk, max(0, room - max(self._left - granted, 0)) // _SHARE)
        return granted, wanted + ahead if wanted else 0

    def _is_alone(self) -> bool:
        """Whether no other replica sends, or waits."""
        now = self._clock.now()
        return not any(part.is_open(now) or (part.waiting and part.is_fresh(now)) for part in self._others.values())

    async def _store(self, more: int) -> bool:
        """Store what is spent, with so many more places; return False where another process has stored something."""
        now, steady = self._clock.now(), self._clock.monotonic()
        part = self._part(more, now, steady)
        others = folded(self._others, now, round(self._limiter.longest_s * 1000))
        value = encode({**others, self._replica: part})
        try:
            stored = await self._swap(self._stored, value)
        except asyncio.CancelledError:
            self._stored = value  # it is written all the same
            raise
        if stored:
            self._stored, self._told, self._told_at = value, part, steady
            if self._replica:
                self._left_until = steady + _LEASE_S - _MARGIN_S
                self._tend_soon()
        return stored

    def _part(self, more: int, now: int, steady: float) -> Spending:
        # One more millisecond, because the wall clock was rounded down.
        ended = [
            (now + 1 - floor((steady - at) * 1000), n)
            for at, n in self._limiter.spent(steady, exact=bool(self._replica))
        ]
        # In flight are also those for which this is called: they are what is left and a part of the new ones. Who takes
        # of what is left meanwhile has been counted with it.
        part = Spending(ended, self._limiter.in_flight + self._left + more)
        if not self._replica:
            return part

        def instant(at: float) -> int:
            return now + floor((at - steady) * 1000)

        return Spending(
            part.ended,
            part.open,
            until=instant(steady + _LEASE_S),
            at=now,
            sent=self.sent,
            waiting=self.waiting(),
            polls=self.polls_waiting,
            paused_until=instant(self._limiter.blocked_until) if self._limiter.blocked_until > steady else 0,
            told=[(limit, window_s, instant(until)) for limit, window_s, until in self._limiter.told()],
        )

    def _learn(self, found: bytes | None) -> None:
        """Count what others have spent, and hold to what they were told."""
        now, steady = self._clock.now(), self._clock.monotonic()
        before, parts = self._others, decode(found, now)
        parts.pop(self._replica, None)
        self._stored, self._looked_at = found, steady
        self._others = parts
        ended = (one for part in self._others.values() for one in part.counted())
        self._limiter.count_others((steady + (at - now) / 1000, count) for at, count in ended)
        for name, part in self._others.items():
            if part.paused_until > now:
                self._limiter.block(steady + (part.paused_until - now) / 1000)
            for limit, window_s, until in part.told:
                self._limiter.tighten(limit, window_s, steady, steady + (until - now) / 1000)
            sent = part.sent - before[name].sent if name in before else part.sent
            self.hear(sent, part.polls)

    async def look(self) -> None:
        """See what others leave, and let them know who waits here; twice a second at most. Raises StoreError."""
        if not self._replica or self._clock.monotonic() < self._look_at():
            return
        async with self._saving:
            self._looked_at = self._clock.monotonic()
            if self.waiting() and not self._told.waiting:
                await self._tell()
            else:
                self._learn(await self._load())

    @property
    def looks_in_s(self) -> float:
        """When a look may find a place that others have left; infinite where there are no others."""
        return max(self._look_at() - self._clock.monotonic(), 0.001) if self._others else inf

    def _look_at(self) -> float:
        return self._looked_at + self._look_s

    @property
    def _look_s(self) -> float:
        rate_per_s = self._limiter.rate_per_s
        return _LOOK_S[1] if rate_per_s == inf else min(max(1 / rate_per_s, _LOOK_S[0]), _LOOK_S[1])

    def waiting_elsewhere(self) -> int:
        """Return how many clients' requests wait at other replicas."""
        now = self._clock.now() if self._others else 0
        return sum(part.waiting for part in self._others.values() if part.is_fresh(now))

    def polls_wait_elsewhere(self) -> bool:
        """Whether more polls are due at another replica than may be sent."""
        now = self._clock.now() if self._others else 0
        return any(part.polls and part.is_fresh(now) for part in self._others.values())

    async def _tell(self) -> None:
        while not await self._store(0):
            self._learn(await self._load())

    def tell_soon(self) -> None:
        """Let others know what the upstream has said just now."""
        if self._replica:
            self._news.set()
            self._tend_soon()

    def _tend_soon(self) -> None:
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend(), name="budget-tend")

    async def _tend(self) -> None:
        """Keep what others know of this replica true, and give back what is not used, until nothing is open."""
        while self._news.is_set() or self._told.open or self._told.waiting:
            others_want = self.waiting_elsewhere() or self.polls_wait_elsewhere()
            idle_s = self._look_s if others_want else _IDLE_S
            await wait_for_event(self._news, idle_s)
            try:
                async with self._saving:
                    await self._tend_once(idle_s)
            except StoreError:  # after a while others count what is open as ended, and it may not be sent
                await asyncio.sleep(_IDLE_S)

    async def _tend_once(self, idle_s: float) -> None:
        steady = self._clock.monotonic()
        if is_idle := steady >= self._used_at + idle_s:
            self._left = 0
        waits = self.waiting()
        lapsed = self._told.open > self._limiter.in_flight + self._left or self._told.waiting > waits
        late = steady >= self._told_at + (_IDLE_S if waits else _REFRESH_S)
        if (news := self._news.is_set()) or (is_idle and lapsed) or late:
            self._news.clear()
            try:
                await self._tell()
            except StoreError:
                if news:
                    self._news.set()
                raise
