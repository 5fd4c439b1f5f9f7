"""The requests of one kind that a key may make: polls and clients' reads, or creates.

Owns the count, and who is next: the polls, or one of the clients, which take turns. Sends nothing.
``gateway.loops.poller`` and ``gateway.api.proxy`` spend from it; ``gateway.upstream.key`` pauses it.

A restart must not forget what was spent. So requests are reserved durably before they are sent, some at a time, with
what has ended and what is in flight by then; the next ones while some are left, so that few requests wait for that.
After a start, whatever is not known to have ended counts as sent just then: even a gateway that is killed exceeds no
window. What another process has stored as spent counts here too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import floor

import msgspec

from gateway.core.clock import Clock, wait_for_event
from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateLimiter, RateWindow
from gateway.upstream.turns import ClientTurns, Waiter

__all__ = ["Budget", "Load", "Swap"]

_CHUNKS = 20  # reservations per longest window at most: so many more writes, and at most 3/40 of it lost to a crash
_POLLS_PER_READ = 3  # while clients' reads wait for their turn, every fourth request is one of them
_READ_TURN_S = 0.1  # how long a read waits for the polls to take their share of a place, before it looks again
_UNANSWERED_S = 10.0
"""When to come again while every place is held by a request that the upstream has not answered."""

Load = Callable[[], Awaitable[bytes | None]]
Swap = Callable[[bytes | None, bytes], Awaitable[bool]]
"""Get a small durable value, and put another in the place of the one that was there."""


class _Spent(msgspec.Struct, frozen=True):
    """What outlives the process: when (ms) how many requests ended, and how many more may have been sent since."""

    ended: list[tuple[int, int]]
    open: int


class Budget:
    """The requests of one kind that a key may make; ``swap`` keeps what must outlive the process, ``load`` has it."""

    def __init__(self, windows: Sequence[RateWindow], clock: Clock, load: Load, swap: Swap) -> None:
        self._load = load
        self._limiter = RateLimiter(windows)
        self._clock = clock
        self._swap = swap
        longest = max(windows, key=lambda window: window.window_s, default=RateWindow(0, 0.0))
        self._longest_ms = round(longest.window_s * 1000)
        self._chunk = max(1, longest.limit // _CHUNKS) if windows else 0
        self._stored: bytes | None = None  # as far as this process knows
        self._left = 0  # reserved, and not sent yet
        self._reserving = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._ahead: asyncio.Task[None] | None = None  # kept from the garbage collector
        self._turns = ClientTurns()
        self._polls_since_read = 0
        self._changed = asyncio.Event()
        self.polls_waiting = False
        """Whether more polls are due than may be sent; the poller says so."""

    async def restore(self) -> None:
        """Count what an earlier process sent, and what it may have sent as late as now. Raises StoreError."""
        self._stored = await self._load()
        if self._stored is None:
            return
        spent = msgspec.json.decode(self._stored, type=_Spent)
        now, steady = self._clock.now(), self._clock.monotonic()
        for at, count in spent.ended:
            self._limiter.restore(count, steady - max(0, now - at) / 1000)
        self._limiter.restore(spent.open, steady)

    @property
    def rate_per_s(self) -> float:
        """How many requests the limits in force allow in the long run."""
        return self._limiter.rate_per_s

    @property
    def limited(self) -> bool:
        """Whether a lower limit than the configured ones is in force, which the upstream has named."""
        return self._limiter.limited(self._clock.monotonic())

    def used(self) -> float:
        """Return which part of the limits in force is used up, from 0 to 1."""
        return self._limiter.used(self._clock.monotonic())

    def available(self) -> int:
        """Return how many requests may be sent now."""
        return self._limiter.available(self._clock.monotonic())

    def available_for_polls(self) -> int:
        """Return the same for polls, which leave a share to clients' reads while those wait."""
        available = self.available()
        return available - min(self._turns.waiting, self._share_of_reads(available))

    def available_in_pause(self) -> bool:
        """Whether a request could be sent now but for our own hold."""
        return self._limiter.available(self._clock.monotonic(), held=False) > 0

    def next_available_s(self) -> float | None:
        """Return in how many seconds a request may be sent; None: not before one in flight has ended."""
        steady = self._clock.monotonic()
        at = self._limiter.next_available(steady)
        return None if at is None else max(at - steady, 0.0)

    def take(self, count: int) -> None:
        """Count requests as sent from now on: nobody else gets their places while the caller prepares them."""
        self._limiter.start(count)

    def give_back(self, count: int, waiter: Waiter | None = None) -> None:
        """Return places that were taken and not used; ``waiter`` as in ``end``."""
        self._limiter.cancel(count)
        self._changed.set()
        if waiter is not None:
            self._turns.ended(waiter)

    def polls_sent(self, count: int) -> None:
        """Note that places went to polls: after so many of them a read's turn comes."""
        # Bounded: reads that nobody waited for are not made up for later.
        owed = max(self._turns.waiting, 1)
        self._polls_since_read = min(self._polls_since_read + count, owed * _POLLS_PER_READ)
        self._changed.set()

    async def reserve(self, count: int) -> None:
        """Make requests that were taken survive a crash as sent. Raises StoreError: then they may not be sent."""
        if self._chunk == 0 or count == 0:
            return
        async with self._reserving:
            if count > self._left:
                async with self._saving:
                    if count > self._left:
                        await self._save(max(self._chunk, count), count)
            self._left -= count
            if 0 < self._left < self._chunk // 2 and not self._saving.locked():
                self._ahead = asyncio.create_task(self._reserve_ahead(), name="reserve-ahead")

    async def _reserve_ahead(self) -> None:
        with suppress(StoreError):  # whoever needs the next place finds out
            async with self._saving:
                if self._left < self._chunk // 2:
                    await self._save(self._chunk, 0)

    async def _save(self, more: int, taken: int) -> None:
        """Make so many more survive a crash, of which ``taken`` count as sent by now."""
        while not await self._store(more - taken):
            await self._count_others()
        self._left += more

    async def _store(self, more: int) -> bool:
        """Store what is spent, with so many more places; return False where another process has stored something."""
        now, steady = self._clock.now(), self._clock.monotonic()
        # One more millisecond, because the wall clock was rounded down.
        ended = [(now + 1 - floor((steady - at) * 1000), n) for at, n in self._limiter.spent(steady)]
        # In flight are also those for which this is called: they are what is left and a part of the new ones. Who takes
        # of what is left meanwhile has been counted with it.
        value = msgspec.json.encode(_Spent(ended, self._limiter.in_flight + self._left + more))
        try:
            stored = await self._swap(self._stored, value)
        except asyncio.CancelledError:
            self._stored = value  # it is written all the same
            raise
        if stored:
            self._stored = value
        return stored

    async def _count_others(self) -> None:
        """Count what another process has spent since ours was stored; when is not known: as late as now."""
        found = await self._load()
        for _ in range(self._spent(found) - self._spent(self._stored)):
            self._limiter.start()
            self._limiter.end(self._clock.monotonic())
        self._stored = found

    def _spent(self, stored: bytes | None) -> int:
        if stored is None:
            return 0
        spent = msgspec.json.decode(stored, type=_Spent)
        since = self._clock.now() - self._longest_ms
        return spent.open + sum(count for at, count in spent.ended if at > since)

    def end(self, waiter: Waiter | None = None) -> None:
        """Say that a request has been answered, or has failed; ``waiter``: a client's, as it was acquired."""
        self._limiter.end(self._clock.monotonic())
        self._changed.set()
        if waiter is not None:
            self._turns.ended(waiter)

    def block(self, pause_s: float) -> None:
        """Send nothing for so long."""
        self._limiter.block(self._clock.monotonic() + pause_s)

    def hold(self, pause_s: float) -> float:
        """Send nothing for so long either, counted anew with each call; return until when, by the steady clock."""
        until = self._clock.monotonic() + pause_s
        self._limiter.hold(until)
        self._changed.set()
        return until

    def tighten(self, limit: int, window_s: float) -> bool:
        """Adopt a limit that the upstream names, where it is lower than those in force; return whether that is news."""
        return self._limiter.tighten(limit, window_s, self._clock.monotonic())

    async def acquire(self, timeout_s: float, waiter: Waiter) -> float | None:
        """Wait for a client's turn and count its request; or return in how many seconds to come again.

        Clients take turns, and one client's requests come in the order of their calls. Raises StoreError.
        """
        deadline = self._clock.monotonic() + timeout_s
        if not self._turns.room(waiter.client):
            return self._come_again_s()
        try:
            async with asyncio.timeout(timeout_s):
                await self._turns.begin(waiter)
        except TimeoutError:
            return self._come_again_s()
        took = False
        try:
            wait_s = await self._acquire(deadline)
            took = wait_s is None
            return wait_s
        finally:
            self._turns.end(waiter, took=took)

    def join(self, waiter: Waiter, client: str) -> None:
        """Let another client wait for the same request, which counts for the one whose turn comes first."""
        self._turns.join(waiter, client)

    async def _acquire(self, deadline: float) -> float | None:
        while self._available_for_reads() <= 0:
            wait_s = self.next_available_s()
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0 or (wait_s is not None and wait_s > left_s):
                return self._come_again_s()
            self._changed.clear()
            # A place that is free and not ours is the polls': they say when they have taken it.
            pause_s = left_s if wait_s is None else max(wait_s, _READ_TURN_S if self.available() else 0.001)
            await wait_for_event(self._changed, min(pause_s, left_s))
        self.take(1)
        self._polls_since_read = max(self._polls_since_read - _POLLS_PER_READ, 0)
        try:
            await self.reserve(1)
        except BaseException:
            self.give_back(1)
            raise
        return None

    def _available_for_reads(self) -> int:
        available = self.available()
        return min(available, self._share_of_reads(available)) if self.polls_waiting else available

    def _share_of_reads(self, available: int) -> int:
        return (available + self._polls_since_read) // (_POLLS_PER_READ + 1)

    def _come_again_s(self) -> float:
        wait_s = self.next_available_s()
        # None: all places are requests without an answer yet, and nobody knows when one comes.
        return _UNANSWERED_S if wait_s is None else max(wait_s, 1.0)
