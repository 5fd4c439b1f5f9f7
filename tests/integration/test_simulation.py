"""The whole of the gateway's loops in simulated worlds: whatever goes wrong, and whenever, no law is broken.

``make simulate`` plays a thousand new seeds; here are some that are always the same, and worlds that hypothesis makes,
always the same too, which it can shrink.
"""

import dataclasses
import gc
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation import __main__ as simulate
from tests.simulation.defects import DEFECTS
from tests.simulation.invariants import Invariants
from tests.simulation.play import play
from tests.simulation.scenario import (
    ASKS,
    CLOCK_STEPS_S,
    LENGTH_S,
    MOMENTS,
    RECEIVER_MODES,
    RECEIVERS,
    UPSTREAM_MODES,
    WHEN,
    Event,
    Reader,
    Registration,
    Scenario,
    draw,
)

seconds = st.floats(0, LENGTH_S, allow_nan=False).map(lambda s: round(s, 3))
registrations = st.builds(
    Registration,
    at_s=seconds,
    task=st.integers(0, 3),
    receiver=st.integers(0, RECEIVERS - 1),
    timeout_s=st.sampled_from([1, 30, 300, 3600]),
    patience_s=st.sampled_from([0.01, 1.0, 30.0]),
)
events = st.one_of(
    st.builds(
        Event,
        at_s=seconds,
        kind=st.sampled_from(["kill", "restart"]),
        what=st.sampled_from(("at once", *MOMENTS)),
        seconds=st.floats(0.1, 20),
    ),
    st.builds(Event, at_s=seconds, kind=st.just("disk"), seconds=st.floats(0.1, 20)),
    st.builds(Event, at_s=seconds, kind=st.just("clock"), seconds=st.sampled_from(CLOCK_STEPS_S)),
    st.builds(
        Event,
        at_s=seconds,
        kind=st.just("upstream"),
        what=st.sampled_from(UPSTREAM_MODES),
        seconds=st.floats(1, 300),
    ),
    st.builds(
        Event,
        at_s=seconds,
        kind=st.just("receiver"),
        what=st.sampled_from(RECEIVER_MODES),
        number=st.integers(0, RECEIVERS - 1),
        seconds=st.floats(1, 400),
    ),
    st.builds(Event, at_s=seconds, kind=st.sampled_from(ASKS), what=st.sampled_from(WHEN), number=st.integers(0, 13)),
)
scenarios = st.builds(
    Scenario,
    seed=st.integers(0, 2**32),
    tasks=st.tuples(*[st.tuples(st.sampled_from(["success", "fail", "never"]), st.floats(0, 120))] * 4),
    registrations=st.lists(registrations, min_size=1, max_size=8).map(tuple),
    events=st.lists(events, max_size=10).map(tuple),
)


FAILS = Event(1.0, "upstream", "error", seconds=100.0)
CREATOR = Reader(95.0, 0, 1.0, 3, creates=True)
LONG, WISHES = (("success", 80.0),) * 8, tuple(Registration(1.0, task, 0, 300, 30.0) for task in range(8))
READERS = tuple(Reader(63.5, task, 2.0, 15) for task in range(8))
DOWN = Event(40.0, "kill", "at once", seconds=20.0)
OLD_NEWS = Event(60.1, "upstream", "old news", seconds=3.0)
"""All are polled at once after that, and read before these answers come."""
CAUGHT = {
    "answers in any order": (
        "goes back",
        Scenario(0, LONG, WISHES, (DOWN, OLD_NEWS), READERS),
    ),
    "a read that is remembered": (
        "is told less than the store had",
        Scenario(0, (("success", 20.0),), WISHES[:1], (), (Reader(5.0, 0, 2.0, 20),)),
    ),
    "another id for each try": (
        "was paid for twice",
        Scenario(0, (("success", 1.0),), (), (FAILS,), (CREATOR,)),
    ),
    "a create sent again in the dark": (
        "was paid for twice",
        Scenario(0, (("success", 1.0),), (), (FAILS,), (CREATOR,), honours=False),
    ),
}
"""By defect, which law a world breaks with it, in one order of what happens at once or in another."""
ORDERS = 20
TWO_ASK_AT_ONCE = 5047
"""One callback and all dead ones are redelivered within one transaction: the one comes first, whoever asked first."""


@pytest.mark.parametrize("seed", [*range(8), TWO_ASK_AT_ONCE])
def test_a_seed(seed: int) -> None:
    """What is acknowledged is delivered, dead for a reason or cancelled; nothing twice; no move is illegal."""
    assert play(draw(seed)).looks > 0


@given(scenarios)
@settings(max_examples=10)
def test_any_scenario(scenario: Scenario) -> None:
    """The same for whatever hypothesis comes up with."""
    assert play(scenario).looks > 0


