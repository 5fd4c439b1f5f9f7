"""What a poll's answer leads to: each value that is stored of it, beside a timetable that only notes what it hears."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.config.profilefile import parse_profile
from gateway.core import pollhistory
from gateway.core.claims import DueTask
from gateway.core.clock import Moment
from gateway.core.errors import StoreLocked
from gateway.core.memory import SMALL
from gateway.core.model import Outcome, PollRecord, Settlement, TaskState
from gateway.core.pollhistory import PastPoll, Why
from gateway.core.telemetry import Metrics
from gateway.loops.pollresults import PollResults
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.timetable import Planned
from tests.manual import ROOT
from tests.nouns import due_task

PROFILE = parse_profile((ROOT / "config/upstreams/kie.toml").read_text("utf-8"), "kie.toml")
NOW, STEADY = 1_800_000_050_000, 50.0
ASKED = Moment(NOW - 200, STEADY - 0.2)
CLAIM = due_task(seq=7, task_id="task_7", created_at=NOW - 50_000, due_at=NOW - 10_000)
AGAIN = msgspec.structs.replace(CLAIM, polls=3, last_polled_at=NOW - 20_000, born_at=NOW - 60_000, model="known")
RUNNING = PollResult(kind=PollKind.RUNNING)
DONE = PollResult(kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b"{}"))


class Heard:
    """The timetable, the troubled tasks and the last answers: they note what they are told, and say what is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.newest = True
        self.next_ms = 5000
        self.unknown = self.denied = self.rare = False

    # The timetable.

    def created(self, told_at: int, seen_at: int) -> None:
        self.calls.append(("created", told_at, seen_at))

    def began_at(self, told_at: int | None, created_at: int) -> int:
        return created_at if told_at is None else told_at

    def running(self, claim: DueTask, model: str | None, began_at: int, now: int) -> Planned:
        self.calls.append(("running", model, began_at))
        return Planned(now + self.next_ms, Why.LEARNED)

    def failed_poll_at(
        self, failures: int, retry_after_s: float | None, now: int, *, costly: bool, seldom: bool
    ) -> Planned:
        self.calls.append(("failed", failures, retry_after_s, costly, seldom))
        return Planned(now + 9000, Why.BACKOFF)

    def ended(self, claim: DueTask, model: str | None, began_at: int, duration_s: float, *, told: bool) -> None:
        self.calls.append(("ended", model, began_at, duration_s, told))

    # The troubled tasks.

    def note(self, claim: DueTask, result: PollResult, steady: float) -> None:
        assert steady == STEADY

    def is_unknown(self, claim: DueTask, now: int, steady: float) -> bool:
        return self.unknown

    def is_denied(self, seq: int) -> bool:
        return self.denied

    def seldom(self, seq: int) -> bool:
        return self.rare

    def forget(self, seq: int) -> None:
        self.calls.append(("forget", seq))

    # The last answers.

    def keep(self, task_id: str, record: bytes | None, steady: float) -> bool:
        assert steady == ASKED.steady
        return self.newest

    def forget_running(self, task_id: str) -> None:
        self.calls.append(("forget running", task_id))


class Answered:
    """The results of one upstream's polls, and what was stored of them."""

    def __init__(self, owed: Sequence[str] | None = ("cb_1", "cb_2")) -> None:
        self.heard = Heard()
        self.rescheduled: list[PollRecord] = []
        self.settled: list[Settlement] = []
        self.locked = False
        self.pauses_s: list[float] = []
        self._owed = owed
        self._metrics = Metrics()
        parts: list[Any] = [
            SimpleNamespace(reschedule=self._reschedule, settle=self._settle),
            SimpleNamespace(name="up", profile=PROFILE, last_answers=self.heard),
            self.heard,
            self.heard,
            SimpleNamespace(now=lambda: NOW, monotonic=lambda: STEADY),
        ]
        self._results = PollResults(*parts, self._metrics)

    async def _reschedule(self, record: PollRecord) -> None:
        self.rescheduled.append(record)

    async def _settle(self, settlement: Settlement) -> Sequence[str] | None:
        self.settled.append(settlement)
        if self.locked:
            raise StoreLocked("lock timeout")
        return self._owed

    async def store(self, claim: DueTask, result: PollResult) -> int | None:
        async def pause(pause_s: float) -> bool:
            assert self.locked
            self.pauses_s.append(pause_s)
            return True

        return await self._results.store(claim, result, ASKED, pause)

    def counted(self, state: TaskState) -> float | None:
        return self._metrics.registry.get_sample_value(
            "gateway_tasks_settled_total", {"upstream": "up", "state": state}
        )

    @property
    def abandoned(self) -> float | None:
        return self._metrics.registry.get_sample_value("gateway_callbacks_abandoned_total", {"upstream": "up"})


