"""The live laboratory in short: the poller's own code on virtual time, with what it learns as tasks end."""

import pytest

from tests.bench import live_rows
from tests.bench.live_lab import Job, Orders, measured, play

LOT = [Job(0.5 * number, 5.0 + number % 7) for number in range(20)]


def test_the_same_figures_every_time() -> None:
    """A seed decides everything, and each poll counts, the one at age 0 too."""
    first, second = (play(Orders(LOT, LOT, told=told), seed=3) for told in (False, False))
    assert [task.polls for task in first] == [task.polls for task in second]
    assert measured(first).polls == sum(len(task.polls) for task in first) / len(LOT)
    assert all(task.lag_s >= 0 and task.polls[-2:-1] < [task.ends_at] for task in first)


def test_a_restart_loses_nothing_that_was_learned() -> None:
    """Killed amid a lot, it goes on with what the store has: where all take as long, few polls find each end."""
    taught = [Job(0.5 * number, 20.0) for number in range(40)]
    seen = play(Orders(taught, taught, told=True, restart_s=12.0), seed=1)
    assert measured(seen).polls < 3
    assert measured(seen).mean_s < 2


def test_a_tasks_end_is_known_by_its_failure_too() -> None:
    """The family's answer to a failed task says neither when it ended nor how long it took; the laboratory knows."""
    (seen,) = play(Orders([], [Job(0.0, 8.0, fails=True)]), seed=1)
    assert seen.noticed
    assert seen.ends_at == seen.task.created_at + 8000


@pytest.mark.parametrize(("name", "least"), [("steady, mixed models", 1.5), ("burst, three models", 1.4)])
def test_it_beats_a_fixed_interval(name: str, least: float) -> None:
    """At as many polls, each one counted, with a part of the tasks that ``make bench-schedule`` plays."""
    assert live_rows.compare(name, seed=1, share=0.15).ratio("fixed") >= least


def test_the_fixed_interval_has_as_many_polls() -> None:
    """To within one poll of one task."""
    durations_s = [3.0 + 0.37 * number for number in range(200)]
    assert live_rows.at_fixed_interval(durations_s, 7.25).polls == pytest.approx(7.25, abs=0.02)
