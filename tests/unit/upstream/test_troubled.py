"""What is remembered of tasks whose polls went wrong: when one is given up, and when it is the upstream that errs."""

import pytest

from gateway.core.claims import DueTask
from gateway.upstream import troubled
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.troubled import Troubled
from tests.nouns import due_task

AT = 1_777_460_000_000  # the wall clock where the steady one says 0
UNKNOWN, RUNNING = PollResult(kind=PollKind.NOT_KNOWN), PollResult(kind=PollKind.RUNNING)
BROKEN, REFUSED = PollResult(kind=PollKind.BROKEN), PollResult(kind=PollKind.KEY_REFUSED)
FOREIGN = PollResult(kind=PollKind.BROKEN, by_api=False)
UNREACHABLE, CLOSED = PollResult(kind=PollKind.UNREACHABLE), PollResult(kind=PollKind.MAINTENANCE)
UNREADABLE = PollResult(kind=PollKind.BROKEN, unreadable=True)


class Key:
    refusal: str | None = None
    doubted = False
    accepted_at = -1.0

    def accepted_since(self, at: float) -> bool:
        return self.accepted_at > at


def task(seq: int = 1, *, created_s: float = 0.0, told: bool = False) -> DueTask:
    created_at = AT + round(created_s * 1000)
    return due_task(seq=seq, created_at=created_at, born_at=created_at if told else None)


def after(polls: list[tuple[float, PollResult]], one: DueTask) -> tuple[Troubled, bool]:
    """Note what each poll brought at its second; return whether the task is to be given up with the last."""
    noted, unknown = Troubled(Key()), False
    for at, result in polls:
        noted.note(one, result, at)
        unknown = result is UNKNOWN and noted.is_unknown(one, AT + round(at * 1000), at)
    return noted, unknown


@pytest.mark.parametrize(
    ("polls", "created_s", "given_up"),
    [
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (3, UNKNOWN), (120, UNKNOWN)], 0, True),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (3, UNKNOWN), (119.999, UNKNOWN)], 0, False),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (120, UNKNOWN)], 0, False),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (3, UNKNOWN), (120, UNKNOWN)], 0.001, False),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (3, UNKNOWN), (200, UNKNOWN)], 80, True),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, BROKEN), *[(200, UNKNOWN)] * 5], 0, False),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, RUNNING), *[(200, UNKNOWN)] * 5], 0, False),
        ([(200, UNKNOWN)] * 5, 0, False),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (3, UNKNOWN), (119.999, UNKNOWN)], -1000, False),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN), (3, UNKNOWN), (120, UNKNOWN)], -1000, True),
    ],
)
def test_when_an_unknown_task_is_given_up(
    polls: list[tuple[float, PollResult]], created_s: float, given_up: bool
) -> None:
    """Five answers in a row and two minutes between the first and the last of them, by both clocks."""
    assert after(polls, task(created_s=created_s))[1] is given_up


def test_a_task_that_was_told_of_is_never_unknown() -> None:
    """However often it is denied: it is asked about ever more seldom, and the upstream makes no sense."""
    polls = [(60.0 * number, UNKNOWN) for number in range(500)]
    noted, given_up = after(polls, task(told=True))
    assert not given_up
    assert noted.seldom(1) == 1
    assert noted.makes_no_sense(polls[-1][0])
    assert not noted.makes_no_sense(polls[-1][0] + 600)
    noted.note(task(told=True), RUNNING, 40_000.0)
    assert (noted.seldom(1), noted.makes_no_sense(40_000.0)) == (0, False)


def test_no_new_task_is_given_up_while_those_told_of_are_denied() -> None:
    """Who denies what it has told of is not believed about others; with the first task that it tells of, it is."""
    noted = Troubled(Key())
    for at in (0.0, 1.0, 2.0, 3.0, 130.0):
        noted.note(task(1, told=True), UNKNOWN, at)
        noted.note(task(2), UNKNOWN, at)
    assert not noted.is_unknown(task(2), AT + 130_000, 130.0)
    noted.note(task(3), RUNNING, 131.0)
    assert noted.is_unknown(task(2), AT + 131_000, 131.0)


@pytest.mark.parametrize(
    ("polls", "denied"),
    [
        ([(0, UNKNOWN), (60, UNKNOWN), (120, UNKNOWN)], True),
        ([(0, UNKNOWN), (60, UNKNOWN), (119.9, UNKNOWN)], False),
        ([(0, UNKNOWN), (60, RUNNING), (120, UNKNOWN)], False),
        ([(0, UNKNOWN), (60, BROKEN), (120, UNKNOWN)], True),
        ([(0, UNKNOWN), (120, UNKNOWN), (121, RUNNING)], False),
        ([(0, REFUSED), (1, REFUSED), (121, REFUSED)], True),
        ([(0, REFUSED), (1, REFUSED), (120.9, REFUSED)], False),
        ([(0, REFUSED), (200, BROKEN)], False),
    ],
)
def test_a_task_that_was_told_of_is_long_denied(polls: list[tuple[float, PollResult]], denied: bool) -> None:
    """After two minutes of denials, or of refusals alone, whatever else comes in between but that it is told of."""
    key = Key()
    noted = Troubled(key)
    for at, result in polls:
        noted.note(task(told=True), result, at)
        key.accepted_at = at + 0.5
    assert noted.is_denied(1) is denied
    assert not noted.is_denied(2)


