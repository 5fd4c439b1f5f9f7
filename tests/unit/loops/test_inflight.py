"""What a loop has running: bounded, named, waking its loop when there is room again, and drained."""

import asyncio
import inspect
from typing import Any

import pytest

from gateway.loops import inflight as module
from gateway.loops.inflight import InFlight
from tests.virtualtime import VirtualClock, run_virtual


class Work:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False
        self.name = ""

    async def __call__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.name = task.get_name()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()


class Errors:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Errors:
    errors = Errors()
    monkeypatch.setattr(module, "_log", errors)
    return errors


async def turn() -> None:
    """Let every callback that is due now run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_room_shrinks_and_grows() -> None:
    """What runs takes its place at once and gives it back when it ends."""
    in_flight = InFlight(2, asyncio.Event())
    first, second = Work(), Work()
    assert in_flight.free == 2
    in_flight.start(first(), "first")
    assert in_flight.free == 1
    in_flight.start(second(), "second")
    assert in_flight.free == 0
    first.go.set()
    await first.ended.wait()
    await turn()
    assert in_flight.free == 1
    await in_flight.drain(0)
    assert (first.name, second.name) == ("first", "second")


async def test_the_loop_is_woken_when_there_is_room_again() -> None:
    """A loop that found no room hears of it; one that had room all along is left asleep."""
    wake = asyncio.Event()
    in_flight = InFlight(2, wake)
    works = [Work(), Work()]
    for work in works:
        in_flight.start(work(), "work")
    works[0].go.set()
    async with asyncio.timeout(30):
        await wake.wait()
    assert in_flight.free == 1
    wake.clear()
    works[1].go.set()
    await works[1].ended.wait()
    await turn()
    assert in_flight.free == 2
    assert not wake.is_set()


async def test_draining_waits_for_what_runs() -> None:
    """What ends within the time limit is not cut short."""
    in_flight = InFlight(2, asyncio.Event())
    work = Work()
    in_flight.start(work(), "work")
    await turn()
    asyncio.get_running_loop().call_soon(work.go.set)
    await in_flight.drain(30)
    assert work.ended.is_set()
    assert not work.cancelled
    assert in_flight.free == 2


async def test_draining_cancels_what_is_late() -> None:
    """What is left when the time is up is cancelled, and its clean-up is waited for."""
    in_flight = InFlight(2, asyncio.Event())
    cleaned = asyncio.Event()

    async def slow_to_go() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turn()
            cleaned.set()

    in_flight.start(slow_to_go(), "slow")
    await turn()
    await in_flight.drain(0)
    assert cleaned.is_set()
    assert in_flight.free == 2


async def test_draining_nothing_ends_at_once() -> None:
    """With nothing running there is nothing to wait for."""
    async with asyncio.timeout(30):
        await InFlight(2, asyncio.Event()).drain(3600)


async def test_a_defect_is_logged_and_gives_its_place_back(log: Errors) -> None:
    """Work that raises is a defect: it is seen in the log with its name, and does not shrink the room for ever."""
    in_flight = InFlight(1, asyncio.Event())
    broken = ValueError("broken")

    async def fail() -> None:
        raise broken

    in_flight.start(fail(), "poll-task_1")
    await in_flight.drain(30)
    await turn()
    assert log.lines == [("inflight.failed", {"task": "poll-task_1", "exc_info": broken})]
    assert in_flight.free == 1


async def test_a_cancelled_one_is_no_defect(log: Errors) -> None:
    """Being cut short by a shutdown is not reported as a failure."""
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    in_flight = InFlight(1, asyncio.Event())
    in_flight.start(Work()(), "work")
    await turn()
    await in_flight.drain(0)
    await turn()
    assert log.lines == []
    assert unhandled == []


def test_many_that_end_wake_their_loop_once() -> None:
    """Three milliseconds after the first of them, so that their places are filled together."""

    async def main() -> None:
        wake = asyncio.Event()
        in_flight = InFlight(1, wake)
        woken: list[float] = []
        in_flight.wake_soon()
        await asyncio.sleep(0.002)
        in_flight.wake_soon()
        for _ in range(8):
            await asyncio.sleep(0.001)
            if wake.is_set():
                woken.append(VirtualClock().monotonic())
                wake.clear()
        assert woken == [pytest.approx(0.003)]
        in_flight.wake_soon()
        await asyncio.sleep(0.0031)
        assert wake.is_set()

    run_virtual(main())


async def test_a_loop_that_had_room_is_left_asleep() -> None:
    """It looks for work when there is some, and not because something has ended."""
    wake = asyncio.Event()
    in_flight = InFlight(3, wake)
    works = [Work(), Work()]
    for work in works:
        in_flight.start(work(), "work")
    assert (in_flight.count, in_flight.free) == (2, 1)
    works[0].go.set()
    await works[0].ended.wait()
    await turn()
    assert in_flight._waking is None
    await in_flight.drain(0)


async def test_what_steps_aside_has_no_place(log: Errors) -> None:
    """Its place is free, its loop is woken, as many may do so as there are places; and all are drained."""
    wake = asyncio.Event()
    in_flight = InFlight(1, wake)
    said: list[bool] = []

    async def aside(work: Work) -> None:
        said.append(in_flight.step_aside())
        said.append(in_flight.step_aside())
        await work()

    first, second = Work(), Work()
    in_flight.start(aside(first), "first")
    await turn()
    assert (in_flight.count, in_flight.free, said) == (0, 1, [True, True])
    assert not in_flight.idle
    await asyncio.wait_for(wake.wait(), 1)
    in_flight.start(aside(second), "second")
    await turn()
    assert (in_flight.count, said[2:]) == (1, [False, False])
    first.go.set()
    await in_flight.drain(0.01)
    assert (first.cancelled, second.cancelled, in_flight.count) == (False, True, 0)
    assert in_flight.idle
    assert log.lines == []


async def test_what_a_claim_brings_is_begun_in_several_turns() -> None:
    """Hundreds of first steps in one turn of the event loop would hold up everybody else's."""
    in_flight = InFlight(100, asyncio.Event())
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)

    for number in range(100):
        in_flight.start(work(number), f"work-{number}")
    turns = []
    while in_flight.count:
        await asyncio.sleep(0)
        turns.append(len(begun) - sum(turns))
    assert max(turns) == 64
    assert begun == list(range(100))


