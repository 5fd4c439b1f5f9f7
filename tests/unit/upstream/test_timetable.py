"""When a task is polled again: after a refusal that is its own, and where more is due than may be sent."""

import asyncio
import random

import pytest
from msgspec import structs

from gateway.core.claims import DueTask
from gateway.core.pollhistory import Why
from gateway.upstream.durations import of_client, of_model
from gateway.upstream.learned import Learned
from gateway.upstream.schedule import PollSchedule
from gateway.upstream.timetable import Timetable
from tests.nouns import due_task
from tests.virtualtime import EPOCH, VirtualClock, run_virtual


class Kept:
    """A small durable value."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.written = 0
        self.slow_s = 0.0

    async def load(self) -> bytes | None:
        return self.value

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        if self.value != old:
            return False
        self.value = new
        self.written += 1
        await asyncio.sleep(self.slow_s)  # a call that is cancelled has written all the same
        return True


def timetable(budget_per_s: float = 1.0, kept: Kept | None = None, min_s: float = 1.0) -> Timetable:
    kept = Kept() if kept is None else kept
    learned = Learned(kept.load, kept.swap)
    return Timetable(PollSchedule(min_s, 30.0), budget_per_s, VirtualClock(), random.Random(0), learned)


@pytest.mark.parametrize(
    ("failures", "seldom", "budget_per_s", "delay_s"),
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
    failures: int, seldom: int, budget_per_s: float, delay_s: tuple[float, float]
) -> None:
    """Beyond the bound of other failures, so that however many there are take a tenth of the budget, in reason."""
    at = timetable(budget_per_s).failed_poll_at(failures, None, EPOCH, seldom=seldom).at
    assert delay_s[0] <= (at - EPOCH) / 1000 <= delay_s[1]


def test_a_refusal_may_ask_for_more_time() -> None:
    """What the upstream asks for counts where it is longer."""
    assert timetable().failed_poll_at(1, 700.0, EPOCH, seldom=1) == (EPOCH + 700_000, Why.TOLD)


MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


@pytest.mark.parametrize(
    ("told_ms", "began_ms"),
    [
        # Who asks late for a task that is old is believed, as long as others are new.
        ([-5_000, -2 * HOUR_MS, -1_000], [-5_000, -2 * HOUR_MS, -1_000]),
        # All are eight hours old when they are registered: that is a zone. Between them the differences are kept.
        ([-8 * HOUR_MS - 3_000] * 3, [0, 0, 0]),
        ([-8 * HOUR_MS - 3_000, -8 * HOUR_MS - 13_000], [0, -10_000]),
        # A clock that is two minutes slow.
        ([-121_000, -120_000, -125_000], [0, 0, -5_000]),
        ([-59_000, -50_000], [-59_000, -50_000]),
        # A zone of a quarter of an hour, by a clock that is two seconds ahead beside; the farthest zone.
        ([-23 * 15 * MINUTE_MS + 2_000] * 2, [0, 0]),
        ([-26 * HOUR_MS - 30_000] * 2, [0, 0]),
        # What no zone makes, nor a clock that is kept: they are old. So are those of a backfill, months later.
        ([-40 * MINUTE_MS, -100 * MINUTE_MS], [-40 * MINUTE_MS, -100 * MINUTE_MS]),
        ([-27 * HOUR_MS], [-27 * HOUR_MS]),
        ([-200 * 24 * HOUR_MS], [-200 * 24 * HOUR_MS]),
        # None is watched before it was created, whatever the others are; and that teaches nothing about them.
        ([8 * HOUR_MS, 8 * HOUR_MS - 20_000], [0, 0]),
        ([8 * HOUR_MS, -1_000, -2 * HOUR_MS], [0, -1_000, -2 * HOUR_MS]),
        ([8 * HOUR_MS, -2 * HOUR_MS], [0, 0]),
        # As soon as one is new again, the clock is right again; sixteen answers later nothing is known of it.
        ([-8 * HOUR_MS, -5_000, -8 * HOUR_MS], [0, -5_000, -8 * HOUR_MS]),
        ([-5_000, *[-8 * HOUR_MS] * 16], [-5_000, *[-8 * HOUR_MS] * 15, 0]),
    ],
)
def test_a_creation_that_a_clock_or_a_zone_puts_off(told_ms: list[int], began_ms: list[int]) -> None:
    """Ages are reckoned from when a task was truly created, as far as can be told from when they were registered."""
    table = timetable()
    found = []
    for told in told_ms:
        table.created(EPOCH + told, EPOCH)
        found.append(table.began_at(EPOCH + told, EPOCH) - EPOCH)
    assert found == began_ms
    assert table.began_at(None, EPOCH) == EPOCH


def test_a_lower_limit_is_reckoned_with_while_it_holds() -> None:
    """The budget is what was configured, or less; afterwards it is that again."""
    table = timetable(2.0)
    for per_s, expected in ((5.0, 2.0), (0.1, 0.1), (1.0, 1.0), (float("inf"), 2.0)):
        table.limit_budget(per_s)
        assert table._budget_per_s == expected


def test_a_task_whose_polls_fail_is_less_urgent() -> None:
    """Half for each in a row, and not without end: a task that may be refused again leaves its place to others."""

    async def main() -> list[float]:
        table = timetable()
        asked = {"polls": 9, "last_polled_at": EPOCH - 40_000, "due_at": EPOCH}
        return [
            table.urgency(due_task(created_at=EPOCH - 60_000, failures=failures, **asked))
            for failures in (0, 1, 3, 8, 50)
        ]

    none, one, three, eight, many = run_virtual(main())
    assert none > 0
    assert (one, three, eight, many) == (none / 2, none / 8, none / 256, none / 256)


def test_a_task_of_which_nothing_is_known_is_as_urgent_as_its_clients_others() -> None:
    """What a client registers takes two minutes: at half a minute its next one is not urgent yet, another's is."""

    async def main() -> None:
        table = timetable()
        taught(table, 120.0)
        await asyncio.sleep(30)
        known, unknown = (table.urgency(due(watchers)) for watchers in ("ann", "bob"))
        assert known < unknown / 4

    run_virtual(main())