def test_a_new_task_is_not_denied() -> None:
    """Of which nobody has told: it may be unknown yet. Nor is one that is refused with the key."""
    assert not after([(60.0 * number, UNKNOWN) for number in range(9)], task())[0].is_denied(1)
    assert not after([(60.0 * number, REFUSED) for number in range(9)], task(told=True))[0].is_denied(1)


@pytest.mark.parametrize(
    ("results", "nonsense"),
    [
        ([FOREIGN] * 3, True),
        ([UNREADABLE] * 3, True),
        ([FOREIGN, UNREADABLE, FOREIGN], True),
        ([FOREIGN] * 2, False),
        ([FOREIGN, FOREIGN, RUNNING, FOREIGN], False),
        ([FOREIGN, FOREIGN, BROKEN, PollResult(kind=PollKind.UNREACHABLE), FOREIGN], True),
        ([BROKEN] * 9, False),
        ([UNKNOWN] * 9, False),
        ([PollResult(kind=PollKind.BROKEN, unreadable=True, oversized=True)] * 9, False),
        ([PollResult(kind=PollKind.UNREACHABLE)] * 9, False),
        ([PollResult(kind=PollKind.THROTTLED, by_api=False)] * 9, False),
    ],
)
def test_what_makes_no_sense(results: list[PollResult], nonsense: bool) -> None:
    """Three answers that are not the API's, and none in between that tells of a task; errors of the API's own do."""
    noted = Troubled(Key())
    for number, result in enumerate(results):
        noted.note(task(number), result, float(number))
    assert noted.makes_no_sense(10.0) is nonsense


@pytest.mark.parametrize(
    ("results", "none"),
    [
        ([UNREACHABLE] * 3, True),
        ([BROKEN] * 3, True),
        ([CLOSED, BROKEN, UNREACHABLE], True),
        ([UNREACHABLE] * 2, False),
        *(([UNREACHABLE, UNREACHABLE, other, UNREACHABLE], False) for other in (RUNNING, UNKNOWN, REFUSED, FOREIGN)),
        ([UNREADABLE] * 9, False),
        ([FOREIGN] * 9, False),
        ([PollResult(kind=PollKind.BROKEN, unreadable=True, oversized=True)] * 9, False),
    ],
)
def test_what_gives_no_answer(results: list[PollResult], none: bool) -> None:
    """Three polls without an answer, or with an error of the API's own, and no other answer in between; for a while."""
    noted = Troubled(Key())
    for number, result in enumerate(results):
        noted.note(task(number), result, float(number))
    assert noted.gives_no_answer(10.0) is none
    assert not noted.gives_no_answer(len(results) - 1 + 600.0)
    noted.clear()
    assert not noted.gives_no_answer(10.0)


def test_a_task_is_refused_alone_where_the_key_was_accepted_in_between() -> None:
    """Until then its pauses stay short; those of the others count as well."""
    key = Key()
    noted = Troubled(key)
    for seq in (1, 2):
        noted.note(task(seq), REFUSED, 10.0)
    assert (noted.is_refused(1), noted.seldom(1)) == (True, 0)
    key.accepted_at = 11.0
    noted.note(task(1), REFUSED, 20.0)
    assert (noted.seldom(1), noted.seldom(2), noted.seldom(3)) == (2, 0, 0)
    assert noted.refuses_tasks(619.0)
    assert not noted.refuses_tasks(620.0)
    key.doubted = True
    assert not noted.refuses_tasks(20.0)
    noted.note(task(1), BROKEN, 30.0)
    assert not noted.is_refused(1)


def test_what_is_not_watched_any_more_is_forgotten() -> None:
    """A task whose last callback was cancelled is never heard of again: it does not count against others for ever."""
    key = Key()
    key.accepted_at = 1e9
    noted = Troubled(key)
    noted.note(task(1), REFUSED, 0.0)
    noted.note(task(2, told=True), UNKNOWN, 0.0)
    for seq in (3, 4):
        noted.note(task(seq), REFUSED, 7201.0)
        noted.note(task(seq, told=True), UNKNOWN, 7201.0)
    noted.note(task(5), REFUSED, 7202.0)
    assert (noted.is_refused(1), noted.seldom(5)) == (False, 3)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks are in trouble, and never heard of again: the latest are remembered."""
    monkeypatch.setattr(troubled, "_REMEMBERED", 10)
    noted = Troubled(Key())
    for result, told in ((UNKNOWN, False), (UNKNOWN, True), (REFUSED, False), (UNREADABLE, False)):
        for seq in range(100):
            noted.note(task(seq, told=told), result, 0.0)
        assert max(len(kind) for kind in noted._all) == 10
    assert (noted.is_unreadable(99), noted.is_unreadable(89)) == (True, False)
    noted.forget(99)
    assert not noted.is_unreadable(99)
