"""The loops' lives: started, restarted with backoff, watched, drained. Time is the event loop's own, and jumps."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from gateway.core.errors import StoreError
from gateway.core.telemetry import Metrics
from gateway.loops import supervisor as module
from gateway.loops.supervisor import HEARTBEAT_S, Supervisor

T = TypeVar("T")
NEVER = 1e9


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait for a timer: moves the time to it."""

    elapsed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits, and nothing will ever happen")
        if not ready and timeout is not None:
            self.elapsed_s += max(0.0, timeout)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while all wait, and then at once."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed_s


class LoopClock:
    """The event loop's time as the gateway's clock."""

    def now(self) -> int:
        return round(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Script:
    """A loop that does what its script says: numbers are returned, errors raised, None hangs. The last one repeats."""

    def __init__(self, name: str, *script: float | Exception | None) -> None:
        self.name = name
        self.rounds_at: list[float] = []
        self.waits_s: list[float] = []
        self.drained_with_s: list[float] = []
        self.cancelled = False
        self._script = list(script)

    async def run_once(self) -> float:
        self.rounds_at.append(asyncio.get_running_loop().time())
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if step is None:
            try:
                await asyncio.sleep(NEVER)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if isinstance(step, Exception):
            raise step
        assert step is not None
        return step

    async def wait(self, timeout_s: float) -> None:
        self.waits_s.append(timeout_s)
        await asyncio.sleep(timeout_s)

    async def drain(self, timeout_s: float) -> None:
        self.drained_with_s.append(timeout_s)


class Quiet:
    """Takes the log lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def exception(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = error = exception


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Quiet:
    quiet = Quiet()
    monkeypatch.setattr(module, "_log", quiet)
    return quiet


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine in jumping time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(test)


def supervise(*loops: Script, metrics: Metrics | None = None) -> Supervisor:
    return Supervisor(loops, LoopClock(), metrics or Metrics())


async def until(at: float) -> None:
    """Let the time pass up to an instant, and all that is due before it happen."""
    await asyncio.sleep(at - asyncio.get_running_loop().time())


def restarts(registry: CollectorRegistry, loop: str) -> float | None:
    return registry.get_sample_value("gateway_loop_restarts_total", {"loop": loop})


def test_each_loop_comes_round_when_it_asked_to() -> None:
    """Loops run side by side, each again after the seconds that it returned."""

    async def test() -> None:
        fast, slow = Script("fast", 1.0), Script("slow", 4.0)
        supervisor = supervise(fast, slow)
        supervisor.start()
        await until(8.5)
        assert fast.rounds_at == [0, 1, 2, 3, 4, 5, 6, 7, 8]
        assert slow.rounds_at == [0, 4, 8]
        await supervisor.drain(0)

    run(test())


def test_an_idle_loop_still_gives_a_sign_of_life() -> None:
    """A loop with nothing to do for long comes round at every heartbeat, and so stays healthy for ever."""

    async def test() -> None:
        idle = Script("idle", 86_400.0)
        supervisor = supervise(idle)
        supervisor.start()
        for hour in range(1, 4):
            await until(hour * 3600 + 9.9)
            assert supervisor.problem() is None
        assert set(idle.waits_s) == {HEARTBEAT_S}
        assert idle.rounds_at[:3] == [0, HEARTBEAT_S, 2 * HEARTBEAT_S]
        await supervisor.drain(0)

    run(test())


def test_a_failing_loop_is_restarted_ever_more_slowly() -> None:
    """The pauses before a restart double from half a second up to 30 s, and no further."""

    async def test() -> None:
        failing = Script("failing", ValueError("broken"))
        supervisor = supervise(failing)
        supervisor.start()
        await until(130)
        assert failing.rounds_at == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5, 121.5]
        assert failing.waits_s == []
        await supervisor.drain(0)

    run(test())


def test_a_success_forgets_the_failures() -> None:
    """After a good round the gateway is healthy again, and the next failure starts with the shortest pause."""

    async def test() -> None:
        loop = Script("loop", ValueError("a"), ValueError("b"), 1.0, ValueError("c"), NEVER)
        supervisor = supervise(loop)
        supervisor.start()
        await until(1.4)
        assert supervisor.problem() == "the loop keeps failing"
        await until(2.4)
        assert supervisor.problem() is None
        await until(2.9)
        assert supervisor.problem() == "the loop keeps failing"
        await until(3.1)
        assert supervisor.problem() is None
        assert loop.rounds_at == [0, 0.5, 1.5, 2.5, 3.0]
        await supervisor.drain(0)

    run(test())


def test_a_failing_store_is_tried_again_and_is_nobodys_defect() -> None:
    """The pauses double up to 5 s and start anew after a good round; the loop is not called failing, nor counted."""

    async def test() -> None:
        metrics = Metrics()
        loop = Script("loop", *[StoreError("disk full")] * 6, 1.0, StoreError("disk full"), NEVER)
        supervisor = supervise(loop, metrics=metrics)
        supervisor.start()
        for at in (0.25, 9.0, 17.0):
            await until(at)
            assert supervisor.problem() is None
        await until(20)
        assert loop.rounds_at == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 18.5, 19.0]
        assert restarts(metrics.registry, "loop") == 0
        await supervisor.drain(0)

    run(test())


def test_a_drain_that_fails_does_not_keep_the_others_from_theirs(log: Quiet) -> None:
    """It is logged under its loop's name; those that drain well are not."""

    class BadDrain(Script):
        async def drain(self, timeout_s: float) -> None:
            await super().drain(timeout_s)
            raise OSError("no drain")

    async def test() -> None:
        loops = [Script("first", 1.0), BadDrain("bad", 1.0), Script("last", 1.0)]
        supervisor = supervise(*loops)
        supervisor.start()
        await until(0.5)
        await supervisor.drain(3.0)
        assert [loop.drained_with_s for loop in loops] == [[3.0]] * 3

    run(test())
    assert [(event, fields["loop"]) for event, fields in log.lines] == [("loop.drain_failed", "bad")]


def test_a_failing_loop_does_not_disturb_the_others() -> None:
    """One loop's failure is its own: the others come round as before, and the report names the failing one."""

    async def test() -> None:
        good, failing = Script("good", 1.0), Script("failing", RuntimeError())
        supervisor = supervise(good, failing)
        supervisor.start()
        await until(5.5)
        assert good.rounds_at == [0, 1, 2, 3, 4, 5]
        assert supervisor.problem() == "the failing keeps failing"
        await supervisor.drain(0)

    run(test())


def test_a_wait_that_fails_is_a_failure_of_its_loop() -> None:
    """A loop whose waiting fails is restarted like any other; it does not die unseen."""

    class BadWait(Script):
        async def wait(self, timeout_s: float) -> None:
            await super().wait(0)
            raise OSError("no wait")

    async def test() -> None:
        loop = BadWait("loop", 1.0)
        supervisor = supervise(loop)
        supervisor.start()
        await until(0.4)
        assert supervisor.problem() == "the loop keeps failing"
        await until(0.6)
        assert loop.rounds_at == [0, 0.5]
        await supervisor.drain(0)

    run(test())


def test_restarts_are_counted_and_logged(log: Quiet) -> None:
    """Every restart is counted under its loop's name, from 0 on, and leaves one line that says when it comes."""

    async def test() -> None:
        metrics = Metrics()
        supervisor = supervise(Script("good", 1.0), Script("failing", ValueError("broken")), metrics=metrics)
        supervisor.start()
        assert restarts(metrics.registry, "failing") == 0
        await until(2)
        assert restarts(metrics.registry, "failing") == 3
        assert restarts(metrics.registry, "good") == 0
        await supervisor.drain(0)

    run(test())
    assert [event for event, _ in log.lines] == ["loop.failed"] * 3
    assert [fields["restart_in_s"] for _, fields in log.lines] == [0.5, 1.0, 2.0]
    assert {fields["loop"] for _, fields in log.lines} == {"failing"}


def test_a_loop_that_hangs_is_a_problem_after_three_heartbeats() -> None:
    """A loop that does not come back is named once it has missed three heartbeats, with the time it has been away."""

    async def test() -> None:
        supervisor = supervise(Script("good", 1.0), Script("hung", 5.0, None))
        supervisor.start()
        await until(5 + 3 * HEARTBEAT_S)
        assert supervisor.problem() is None
        await until(5 + 3 * HEARTBEAT_S + 2)
        assert supervisor.problem() == "the hung has made no progress for 32 s"
        await supervisor.drain(0)

    run(test())


def test_nothing_is_wrong_before_the_start() -> None:
    """Loops that have not been started are not late."""

    async def test() -> None:
        supervisor = supervise(Script("loop", 1.0))
        await until(1000)
        assert supervisor.problem() is None
        supervisor.start()
        assert supervisor.problem() is None
        await supervisor.drain(0)

    run(test())


def test_draining_stops_the_rounds_first() -> None:
    """No loop claims anything more once the drain begins, whatever it was doing; then each finishes what it has."""

    async def test() -> None:
        order: list[str] = []

        class Draining(Script):
            async def run_once(self) -> float:
                order.append(f"{self.name} comes round")
                try:
                    return await super().run_once()
                finally:
                    order.append(f"{self.name} is out")

            async def drain(self, timeout_s: float) -> None:
                await super().drain(timeout_s)
                order.append(f"{self.name} drains")
                await asyncio.sleep(timeout_s)

        waiting, busy = Draining("waiting", 3.0), Draining("busy", None)
        failing = Draining("failing", ValueError("broken"))
        loops = (waiting, busy, failing)
        supervisor = supervise(*loops)
        supervisor.start()
        await until(1)
        order.clear()
        await supervisor.drain(7.0)
        assert order == ["busy is out", "waiting drains", "busy drains", "failing drains"]
        assert busy.cancelled
        assert [loop.drained_with_s for loop in loops] == [[7.0]] * 3
        assert asyncio.get_running_loop().time() == 8.0, "the loops drain at the same time"
        rounds = [len(loop.rounds_at) for loop in loops]
        await until(100)
        assert [len(loop.rounds_at) for loop in loops] == rounds
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test())


def test_draining_what_never_started() -> None:
    """A process that fails before its loops start can still be drained."""

    async def test() -> None:
        loop = Script("loop", 1.0)
        await supervise(loop).drain(3.0)
        assert loop.rounds_at == []
        assert loop.drained_with_s == [3.0]

    run(test())


def test_the_loops_run_in_named_tasks() -> None:
    """A task dump says which loop is which."""

    async def test() -> None:
        supervisor = supervise(Script("poller-x", 1.0))
        supervisor.start()
        assert "loop-poller-x" in {task.get_name() for task in asyncio.all_tasks()}
        await supervisor.drain(0)

    run(test())
