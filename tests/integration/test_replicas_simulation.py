"""Gateways on one PostgreSQL in simulated worlds: whoever is paused, cut off, killed or restarted, no law is broken.

``make simulate ARGS=--replicas`` plays a thousand new seeds; here are a few that are always the same.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import pytest

from tests.postgres import NotAvailable
from tests.simulation import __main__ as simulate
from tests.simulation.replicas.cluster import Cluster, serving
from tests.simulation.replicas.defects import DEFECTS
from tests.simulation.replicas.play import play
from tests.simulation.replicas.scenario import (
    RECEIVERS,
    WHO_LEADS,
    WHOEVER,
    Reader,
    Registration,
    Scenario,
    Trouble,
    draw,
)

TASKS = (("success", 0.0),) * 6
LONG_TASKS = (("success", 30.0),) * 6
WISHES = tuple(Registration(3.0, task, 0, 60, 10.0) for task in range(6))
READERS = tuple(Reader(3.0, task, 0.5, 20, creates=False) for task in range(6))
HANGS = Trouble(0.0, "receiver", 0, seconds=20.0, mode="hang")
GONE_ALL = tuple(Trouble(0.0, "receiver", number, seconds=20.0, mode="gone for good") for number in range(RECEIVERS))
GONE = GONE_ALL[0]
MANY = tuple(Registration(3.0, task, task % RECEIVERS, 60, 10.0) for task in range(18))
CAUGHT: dict[str, Scenario] = {
    "no fence": Scenario(0, TASKS, WISHES, (), (HANGS, Trouble(3.0, "pause", WHOEVER, "attempt", 50.0))),
    "no epoch": Scenario(0, LONG_TASKS, WISHES, (), (Trouble(6.0, "pause", WHO_LEADS, "statement", 14.0),)),
    "a lease shorter than the attempt": Scenario(0, TASKS, WISHES, (), (HANGS,)),
    "a start after the lease": Scenario(0, TASKS, WISHES, (), (Trouble(3.0, "pause", WHOEVER, "claimed", 50.0),)),
    "a budget of its own": Scenario(0, LONG_TASKS, WISHES, READERS, ()),
    "an event that is anybody's": Scenario(
        0, TASKS, WISHES, (), (GONE, Trouble(0.0, "operator", seconds=9.0, mode="hang"))
    ),
    "an event that is overwritten": Scenario(0, TASKS * 3, MANY, (), GONE_ALL),
}
"""By defect, a world that shows it, in one order of what happens at once or in another."""
ORDERS = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        with serving() as cluster:
            yield cluster
    except NotAvailable as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("seed", range(3))
def test_a_seed(seed: int, cluster: Cluster) -> None:
    """Nothing is lost, no limit exceeded, nothing repeated without a reason, and nobody writes what is another's."""
    assert play(draw(seed), cluster).looks > 0


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_noticed(defect: str, cluster: Cluster) -> None:
    """Each thing that keeps replicas apart is missed where it is not there; else the same world breaks no law."""
    scenarios = [dataclasses.replace(CAUGHT[defect], seed=seed) for seed in range(ORDERS)]
    assert play(scenarios[0], cluster).looks > 0
    with DEFECTS[defect](), pytest.raises(AssertionError):
        _play_all(scenarios, cluster)


def _play_all(scenarios: Iterable[Scenario], cluster: Cluster) -> None:
    for scenario in scenarios:
        play(scenario, cluster)


def test_simulate_plays_replicas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A seed that breaks a law is told with how to play it again, with replicas."""

    def unlucky(scenario: Scenario, _: object) -> None:
        raise AssertionError(f"so it is with {scenario.seed}")

    monkeypatch.setattr(simulate, "serving", nullcontext)
    monkeypatch.setattr(simulate, "play_replicas", unlucky)
    monkeypatch.setattr(simulate.structlog, "configure", lambda **_: None)
    assert simulate.main(["--replicas", "--first", "7", "--seeds", "1"]) == 1
    assert "make simulate ARGS='--replicas --first 7 --seeds 1'" in capsys.readouterr().err
