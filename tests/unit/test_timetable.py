"""When a task is polled again: after a refusal that is its own, and where more is due than may be sent."""

import random

import pytest

from gateway.model import DueTask
from gateway.schedule import PollSchedule
from gateway.timetable import Timetable
from tests.virtualtime import EPOCH, VirtualClock, run_virtual


def timetable(budget_per_s: float = 1.0) -> Timetable:
    return Timetable(PollSchedule(1.0, 30.0), budget_per_s, VirtualClock(), random.Random(0))


@pytest.mark.parametrize(
    ("failures", "refused", "budget_per_s", "delay_s"),
    [
        (1, 0, 1.0, (2.0, 2.2)),
        (1, 1, 1.0, (2.0, 2.2)),
        (5, 0, 1.0, (30.0, 30.0)),
        (5, 1, 1.0, (32.0, 35.2)),
        (9, 1, 1.0, (300.0, 300.0)),
        (20, 30, 1.0, (300.0, 300.0)),  # thirty of them: a tenth of a poll a second
        (20, 100, 1.0, (1000.0, 1000.0)),
        (20, 100, 50.0, (300.0, 300.0)),
        (20, 100_000, 1.0, (3600.0, 3600.0)),
    ],
)
def test_a_task_that_is_refused_alone_is_asked_about_ever_more_seldom(
    failures: int, refused: int, budget_per_s: float, delay_s: tuple[float, float]
) -> None:
    """Beyond the bound of other failures, so that however many there are take a tenth of the budget, in reason."""
    at = timetable(budget_per_s).failed_poll_at(failures, None, EPOCH, refused=refused)
    assert delay_s[0] <= (at - EPOCH) / 1000 <= delay_s[1]


def test_a_refusal_may_ask_for_more_time() -> None:
    """What the upstream asks for counts where it is longer."""
    assert timetable().failed_poll_at(1, 700.0, EPOCH, refused=1) == EPOCH + 700_000


def test_a_task_whose_polls_fail_is_less_urgent() -> None:
    """Half for each in a row, and not without end: a task that may be refused again leaves its place to others."""

    async def main() -> list[float]:
        table = timetable()
        asked = {"born_at": None, "model": None, "polls": 9, "last_polled_at": EPOCH - 40_000, "due_at": EPOCH}
        return [
            table.urgency(
                DueTask(
                    seq=1,
                    upstream="up",
                    watchers="",
                    task_id="t",
                    created_at=EPOCH - 60_000,
                    failures=failures,
                    **asked,
                )  # type: ignore[arg-type]
            )
            for failures in (0, 1, 3, 8, 50)
        ]

    none, one, three, eight, many = run_virtual(main())
    assert none > 0
    assert (one, three, eight, many) == (none / 2, none / 8, none / 256, none / 256)
