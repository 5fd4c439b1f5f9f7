"""The asyncio tasks that a loop has in flight: named, bounded, drained.

Owns nothing but the set. Used by the poller and the deliverer.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger()

_GATHER_S = 0.003  # a claim costs a journey to the database, whether it is for one place or for twenty
_STARTED_A_TURN = 64
"""The first step of an attempt takes a fifth of a millisecond: of 256 that a claim brings, others waited for 50. What
begins together is stored together: with 32 the database's thread was woken half as often again, and a life cost a
tenth more."""


class InFlight:
    """At most ``limit`` running coroutines; ``wake`` is set soon after one ends while there was no room for another."""

    def __init__(self, limit: int, wake: asyncio.Event) -> None:
        self._limit = limit
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._aside: set[asyncio.Task[None]] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._started = 0  # in this turn of the event loop

    @property
    def count(self) -> int:
        """How many run."""
        return len(self._tasks)

    @property
    def idle(self) -> bool:
        """Whether none runs, and none has stepped aside."""
        return not self._tasks and not self._aside

    @property
    def free(self) -> int:
        """How many more may start."""
        return self._limit - len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if not self._started:
            asyncio.get_running_loop().call_soon(self._new_turn)
        turns = self._started // _STARTED_A_TURN
        self._started += 1
        task = asyncio.create_task(_after(turns, work) if turns else work, name=name)
        if turns:
            task.add_done_callback(lambda _: work.close())  # where it was cancelled before
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _new_turn(self) -> None:
        self._started = 0

    def step_aside(self) -> bool:
        """Let what asks go on without its place, as it only waits; return False where ``limit`` do so already.

        It is drained like the others.
        """
        task = asyncio.current_task()
        if task in self._tasks and len(self._aside) < self._limit:
            self._tasks.remove(task)
            self._aside.add(task)
            self.wake_soon()  # somebody may wait for its place
        return task in self._aside

    def wake_soon(self) -> None:
        """Set ``wake`` within milliseconds: many places that become free one by one are filled together."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(_GATHER_S, self._wake_now)

    async def drain(self, timeout_s: float) -> None:
        """Wait ``timeout_s`` seconds for what runs, cancel what is left, and return when all of it has ended.

        Work that has not begun by then takes no step any more, so it gives nothing back: claims end as after a kill.
        """
        if not (running := self._tasks | self._aside):
            return
        _, late = await asyncio.wait(running, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _ended(self, task: asyncio.Task[None]) -> None:
        was_full = len(self._tasks) == self._limit
        self._tasks.discard(task)
        if self._aside:
            self._aside.discard(task)
        if was_full:
            self.wake_soon()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Claims are given back by the work itself; this is a defect, and must be seen.
            _log.error("inflight.failed", task=task.get_name(), exc_info=error)

    def _wake_now(self) -> None:
        self._waking = None
        self._wake.set()


async def _after(turns: int, work: Coroutine[Any, Any, None]) -> None:
    """Do it some turns of the event loop later."""
    for _ in range(turns):
        await asyncio.sleep(0)
    await work
