"""The requests of one kind that a key may make: polls and clients' reads, or creates.

Owns the count, and who is next: the polls, or one of the clients, which take turns. Sends nothing.
``gateway.loops.poller`` and ``gateway.api.proxy`` spend from it; ``gateway.upstream.key`` pauses it.

What is spent outlives the process, and is shared with other replicas: ``reservations``. So are turns: a replica whose
polls want more than there is leaves places to reads that wait elsewhere.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from gateway.core.clock import Clock, wait_for_event
from gateway.core.ratelimit import RateLimiter, RateWindow
from gateway.upstream.reservations import Load, Reservations, Swap
from gateway.upstream.spending import ALONE
from gateway.upstream.turns import ClientTurns, Waiter

__all__ = ["Budget"]

_POLLS_PER_READ = 3  # while clients' reads wait for their turn, every fourth request is one of them
_READ_TURN_S = 0.1  # how long a read waits for the polls to take their share of a place, before it looks again
_TRAVEL_S = 1.0
"""So much later than it was given up the upstream may count a request: what was sent is not taken back."""
_UNANSWERED_S = 10.0
"""When to come again while every place is held by a request that the upstream has not answered."""


class Budget:
    """The requests of one kind that a key may make; ``swap`` keeps what must outlive the process, ``load`` has it."""

    def __init__(
        self, windows: Sequence[RateWindow], clock: Clock, load: Load, swap: Swap, replica: str = ALONE
    ) -> None:
        """``replica``: the name of this process, of those that spend from the key; where it is alone it has none."""
        self._limiter = RateLimiter(windows)
        self._clock = clock
        self._reservations = Reservations(windows, self._limiter, clock, load, swap, replica)
        self._reservations.waiting = lambda: self._turns.waiting
        self._reservations.hear = self._heard
        self._turns = ClientTurns()
        self._polls_since_read = 0
        self._changed = asyncio.Event()

    async def restore(self) -> None:
        """Count what an earlier process sent, and what it may have sent as late as now. Raises StoreError."""
        await self._reservations.restore()

    async def close(self) -> None:
        """Leave to other replicas what was reserved and not sent. Raises StoreError."""
        await self._reservations.close()

    async def look(self) -> None:
        """See what other replicas leave, where that is not known; twice a second at most. Raises StoreError."""
        await self._reservations.look()

    @property
    def looks_in_s(self) -> float:
        """When a look may find a place that others have left; infinite where there are no others."""
        return self._reservations.looks_in_s

    @property
    def polls_waiting(self) -> bool:
        """Whether more polls are due here than may be sent; the poller says so."""
        return self._reservations.polls_waiting

    @polls_waiting.setter
    def polls_waiting(self, waiting: bool) -> None:
        self._reservations.polls_waiting = waiting

    @property
    def rate_per_s(self) -> float:
        """How many requests the limits in force allow in the long run."""
        return self._limiter.rate_per_s

    @property
    def limited(self) -> bool:
        """Whether a lower limit than the configured ones is in force, which the upstream has named."""
        return self._limiter.limited(self._clock.monotonic())

    @property
    def told_to_wait(self) -> bool:
        """Whether the upstream has asked for a pause that is not over."""
        return self._clock.monotonic() < self._limiter.blocked_until

    def used(self) -> float:
        """Return which part of the limits in force is used up, from 0 to 1."""
        return self._limiter.used(self._clock.monotonic())

    def available(self) -> int:
        """Return how many requests may be sent now."""
        return self._limiter.available(self._clock.monotonic())

    def available_for_polls(self) -> int:
        """Return the same for polls, which leave a share to clients' reads while those wait."""
        available = self.available()
        return available - min(self._reads_waiting(), self._share_of_reads(available))

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
        """Return places that were taken and not used; ``waiter`` as in ``sending``."""
        self._limiter.cancel(count)
        self._changed.set()
        if waiter is not None:
            self._turns.ended(waiter)

    def polls_sent(self, count: int) -> None:
        """Note that places went to polls: after so many of them a read's turn comes."""
        # Bounded: reads that nobody waited for are not made up for later.
        owed = max(self._reads_waiting(), 1)
        self._polls_since_read = min(self._polls_since_read + count, owed * _POLLS_PER_READ)
        self._changed.set()

    async def reserve(self, count: int) -> int:
        """Make requests that were taken survive a crash as sent; return how many of them may be sent.

        That is fewer where other replicas have taken the places meanwhile. Raises StoreError: then none may be sent.
        """
        return await self._reservations.reserve(count)

    def _heard(self, count: int, polls: bool) -> None:
        """Hear what another replica has sent: its polls count for whose turn it is here, and its reads had theirs."""
        if polls:
            self.polls_sent(count)
        else:
            self._polls_since_read = max(self._polls_since_read - count * _POLLS_PER_READ, 0)
            self._changed.set()

    def sending(
        self, waiter: Waiter | None = None, freed: Callable[[], object] = lambda: None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Send a request in a place that was taken, until the block ends; ``freed`` is called when the place is free.

        The block is to call what it is given when the head of the answer has come: from then on the other side has
        counted the request, and what it still waits for, as for room in memory, holds no place in the rate limit.
        Without that the block's end counts.

        ``waiter``: a client's, as it was acquired; its turn is under way until the block ends. Where the block is
        cancelled before an answer the request may be on its way all the same, and holds its place for a second longer.
        """
        return _Sending(self, waiter, freed)

    def sent(self, waiter: Waiter | None) -> None:
        """Hear that the block has ended."""
        self._reservations.sent += 1
        if waiter is not None:
            self._turns.ended(waiter)

    def end_late(self, freed: Callable[[], object]) -> None:
        """As ``end``, for a request that was given up before an answer came."""
        asyncio.get_running_loop().call_later(_TRAVEL_S, self.end, freed)

    def end(self, freed: Callable[[], object]) -> None:
        """Count a request as answered now, for a window's length more."""
        self._limiter.end(self._clock.monotonic())
        self._changed.set()
        freed()

    def block(self, pause_s: float) -> None:
        """Send nothing for so long: the upstream asks for it, of all replicas."""
        self._limiter.block(self._clock.monotonic() + pause_s)
        self._reservations.tell_soon()

    def hold(self, pause_s: float) -> float:
        """Send nothing for so long either, counted anew with each call; return until when, by the steady clock."""
        until = self._clock.monotonic() + pause_s
        self._limiter.hold(until)
        self._changed.set()
        return until

    def tighten(self, limit: int, window_s: float) -> bool:
        """Adopt a limit that the upstream names, where it is lower than those in force; return whether that is news."""
        self._reservations.tell_soon()
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

    async def acquire_now(self, waiter: Waiter) -> bool:
        """Count a client's request where it is its turn and there is a place; return whether. Raises StoreError."""
        free = self._turns.free(waiter.client) and self._available_for_reads() > 0
        return free and await self.acquire(0.0, waiter) is None

    def join(self, waiter: Waiter, client: str) -> None:
        """Let another client wait for the same request, which counts for the one whose turn comes first."""
        self._turns.join(waiter, client)

    async def _acquire(self, deadline: float) -> float | None:
        while not await self._take_one():
            if self._available_for_reads() <= 0:
                await self.look()
            wait_s = self.next_available_s()
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0 or (wait_s is not None and wait_s > left_s):
                return self._come_again_s()
            self._changed.clear()
            # A place that is free and not ours is the polls': they say when they have taken it.
            pause_s = left_s if wait_s is None else max(wait_s, _READ_TURN_S if self.available() else 0.001)
            await wait_for_event(self._changed, min(pause_s, left_s, self.looks_in_s))
        return None

    async def _take_one(self) -> bool:
        if self._available_for_reads() <= 0:
            return False
        self.take(1)
        granted = 0
        try:
            granted = await self.reserve(1)
        finally:
            if not granted:
                self.give_back(1)
        self._polls_since_read = max(self._polls_since_read - granted * _POLLS_PER_READ, 0)
        return granted > 0

    def _available_for_reads(self) -> int:
        available = self.available()
        return min(available, self._share_of_reads(available)) if self._polls_wait() else available

    def _polls_wait(self) -> bool:
        return self.polls_waiting or self._reservations.polls_wait_elsewhere()

    def _reads_waiting(self) -> int:
        return self._turns.waiting + self._reservations.waiting_elsewhere()

    def _share_of_reads(self, available: int) -> int:
        return (available + self._polls_since_read) // (_POLLS_PER_READ + 1)

    def _come_again_s(self) -> float:
        wait_s = self.next_available_s()
        # None: all places are requests without an answer yet, and nobody knows when one comes.
        return _UNANSWERED_S if wait_s is None else max(wait_s, 1.0)


class _Sending:
    """The block in which a request is sent: a class, as each of a generator's two halves takes three calls."""

    __slots__ = ("_answered", "_budget", "_freed", "_waiter")

    def __init__(self, budget: Budget, waiter: Waiter | None, freed: Callable[[], object]) -> None:
        self._budget = budget
        self._waiter = waiter
        self._freed = freed
        self._answered = False

    def __enter__(self) -> Callable[[], None]:
        return self._answer

    def _answer(self) -> None:
        if not self._answered:
            self._answered = True
            self._budget.end(self._freed)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._budget.sent(self._waiter)
        if kind is not None and issubclass(kind, asyncio.CancelledError) and not self._answered:
            self._budget.end_late(self._freed)
        else:
            self._answer()
