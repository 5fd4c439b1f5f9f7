"""A task's polls, in words and as a picture: what each brought, and why it was made when it was.

Owns the words for the codes of ``core.pollhistory``, and where the curve of what was learned and the polls lie on a
picture. Pure; called by ``timeline``.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from gateway.core.model import Task
from gateway.core.pollhistory import PastPoll, Why
from gateway.dashboard.facts import ModelFacts
from gateway.dashboard.words import span

_CAME = {
    "running": "still running",
    "terminal": "it had ended",
    "not_known": "the upstream knew no such task",
    "throttled": "too many requests",
    "key_refused": "the key was refused",
    "credits": "the account's credits were used up",
    "maintenance": "the upstream was not available",
    "broken": "an error",
    "unreachable": "no answer",
    "unreadable": "an answer that nobody can read",
}
_GOOD = ("running", "terminal")
"""What tells of the task."""
_WHY = {
    Why.LEARNED: "where such tasks end, by what was learned",
    Why.SHORT: "where such tasks end, by what was learned, and seldom, as the rate limit was short",
    Why.EXPLORING: "few such tasks had been seen, so the steps grow with its age",
    Why.OUTLIVED: "it was older than all that had been seen, so after half of its age",
    Why.BACKOFF: "the one before had brought nothing: twice as long each time",
    Why.SELDOM: "the upstream refused or denied this task alone, so ever more seldom",
    Why.COSTLY: "its answer was too large to be read, and each try is dear",
    Why.TOLD: "the upstream had asked to be left alone for so long",
}
_LATE = "its turn in the key's rate limit came then, or the gateway was busy or stopped"
_LATE_FOR_KEY = "the upstream refused the key"
_NOTICED_MS = 1000
"""By how much a poll is late or early before that is told."""

_WIDE, _HIGH, _FOOT = 600, 96, 20
"""Of the picture, in its own units: how wide it is, how high the curve, and what is below it."""
_MOST_POINTS = 90


class PollLine(NamedTuple):
    """One poll as the time line tells it."""

    at: int
    title: str
    why: str
    good: bool
    """Whether it told of the task."""


class Tick(NamedTuple):
    """Where a poll lies."""

    x: float
    good: bool


class Picture(NamedTuple):
    """The share of such tasks that have ended by each age, the polls of this one, and its own end."""

    outline: str
    """The curve, as points of a polyline."""
    area: str
    ticks: Sequence[Tick]
    end_x: float | None
    next_x: float | None
    marks: Sequence[tuple[float, str]]
    """Ages below it, and where they stand."""
    half: str
    most: str
    seen: int


def told(task: Task, polls: Sequence[PastPoll]) -> Iterator[PollLine]:
    """Yield a line for each poll that is kept, and one for those between them that are not."""
    number = 0
    for before, poll in pairwise([None, *polls]):
        assert poll is not None  # noqa: S101 - the first of all is before, and never after
        at = task.created_at + poll.at_ms
        if poll.left_out:
            number += poll.left_out
            times = "One more poll" if poll.left_out == 1 else f"{poll.left_out:,} more polls"
            yield PollLine(at - 1, times, "What each of them brought is not kept.", good=True)
        if poll.came not in _CAME:
            continue
        number += 1
        yield PollLine(at, f"Poll {number}: {_CAME[poll.came]}", _reason(before, poll), poll.came in _GOOD)


def _reason(before: PastPoll | None, poll: PastPoll) -> str:
    """Say why a poll was made when it was: what the one before it had planned, and what came of that."""
    if before is None or poll.left_out:
        return ""
    late_ms = poll.at_ms - before.at_ms - before.next_ms
    after = span(before.next_ms / 1000)
    if before.why is Why.FIRST and before.next_ms < _NOTICED_MS:
        reason = "Due at once: what it is, its first answer tells."
    elif before.why is Why.FIRST:
        reason = f"The first one was due {after} after the task came: when it begins to pay."
    elif before.why in _WHY:
        reason = f"Due {after} after the one before: {_WHY[before.why]}."
    else:
        reason = ""
    if late_ms >= _NOTICED_MS:
        late = _LATE_FOR_KEY if before.came == "key_refused" else _LATE
        reason += f" It was made {span(late_ms / 1000)} later: {late}."
    elif late_ms <= -_NOTICED_MS:
        reason += f" It was made {span(-late_ms / 1000)} earlier: there was news of the task, or a time was over."
    return reason.strip()


def planned(polls: Sequence[PastPoll]) -> str:
    """Say why the next poll is due when it is."""
    if not polls:
        return ""
    last = polls[-1]
    return f"{_WHY[last.why].capitalize()}." if last.why in _WHY else ""


def drawn(task: Task, polls: Sequence[PastPoll], learned: ModelFacts) -> Picture:
    """Draw what was learned of such tasks, up to nine of ten of them or this one's last poll."""
    began_at = task.created_at if task.born_at is None else min(task.born_at, task.created_at)

    def age_s(at: int) -> float:
        return max(at - began_at, 0) / 1000

    asked = [(age_s(task.created_at + one.at_ms), one.came in _GOOD) for one in polls if one.came in _CAME]
    end_s = None if task.settled_at is None else age_s(task.settled_at)
    next_s = None if task.next_poll_at is None else age_s(task.next_poll_at)
    widest_s = max(learned.most_s * 1.25, *(age for age, _ in asked), end_s or 0.0, next_s or 0.0, 1.0)

    def x(age: float) -> float:
        return round(_WIDE * age / widest_s, 1)

    points = [
        f"{x(age)},{round(_HIGH * left, 1)}"
        for age, left in _thinned(list(zip(learned.ages_s, learned.survival, strict=True)))
        if age <= widest_s
    ]
    outline = " ".join(points)
    last_x = points[-1].partition(",")[0] if points else "0"
    return Picture(
        outline=outline,
        area=f"0,{_HIGH} {outline} {last_x},{_HIGH}",
        ticks=[Tick(x(age), good) for age, good in asked],
        end_x=None if end_s is None else x(end_s),
        next_x=None if next_s is None else x(next_s),
        marks=[(x(widest_s * part / 4), span(widest_s * part / 4)) for part in range(4)],
        half=span(learned.half_s),
        most=span(learned.most_s),
        seen=learned.seen,
    )


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    step = max(len(points) // _MOST_POINTS, 1)
    return [*points[:-1:step], *points[-1:]]