def due(watchers: str, late_s: float = 0.0) -> DueTask:
    return due_task(watchers=watchers, created_at=EPOCH, due_at=EPOCH - round(late_s * 1000))


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
        assert table.first_poll_at(EPOCH, "many", None) > EPOCH + 1000
        assert table.first_poll_at(EPOCH, "new", None) == EPOCH

    run_virtual(judged())


def taught(table: Timetable, duration_s: float, model: str = "m", count: int = 50, late_s: float = 0.0) -> None:
    """Let tasks of ann's end, registered so long after they began."""
    for _ in range(count):
        table.ended(due("ann"), model, EPOCH - round(late_s * 1000), duration_s, told=True)


def test_nothing_is_known_of_the_first_tasks() -> None:
    """They are asked about at once: the answer tells what they are. Of many that come together only few are."""

    async def main() -> None:
        table = timetable(budget_per_s=10.0)
        first = [table.first_poll_at(EPOCH, client, None) for client in ("ann", "ann", "bob", "bob", *["ann"] * 96)]
        assert first[:4] == [EPOCH] * 4
        assert min(first[4:]) > EPOCH + 3000
        assert table.first_poll_at(EPOCH, "ann", None, new=True) > EPOCH + 3000
        await asyncio.sleep(1)
        again = [table.first_poll_at(EPOCH, "bob", None) for _ in range(2)]
        assert again[0] == EPOCH, "an idle budget has polls for it again"
        assert again[1] > EPOCH + 3000

    run_virtual(main())


def test_a_small_budget_has_fewer_polls_that_only_explore() -> None:
    """A tenth of it: with two polls in ten seconds, one in fifty."""

    async def main() -> None:
        table = timetable(budget_per_s=0.2)
        at = []
        for second in range(200):
            now = EPOCH + 1000 * second
            at.append(table.first_poll_at(now, "ann", None) == now)
            await asyncio.sleep(1)
        assert (sum(at), at[:5]) == (7, [True, True, True, True, False])

    run_virtual(main())


def test_a_task_whose_model_is_known_is_first_polled_when_it_pays() -> None:
    """Also another client's, and also where the model is told by what this client's last tasks were."""

    async def main() -> None:
        table = timetable()
        taught(table, 20.0)
        for client, model in (("ann", "m"), ("bob", "m"), ("ann", None)):
            assert 21_000 > table.first_poll_at(EPOCH, client, model) - EPOCH > 15_000

    run_virtual(main())


def test_who_registers_what_has_ended_is_told_at_once() -> None:
    """So it was with this client's last tasks: a best time for a new one would be too late, whatever the model."""

    async def main() -> None:
        table = timetable()
        taught(table, 20.0, late_s=60.0)
        assert table.first_poll_at(EPOCH, "ann", "m") == EPOCH
        assert table.first_poll_at(EPOCH, "ann", None) == EPOCH
        assert table.first_poll_at(EPOCH, "bob", "m") > EPOCH + 15_000
        assert table.first_poll_at(EPOCH, "ann", "m", new=True) > EPOCH + 15_000, "it cannot have ended"

    run_virtual(main())


def test_the_first_tasks_of_a_model_are_explored() -> None:
    """In steps that grow with their age; once eight were seen, the schedule rests on what was learned."""

    async def main() -> None:
        table = timetable()
        delays = [table.running(due("ann"), "new", EPOCH, EPOCH + 4000).at - EPOCH - 4000 for _ in range(9)]
        assert set(delays[:8]) == {2000}
        assert delays[8] > 2000

    run_virtual(main())


