"""When the garbage collector looks through everything: seldom, however much there is."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gateway.core.clock import SystemClock
from gateway.serve.garbage import look_seldom


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the other tests' collector as it was."""
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.001, 60.0), (0.2, 200.0)])
async def test_a_look_through_everything_takes_a_thousandth_of_the_time(
    monkeypatch: pytest.MonkeyPatch, took_s: float, pause_s: float
) -> None:
    """Each stops all work for as long as it takes: the first comes after a minute, the next ones as that one took."""
    now_s, looks = 0.0, 0
    timers: list[tuple[float, Callable[[], None]]] = []

    def look() -> int:
        nonlocal now_s, looks
        now_s += took_s
        looks += 1
        return 0

    def call_later(delay_s: float, then: Callable[..., None], *args: Any) -> None:
        timers.append((delay_s, partial(then, *args)))

    monkeypatch.setattr(gc, "collect", look)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    look_seldom(lambda: now_s)
    assert (looks, [delay_s for delay_s, _ in timers]) == (1, [60.0])
    timers[0][1]()
    assert looks == 2
    assert timers[1][0] == pytest.approx(pause_s)


async def test_what_is_new_is_looked_at_and_what_stays_is_not() -> None:
    """Cycles among new objects are freed soon; no number of them brings a look through all that there is."""
    wholes = 0

    def count(phase: str, about: dict[str, int]) -> None:
        nonlocal wholes
        wholes += phase == "start" and about["generation"] == 2

    class Knot:
        def __init__(self) -> None:
            self.itself = self

    look_seldom(SystemClock().monotonic)
    gc.callbacks.append(count)
    try:
        kept = [[number] for number in range(400_000)]
        before = sum(isinstance(one, Knot) for one in gc.get_objects())
        for _ in range(50_000):
            Knot()
        left = sum(isinstance(one, Knot) for one in gc.get_objects()) - before
    finally:
        gc.callbacks.remove(count)
    assert (wholes, len(kept)) == (0, 400_000)
    assert left < 20_000
