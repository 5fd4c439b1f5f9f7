"""Lets everything that is due follow a wall clock that was set, before any loop asks what is due.

Owns when that happens: between the loops' rounds, with none of them in the middle of one, before the first and after
the last. What follows is for the store to say, and what counts as a step for ``FollowingClock``. Called by the
supervisor around each round, and by the wiring at the start and at the end.

Without it a clock that is set back an hour (or a virtual machine that wakes up) stops every poll and retry for that
hour, and one that is set forward ends callbacks whose time has not passed.
"""

import asyncio

import structlog

from gateway.core.clock import STEP_MS, FollowingClock, wait_for_event
from gateway.core.errors import StoreError
from gateway.store import Housekeeping

_log = structlog.get_logger()

_LET_FINISH_S = 5.0
"""For how long rounds that have begun are waited for: one that hangs must not hold up the other loops."""


class ClockSteps:
    """What stands around the loops' rounds."""

    def __init__(self, housekeeping: Housekeeping, clock: FollowingClock) -> None:
        self._housekeeping = housekeeping
        self._clock = clock
        self._following = asyncio.Lock()
        self._rounds = 0
        self._none_runs = asyncio.Event()
        self._none_runs.set()

    async def catch_up(self) -> None:
        """Follow a clock that was set back while no gateway ran, before anything is due. Raises StoreError.

        One that was set forward looks like a gateway that was down for longer.
        """
        if (back_ms := self._housekeeping.set_back_ms) > STEP_MS:
            await self._housekeeping.follow_clock(-back_ms)
            _log.warning("clock.stepped", by_s=-back_ms / 1000)

    async def finish(self) -> None:
        """Follow a clock that was set since the last round, once the loops have ended. Raises StoreError.

        The next start could not tell: what is written from now on has the new time.
        """
        await self.begin_round()
        self.end_round()

    async def begin_round(self) -> None:
        """Begin a round, once all has followed the clock. Raises StoreError: it has not."""
        if self._following.locked() or self._clock.step_ms():
            async with self._following:
                await self._follow()
        self._rounds += 1
        self._none_runs.clear()

    def end_round(self) -> None:
        """End a round that was begun."""
        self._rounds -= 1
        if self._rounds == 0:
            self._none_runs.set()

    async def _follow(self) -> None:
        await wait_for_event(self._none_runs, _LET_FINISH_S)
        step_ms = self._clock.step_ms()
        if step_ms == 0:
            return
        # In this order, and with nothing between them: what is written before has the old time, and moves; what is
        # written after has the new one, and does not.
        self._clock.follow(step_ms)
        try:
            await self._housekeeping.follow_clock(step_ms)
        except StoreError:
            self._clock.follow(-step_ms)
            raise
        _log.warning("clock.stepped", by_s=step_ms / 1000)