def history(told: bytes) -> list[PastPoll]:
    return [*pollhistory.read(told, 1)]


async def test_a_running_task_is_asked_about_again_when_the_timetable_says() -> None:
    """What the answer told of it is stored; that it was told at all makes it born, where it says not when."""
    one = Answered()
    assert await one.store(CLAIM, RUNNING) == NOW + 5000
    (record,) = one.rescheduled
    assert record == PollRecord(
        seq=7,
        upstream="up",
        polled_at=NOW,
        next_poll_at=NOW + 5000,
        error=None,
        born_at=CLAIM.created_at,
        asked_at=ASKED.at,
        told=record.told,
    )
    assert one.heard.calls == [("running", None, CLAIM.created_at)]
    assert one.settled == []


@pytest.mark.parametrize(
    ("claim", "told", "born_at", "began_at"),
    [
        (CLAIM, NOW - 70_000, NOW - 70_000, NOW - 70_000),
        (AGAIN, None, None, AGAIN.born_at),
        (AGAIN, NOW - 70_000, NOW - 70_000, NOW - 70_000),
    ],
)
async def test_when_a_task_was_created_is_the_upstreams_word(
    claim: DueTask, told: int | None, born_at: int | None, began_at: int
) -> None:
    """The newest one; where it tells nothing new, what is known stays. The timetable compares it with our clock."""
    one = Answered()
    await one.store(claim, msgspec.structs.replace(RUNNING, task_created_at=told))
    assert one.rescheduled[0].born_at == born_at
    created = [] if told is None else [("created", told, claim.created_at)]
    assert one.heard.calls == [*created, ("running", claim.model, began_at)]