def test_each_callback_has_a_grace_of_its_own() -> None:
    """In an outage the end of one callback's grace gives up none of the same task whose time has only just passed."""
    outage = Event(0.0, "upstream", "error", seconds=300.0)
    first = Registration(at_s=1.0, task=0, receiver=0, timeout_s=1, patience_s=30.0)
    later = Registration(at_s=1.0, task=0, receiver=1, timeout_s=30, patience_s=30.0)
    assert play(Scenario(0, (("never", 0.0),), (first, later), (outage,))).looks > 0


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_retry_keeps_its_distance_until_it_is_recorded(step_s: float) -> None:
    """Where the disk fails when an attempt ends, and the clock is set before it is mended, the next is not due then."""
    unwell = Event(0.0, "receiver", "error", seconds=300.0)
    disk = Event(2.2, "disk", seconds=10.0)
    wish = Registration(at_s=1.0, task=0, receiver=0, timeout_s=300, patience_s=30.0)
    events = (unwell, disk, Event(5.0, "clock", seconds=step_s))
    for seed in range(4):
        assert play(Scenario(seed, (("success", 0.0),), (wish,), events)).looks > 0


@pytest.mark.parametrize("between_s", [0.1, 1.0, 5.0, 11.9])
def test_a_step_that_nothing_was_there_to_follow_is_over(between_s: float) -> None:
    """Of two steps of the clock, the first before there is anything to come, only the second is followed."""
    wishes = tuple(Registration(12.0, task, receiver, 300, 30.0) for task, receiver in ((0, 0), (0, 1), (1, 0)))
    down = Event(0.0, "kill", "at once", seconds=0.1)
    steps = Event(12.0 - between_s, "clock", seconds=-3600.0), Event(12.0, "clock", seconds=-3600.0)
    for first in (down, Event(0.0, "clock", seconds=-3600.0)):
        for seed in range(2):
            scenario = Scenario(seed, (("never", 0.0), ("success", 3.0)), wishes, (down, first, *steps))
            assert play(scenario).looks > 0


@pytest.mark.parametrize("seed", range(6))
def test_readers_amid_kills(seed: int) -> None:
    """Where only kills stand between the reads of tasks that callbacks wait for, nobody is told less than before."""
    rng = random.Random(seed)
    tasks = (("success", 150.0), ("fail", 80.0), ("never", 0.0), ("success", rng.uniform(0, 20)))
    wishes = tuple(Registration(rng.uniform(0, 40), task, task % RECEIVERS, 300, 30.0) for task in range(3))
    when = (*MOMENTS, "at once")
    kills = tuple(
        Event(at_s, "kill", rng.choice(when), seconds=rng.uniform(0.1, 3))
        for at_s in range(10, 200, rng.randint(7, 20))
    )
    readers = [
        Reader(rng.uniform(0, 80), task, rng.choice((0.3, 2.0, 5.0)), 60, creates=task == 3, receiver=1)
        for task in (0, 1, 2, 3, 0, 1)
    ]
    laws = play(Scenario(seed, tasks, wishes, kills, tuple(readers)))
    assert laws.reads.answered > 50


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_noticed(defect: str) -> None:
    """What keeps reads from going back, and creates from being paid for twice, is missed where it is not there."""
    law, scenario = CAUGHT[defect]
    scenarios = [dataclasses.replace(scenario, seed=seed) for seed in range(ORDERS)]
    assert play(scenarios[0]).looks > 0
    with DEFECTS[defect](), pytest.raises(AssertionError, match=law):
        _play_all(scenarios)


def _play_all(scenarios: Iterable[Scenario]) -> None:
    for scenario in scenarios:
        play(scenario)


def test_a_world_that_breaks_a_law_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left open would be told (as a ResourceWarning) of whichever test comes next."""

    def unlucky(*_: object) -> None:
        raise AssertionError("so it is")

    monkeypatch.setattr(Invariants, "at_the_end", unlucky)
    with pytest.raises(AssertionError, match="so it is"):
        play(draw(0))
    gc.collect()


def test_simulate_plays_on_after_a_seed_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each seed that breaks a law is told with how to play it again; the others are played all the same."""
    played: list[int] = []

    def playing(scenario: Scenario) -> Any:
        played.append(scenario.seed)
        if scenario.seed in (8, 9):
            raise AssertionError("so it is")
        return play(Scenario(scenario.seed, (("success", 0.0),), WISHES[:1], ()))  # one that ends soon

    monkeypatch.setattr(simulate, "play", playing)
    monkeypatch.setattr(simulate.structlog, "configure", lambda **_: None)
    assert simulate.main(["--first", "7", "--seeds", "4"]) == 1
    assert played == [7, 8, 9, 10]
    told = capsys.readouterr()
    assert "2 of them broke a law" in told.out
    assert [f"--first {seed} --seeds 1" in told.err for seed in played] == [False, True, True, False]
    assert simulate.main(["--first", "7", "--seeds", "1"]) == 0


def test_simulate_plays_new_seeds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a first seed one is drawn, and told."""
    played: list[int] = []
    monkeypatch.setattr(simulate, "draw", played.append)
    monkeypatch.setattr(simulate, "play", lambda _: Invariants.__new__(Invariants))
    monkeypatch.setattr(Invariants, "looks", 1, raising=False)
    monkeypatch.setattr(simulate.structlog, "configure", lambda **_: None)
    for _ in range(2):
        assert simulate.main(["--seeds", "2"]) == 0
    assert played[1] == played[0] + 1 != played[2] + 1
    assert f"2 seeds from {played[2]} on" in capsys.readouterr().out
