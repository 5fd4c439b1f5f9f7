"""The time of a world with several processes, each with an event loop of its own, which stands still in a pause.

Owns who runs next, and when the time goes on: at once to the next timer, as soon as nobody that runs has anything to do
at this instant, and the database has answered. Which of several runs first is drawn.
"""

import asyncio
import heapq
import random
import selectors
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["ProcessLoop", "Time"]

T = TypeVar("T")

_TURNS_PER_INSTANT = 200_000
"""A world that turns so often without time passing will do so for ever."""


class _NoSockets(selectors.SelectSelector):
    """Stands where a loop would sleep: looks at no socket, and returns at once."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []


class ProcessLoop(asyncio.SelectorEventLoop):
    """The event loop of one process."""

    def __init__(self, time: "Time") -> None:
        self._time = time
        self.paused = False
        super().__init__(_NoSockets())

    def time(self) -> float:
        return self._time.now_s

    @property
    def next_at(self) -> float | None:
        """When it has something to do; None: never, by itself."""
        # What the base class does before it waits.
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        if self._ready:  # type: ignore[attr-defined]
            return self._time.now_s
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(timers)._scheduled = False
        return timers[0]._when if timers else None

    def turn(self) -> None:
        """Run what is ready now, once."""
        self._thread_id = threading.get_ident()
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)
            self._thread_id = None


class Time:
    """The time of one world, and its processes."""

    def __init__(self, rng: random.Random) -> None:
        self.now_s = 0.0
        self.rng = rng
        self.loops: list[ProcessLoop] = []
        self.work: deque[Callable[[], None]] = deque()
        """What is to be done at this instant, outside of all loops: the database's."""
        self.steps = 0

    def loop(self) -> ProcessLoop:
        """Return the loop of one more process."""
        self.loops.append(ProcessLoop(self))
        return self.loops[-1]

    def run(self, loop: ProcessLoop, main: Coroutine[Any, Any, T]) -> T:
        """Run all of them until ``main`` has ended, in that loop."""
        task = loop.create_task(main)
        turns, before_s = 0, -1.0
        while not task.done():
            turns = turns + 1 if self.now_s == before_s else 0
            before_s = self.now_s
            if turns > _TURNS_PER_INSTANT:
                raise RuntimeError("the time stands still: something comes round and round without a pause")
            self._step()
        return task.result()

    def _step(self) -> None:
        self.steps += 1
        self.finish()
        awake = [(loop.next_at, loop) for loop in self.loops if not loop.paused]
        nexts = [(at, loop) for at, loop in awake if at is not None]
        if not nexts:
            raise RuntimeError("everything waits, and no timer is set: this would hang for ever")
        now = [loop for at, loop in nexts if at <= self.now_s]
        if now:
            (now[0] if len(now) == 1 else self.rng.choice(now)).turn()
        else:
            self.now_s = min(at for at, _ in nexts)

    def finish(self) -> None:
        """Do what is to be done at this instant."""
        while self.work:
            self.work.popleft()()

    def end(self, loop: ProcessLoop) -> None:
        """End one process: what is left in it is cancelled until it is gone."""
        loop.paused = False
        for _ in range(50):
            left = asyncio.all_tasks(loop)
            if not left:
                break
            for task in left:
                task.cancel()  # more than once: what cleans up after itself is not to get far
            for _ in range(3):
                loop.turn()
        if loop in self.loops:
            self.loops.remove(loop)
        loop.close()