@pytest.mark.parametrize(
    ("retry_after_s", "next_ms", "why"),
    [(None, 5000, Why.LEARNED), (4.9, 5000, Why.LEARNED), (7.25, 7250, Why.TOLD)],
)
async def test_a_running_task_is_left_alone_for_as_long_as_the_upstream_asks(
    retry_after_s: float | None, next_ms: int, why: Why
) -> None:
    """Not for less than the timetable says."""
    one = Answered()
    assert await one.store(AGAIN, msgspec.structs.replace(RUNNING, retry_after_s=retry_after_s)) == NOW + next_ms
    assert history(one.rescheduled[0].told) == [PastPoll(49_800, "running", (next_ms + 200) // 100 * 100, why, 0)]


async def test_a_task_that_may_be_asked_about_at_once_is() -> None:
    """Where the upstream asks for nothing else."""
    one = Answered()
    one.heard.next_ms = 0
    assert await one.store(AGAIN, RUNNING) == NOW


@pytest.mark.parametrize(("newest", "record"), [(True, b"{}"), (False, None)])
async def test_an_answer_that_came_late_replaces_no_newer_one(newest: bool, record: bytes | None) -> None:
    """What was told by one that was asked for later stays; so does what is known of the model."""
    one = Answered()
    one.heard.newest = newest
    await one.store(AGAIN, msgspec.structs.replace(RUNNING, record=b"{}", model="told"))
    assert (one.rescheduled[0].record, one.rescheduled[0].model) == (record, "told")
    assert one.heard.calls == [("running", "told", AGAIN.born_at)], "the newer word counts"


@pytest.mark.parametrize("failures", [0, 4])
@pytest.mark.parametrize("oversized", [False, True])
@pytest.mark.parametrize("rare", [False, True])
async def test_a_poll_that_brought_nothing_is_made_again(failures: int, oversized: bool, rare: bool) -> None:
    """Later with each that failed; the timetable hears what is dear, and of which task to ask seldom."""
    one = Answered()
    one.heard.rare = one.heard.denied = rare
    result = PollResult(kind=PollKind.BROKEN, error="It answered 500.", retry_after_s=3.0, oversized=oversized)
    claim = msgspec.structs.replace(AGAIN, failures=failures, born_at=None)
    assert await one.store(claim, result) == NOW + 9000
    (record,) = one.rescheduled
    assert (record.error, record.born_at, record.denied) == ("It answered 500.", None, rare)
    assert one.heard.calls == [("failed", failures + 1, 3.0, oversized, rare)]
    assert history(record.told) == [PastPoll(49_800, "broken", 9200, Why.BACKOFF, 0)]


@pytest.mark.parametrize(
    ("last_polled_at", "first"), [(None, True), (CLAIM.created_at - 1, True), (CLAIM.created_at, False)]
)
async def test_the_first_poll_tells_of_the_registration_too(last_polled_at: int | None, first: bool) -> None:
    """Also where the task was watched before, and is so anew."""
    one = Answered()
    await one.store(msgspec.structs.replace(CLAIM, last_polled_at=last_polled_at), RUNNING)
    registered, poll = (
        PastPoll(0, "registered", 40_000, Why.FIRST, 0),
        PastPoll(49_800, "running", 5200, Why.LEARNED, 0),
    )
    assert history(one.rescheduled[0].told) == ([registered] if first else []) + [poll]


@pytest.mark.parametrize(
    ("claim", "result", "model", "duration_s", "told"),
    [
        (CLAIM, DONE, None, 25.0, False),
        (AGAIN, DONE, "known", 50.0, False),
        (AGAIN, msgspec.structs.replace(DONE, model="told", duration_s=12.5), "told", 12.5, True),
    ],
)
async def test_an_end_is_stored_and_learned_from(
    claim: DueTask, result: PollResult, model: str | None, duration_s: float, told: bool
) -> None:
    """Once, with the poll that brought it; nothing is due after it."""
    one = Answered()
    assert await one.store(claim, result) is None
    (settlement,) = one.settled
    assert (settlement.seq, settlement.upstream, settlement.settled_at, settlement.polls) == (7, "up", NOW, 1)
    assert (settlement.outcome, settlement.model) == (DONE.outcome, model)
    assert (settlement.read, settlement.keeps_record, settlement.expired_by) == (False, False, None)
    assert history(settlement.told)[-1] == PastPoll(49_800, "terminal", 0, Why.ENDED, 0)
    began_at = claim.created_at if claim.born_at is None else claim.born_at
    assert one.heard.calls == [("ended", model, began_at, duration_s, told), ("forget running", "task_7")]
    assert (one.counted(TaskState.SUCCESS), one.abandoned) == (1, 0)
    assert one.rescheduled == []


async def test_an_end_is_kept_for_its_readers_where_the_outcome_tells_less() -> None:
    """Who reads it is told what the upstream has answered."""
    one = Answered()
    await one.store(
        msgspec.structs.replace(AGAIN, read_until=NOW), msgspec.structs.replace(DONE, faithful=False, record=b"{}")
    )
    assert (one.settled[0].read, one.settled[0].keeps_record) == (True, True)


async def test_an_end_that_is_another_replicas_to_store_counts_for_nothing() -> None:
    """It is neither learned from, counted nor logged here."""
    one = Answered(owed=None)
    with capture_logs() as log:
        assert await one.store(AGAIN, DONE) is None
    assert [name for name, *_ in one.heard.calls] == ["forget running"]
    assert one.counted(TaskState.SUCCESS) == 0
    assert log == []


@pytest.mark.parametrize(
    ("size", "pauses_s"), [(2, [1, 2, 4, 8, 16, 32]), (SMALL, [1, 2, 4, 8, 16, 32]), (SMALL + 1, [])]
)
async def test_an_end_whose_task_is_locked_is_tried_again_for_a_minute(size: int, pauses_s: list[float]) -> None:
    """After ever longer pauses; what is large is asked for anew, as it would fill the memory meanwhile."""
    one = Answered()
    one.locked = True
    done = msgspec.structs.replace(DONE, outcome=Outcome(state=TaskState.SUCCESS, data=b"x" * size))
    with pytest.raises(StoreLocked):
        await one.store(AGAIN, done)
    assert one.pauses_s == pauses_s
    assert len(one.settled) == len(pauses_s) + 1


async def test_an_unknown_task_is_given_up() -> None:
    """Nothing is learned from how long that took; its callbacks are counted, and it is forgotten."""
    one = Answered()
    one.heard.unknown = True
    with capture_logs() as log:
        assert await one.store(AGAIN, PollResult(kind=PollKind.NOT_KNOWN, error="It answered 404.")) is None
    (settlement,) = one.settled
    assert (settlement.outcome.state, settlement.polls) == (TaskState.ABANDONED, 1)
    assert history(settlement.told) == [PastPoll(49_800, "not_known", 0, Why.ENDED, 0)]
    assert one.heard.calls == [("forget", 7)]
    assert (one.counted(TaskState.ABANDONED), one.abandoned) == (1, 2)
    assert [(line["event"], line["log_level"], line["polls"]) for line in log] == [("task.settled", "warning", 4)]