def test_what_was_learned_is_kept() -> None:
    """Every ten seconds and at the end, where anything was learned; what another process has kept is not in the way."""

    async def main() -> None:
        kept = Kept()
        table = timetable(kept=kept)
        await table.restore()
        await table.save()
        assert kept.value is None
        written = []
        for second in range(25):
            taught(table, 40.0, count=1)
            await table.save()
            written.append(kept.written)
            await asyncio.sleep(1)
            assert kept.written == second // 10 + 1
        await table.save(now=True)
        assert kept.written == 4
        again = timetable(kept=kept)
        await again.restore()
        assert 40_000 > again.first_poll_at(EPOCH, "ann", "m") - EPOCH > 10_000
        await again.save(now=True)
        assert kept.written == 4, "nothing is new"
        taught(table, 40.0)
        taught(again, 40.0)
        for one in (table, again):
            await one.save(now=True)
        assert kept.written == 6

    run_virtual(main())


def test_what_another_version_has_kept_is_no_obstacle() -> None:
    """What cannot be read is learned anew, and takes its place."""

    async def main() -> None:
        kept = Kept()
        kept.value = b'{"streams":{"model m":"packed"}}'
        table = timetable(kept=kept)
        await table.restore()
        taught(table, 20.0)
        await table.save(now=True)
        again = timetable(kept=kept)
        await again.restore()
        assert again.first_poll_at(EPOCH, "bob", "m") > EPOCH + 10_000

    run_virtual(main())


def test_short_tasks_have_not_ended_when_they_are_registered() -> None:
    """They end within the least time between two polls, and a poll at age 0 would find them running."""

    async def main() -> None:
        table = timetable(min_s=5.0)
        taught(table, 4.0)
        for model in ("m", None):
            assert table.first_poll_at(EPOCH, "ann", model) >= EPOCH + 4900

    run_virtual(main())


def test_a_task_that_two_clients_watch_teaches_of_both() -> None:
    """Whose next task it is, it is as well known."""

    async def main() -> None:
        table = timetable()
        for _ in range(50):
            table.running(due("ann,bob"), "m", EPOCH, EPOCH + 10_000)
            table.ended(due("ann,bob"), "m", EPOCH, 20.0, told=True)
        assert [table._durations.known(of_client(name)) for name in ("ann", "bob", "ann,bob")] == [50, 50, 0]

    run_virtual(main())


def test_a_poll_that_failed_has_not_seen_its_task() -> None:
    """What ended in an outage is not learned, as that others ran on in it is not heard; and the first task is one."""

    async def main() -> None:
        table = timetable()
        seen = structs.replace(due("ann"), polls=1, last_polled_at=EPOCH + 5_000)
        for _ in range(30):
            table.running(due("ann"), "m", EPOCH, EPOCH + 5_000)
            table.ended(
                structs.replace(seen, polls=9, failures=8, last_polled_at=EPOCH + 90_000), "m", EPOCH, 12.0, told=True
            )
        assert table._durations.known(of_model("m")) == 0
        unseen = structs.replace(due("ann"), polls=3, failures=3, last_polled_at=EPOCH + 9_000)
        table.running(unseen, "other", EPOCH, EPOCH + 20_000)
        table.ended(unseen, "m", EPOCH, 12.0, told=True)
        known = table._durations
        assert (known.begun(of_model("other")), known.known(of_model("m"))) == (1, 1)

    run_virtual(main())


def test_a_save_that_the_stop_cuts_short_is_done_all_the_same() -> None:
    """What was learned after it is kept at the end."""

    async def main() -> None:
        kept = Kept()
        kept.slow_s = 1.0
        table = timetable(kept=kept)
        taught(table, 20.0, count=5)
        saving = asyncio.create_task(table.save(), name="save")
        await asyncio.sleep(0.5)
        taught(table, 20.0, count=7)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        await table.save(now=True)
        again = timetable(kept=kept)
        await again.restore()
        assert again._durations.known(of_model("m")) == 12

    run_virtual(main())


def test_two_models_of_one_client_are_both_polled_when_it_pays() -> None:
    """Together they look as if some ended at once; what counts is whether any had ended when it was registered."""

    async def main() -> None:
        table = timetable()
        rng = random.Random(1)
        for _ in range(15):
            taught(table, 3 * rng.uniform(0.8, 1.2), model="quick", count=1)
            taught(table, 20 * rng.uniform(0.8, 1.2), model="slow", count=1)
        assert 1000 <= table.first_poll_at(EPOCH, "ann", "quick") - EPOCH < 4000
        assert table.first_poll_at(EPOCH, "ann", "slow") - EPOCH > 5000

    run_virtual(main())


def test_an_old_task_whose_end_nobody_tells_teaches_nothing() -> None:
    """It had ended by its first poll, in the last twelve hours: the middle of these is no duration."""

    async def main() -> None:
        table = timetable()
        for _ in range(50):
            table.ended(due("ann"), "m", EPOCH - 43_200_000, 21_600.0, told=False)
            table.ended(due("ann"), "fails", EPOCH - 2_000, 3.0, told=False)
        assert [table._durations.known(of_model(model)) for model in ("m", "fails")] == [0, 50]

    run_virtual(main())


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
