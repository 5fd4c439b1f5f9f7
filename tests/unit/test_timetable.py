"""When a task is polled again: after a refusal that is its own, and where more is due than may be sent."""

import asyncio
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


def due(watchers: str, late_s: float = 0.0) -> DueTask:
    return DueTask(
        seq=1,
        upstream="up",
        watchers=watchers,
        task_id="t",
        created_at=EPOCH,
        born_at=None,
        model=None,
        polls=0,
        failures=0,
        last_polled_at=None,
        due_at=EPOCH - round(late_s * 1000),
    )


def test_a_short_budget_is_short_for_those_who_want_more_than_their_share() -> None:
    """Whoever has thousands of tasks pays for them; another's new task is asked about at once, as were it alone."""

    async def main() -> tuple[Timetable, list[float]]:
        table = timetable(budget_per_s=10.0)
        for second in range(120):
            for _ in range(10):
                table.polled(due("many", late_s=20.0), EPOCH)
            if second % 5 == 0:
                table.polled(due("few"), EPOCH)
            await asyncio.sleep(1)
        now = VirtualClock().monotonic()
        return table, [table._share_per_s(name, now) for name in ("many", "few", "new")]

    async def judged() -> None:
        table, (many, few, new) = await main()
        assert many == pytest.approx(9.8, abs=0.1), "all that the other leaves"
        assert few == pytest.approx(5.0), "at least an equal part"
        assert new == pytest.approx(10 / 3)
        assert table.first_poll_at(EPOCH, "few") == table.first_poll_at(EPOCH, "new") == EPOCH
        assert table.first_poll_at(EPOCH, "many") > EPOCH + 1000

    run_virtual(judged())


def test_a_client_that_asks_for_nothing_any_more_keeps_no_part_of_the_budget() -> None:
    """Its share goes back to the others within minutes; and the prices of very many are not all kept."""

    async def main() -> None:
        table = timetable(budget_per_s=10.0)
        for name in ("gone", "here"):
            table.polled(due(name), EPOCH)
        await asyncio.sleep(600)
        assert table._share_per_s("here", VirtualClock().monotonic()) == pytest.approx(10.0, abs=0.01)
        for number in range(2000):
            table.polled(due(str(number)), EPOCH)
        assert len(table._prices) == 1000

    run_virtual(main())