async def test_work_that_had_not_begun_is_drained_too() -> None:
    """It is ended like the others, and counts no more."""
    in_flight = InFlight(640, asyncio.Event())
    works = [Work() for _ in range(640)]
    for number, work in enumerate(works):
        in_flight.start(work(), f"work-{number}")
    await in_flight.drain(0)
    assert in_flight.count == 0
    assert not any(work.name for work in works[-64:])


async def test_work_that_is_cancelled_before_its_turn_is_closed() -> None:
    """Nothing is left of it that Python would warn of, were it ended in the turn that it was started in."""
    in_flight = InFlight(640, asyncio.Event())
    works = [Work()() for _ in range(640)]
    for number, work in enumerate(works):
        in_flight.start(work, f"work-{number}")
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await in_flight.drain(0)
    assert in_flight.count == 0
    assert {inspect.getcoroutinestate(work) for work in works} == {inspect.CORO_CLOSED}


async def test_of_many_that_start_at_once_64_begin_in_each_turn() -> None:
    """Others have their turn between them, and each turn of the loop may begin as many again."""
    turns, began = list[None](), list[int]()

    async def work() -> None:
        began.append(len(turns))

    in_flight = InFlight(1000, asyncio.Event())
    for _ in range(3):
        for number in range(130):
            in_flight.start(work(), f"work-{number}")
        began.clear()
        turns.clear()
        for _ in range(9):
            turns.append(None)
            await asyncio.sleep(0)
        assert sorted(began) == [1] * 64 + [2] * 64 + [3] * 2
        assert in_flight.idle
