"""One callback's page: from its registration to what comes next and when, with each attempt in between.

Owns the order and the words; those of polls stand in ``polls``. Of polls, and of attempts in a row that do not count,
the store keeps the first and the last.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.core.errors import NotFound
from gateway.core.model import Attempt, AttemptResult, Callback, CallbackState, Task, TaskState
from gateway.core.pollhistory import PastPoll
from gateway.core.taskoutcome import read_outcome
from gateway.core.telling import told
from gateway.dashboard.actions import notice
from gateway.dashboard.asked import Asked, Shown
from gateway.dashboard.facts import ModelFacts, Paused
from gateway.dashboard.parts import PageParts
from gateway.dashboard.polls import drawn, planned
from gateway.dashboard.polls import told as told_of
from gateway.dashboard.words import clock_time, span
from gateway.upstream.answer import WHY_ABANDONED

_MOST_URLS = 20
_MOST_WORDS = 300
_LATE_MS = 1000


class LinePoint(NamedTuple):
    """What happened, or will, at one time."""

    title: str
    at: int | None
    text: str = ""
    look: str = ""
    """``good``, ``bad``, ``warn`` or ``next``."""
    excerpt: str | None = None
    """How a receiver's answer began."""


class TimeLine:
    """The page."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts

    async def show(self, asked: Asked) -> Shown:
        client, callback_id = asked.visitor.client, asked.path_params["id"]
        callback = await self._parts.registry.get_callback(client, callback_id)
        if callback is None:
            raise NotFound(f"There is no callback {callback_id}.")
        upstreams = {one.name for one in self._parts.upstreams()}
        callback = msgspec.structs.replace(callback, task=told(callback.task, upstreams))
        attempts = await self._parts.registry.list_attempts(client, callback_id) or []
        task = await self._parts.registry.get_task(client, callback.task.task_id)
        outcome = task.outcome if task is not None and task.seq == callback.task.seq else None
        polls = await self._parts.registry.polls(callback.task)
        learned = self._learned(callback.task)
        told_of_end, held_up = _how_it_ended(callback.task.state, outcome), self._held_up(callback.task)
        receiver = callback.receiver
        paused = self._parts.paused(callback.client, receiver, callback.url)
        return Shown(
            "callback.html",
            "callbacks",
            {
                "callback": callback,
                "task": callback.task,
                "receiver": receiver,
                "paused": paused,
                "notice": notice(asked, paused),
                "moments": moments(
                    callback, attempts, polls, learned, paused, self._attempts_at_most, told_of_end, held_up
                ),
                "picture": drawn(callback.task, polls, learned) if polls and learned is not None else None,
                "outcome": outcome,
                "outcome_bytes": 0 if task is None or task.seq != callback.task.seq else task.outcome_bytes,
                "urls": _result_urls(outcome),
                "redeliverable": callback.state in (CallbackState.PENDING, CallbackState.DELIVERED, CallbackState.DEAD),
                "cancellable": callback.state in (CallbackState.WAITING, CallbackState.PENDING),
            },
        )

    @property
    def _attempts_at_most(self) -> int:
        return len(self._parts.settings().retry_schedule)

    def _held_up(self, task: Task) -> str:
        """Say why the next poll is late; an empty text where it is not, or nobody knows."""
        upstream = next((one for one in self._parts.upstreams() if one.name == task.upstream), None)
        if upstream is None or task.next_poll_at is None or task.next_poll_at + _LATE_MS > self._parts.clock.now():
            return ""
        if upstream.refusal is not None:
            return f"It waits: the upstream {upstream.name} refuses the key."
        if upstream.told_to_wait:
            return "It waits for its turn: the upstream answered 429, too many requests."
        return "It waits for its turn: the key's rate limit is used up." if upstream.used_up else ""

    def _learned(self, task: Task) -> ModelFacts | None:
        """Return what is known of tasks like this one."""
        if task.model is None:
            return None
        return next((one for one in self._parts.models(task.upstream, task.model) if one.seen), None)


def moments(
    callback: Callback,
    attempts: Sequence[Attempt],
    polls: Sequence[PastPoll],
    learned: ModelFacts | None,
    paused: Paused | None,
    schedule_length: int,
    told_of_end: str = "",
    held_up: str = "",
) -> list[LinePoint]:
    """Return what a callback's time line has, in order.

    ``learned`` is what is known of such tasks; ``paused``, whether its receiver is; ``told_of_end``, what the task's
    end says; ``held_up``, why its next poll is late.
    """
    line = [LinePoint("Registered", callback.created_at, f"Waits for the task's end for {span(callback.timeout_s)}.")]
    line += _polls(callback.task, polls, learned)
    line += _of_task(callback, told_of_end)
    numbers = (0, *(attempt.number for attempt in attempts))
    line += [_attempt(attempt, before) for attempt, before in zip(attempts, numbers, strict=False)]
    line.sort(key=lambda moment: moment.at or 0)
    line.append(_next(callback, polls, paused, schedule_length, held_up))
    return line


def _polls(task: Task, polls: Sequence[PastPoll], learned: ModelFacts | None) -> list[LinePoint]:
    found = [LinePoint(one.title, one.at, one.why, "poll" if one.good else "warn") for one in told_of(task, polls)]
    if found:
        if task.last_error is not None:
            found[-1] = found[-1]._replace(text=f"{task.last_error} {found[-1].text}".strip())
    elif task.last_polled_at is not None and (task.settled_at is None or task.last_error is not None or task.polls > 1):
        times = "once" if task.polls == 1 else f"{task.polls} times"
        text = task.last_error or _asked_when(task, learned)
        at = task.last_polled_at if task.settled_at is None else min(task.last_polled_at, task.settled_at)
        found.append(LinePoint(f"Polled {times}", at, text, "warn" if task.last_error else ""))
    return found


def _of_task(callback: Callback, told_of_end: str) -> list[LinePoint]:
    task, found = callback.task, []
    if task.settled_at is not None:
        good = task.state is TaskState.SUCCESS
        title = "The gateway gave the task up" if task.state is TaskState.ABANDONED else f"The task ended: {task.state}"
        after = f"{span((task.settled_at - callback.created_at) / 1000)} after the registration."
        early = "It had ended before the registration." if task.settled_at < callback.created_at else after
        found.append(LinePoint(title, task.settled_at, f"{told_of_end} {early}".strip(), "good" if good else "bad"))
    return found


def _asked_when(task: Task, learned: ModelFacts | None) -> str:
    """Say why the polls lie where they do."""
    if learned is None:
        return "Nothing is known yet of how long such tasks take: the polls lie further and further apart."
    return (
        f"Polls lie where such tasks end: half of them within {span(learned.half_s)}, nine of ten within "
        f"{span(learned.most_s)}, as what is known of {learned.seen} tells."
    )


def _attempt(attempt: Attempt, before: int) -> LinePoint:
    """Return an attempt; ``before``: the number of the one that stands before it, 0 where it is the first."""
    said = f"answered {attempt.status_code}" if attempt.status_code is not None else "no answer"
    looks = {AttemptResult.DELIVERED: "good", AttemptResult.DEAD: "bad"}
    ends = {
        AttemptResult.DELIVERED: "Delivered",
        AttemptResult.RETRY: "To be tried again",
        AttemptResult.DEAD: "The webhook is dead: no attempt follows",
        AttemptResult.INTERRUPTED: "It was not the receiver's doing, so it does not count",
    }
    why = f" {attempt.error}" if attempt.error is not None else ""
    left_out = attempt.number - before - 1
    came_to = "came to the same" if before else "are not shown"
    others = f" The {left_out:,} before it {came_to}." if left_out else ""
    return LinePoint(
        f"Attempt {attempt.number}: {said}",
        attempt.started_at,
        f"{ends[attempt.result]}. It took {span(attempt.duration_ms / 1000)}.{others}{why}",
        looks.get(attempt.result, "warn"),
        attempt.excerpt,
    )


def _how_it_ended(state: TaskState, outcome: bytes | None) -> str:
    """Say why a task was abandoned, or with which words it failed."""
    if outcome is None or state not in (TaskState.FAIL, TaskState.ABANDONED):
        return ""
    try:
        end = read_outcome(msgspec.json.decode(outcome))
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError):
        return ""
    if (why := WHY_ABANDONED.get(end.reason or "")) is not None:
        return f"{why[0].upper()}{why[1:]}."
    words = ": ".join(one for one in (end.fail_code, end.fail_msg) if one)
    return f"It says {words[:_MOST_WORDS]!r}." if words else ""


def _next(
    callback: Callback, polls: Sequence[PastPoll], paused: Paused | None, schedule_length: int, held_up: str
) -> LinePoint:
    task = callback.task
    match callback.state:
        case CallbackState.WAITING if task.next_poll_at is None:
            return LinePoint("Nobody polls the task", None, "Its upstream is not configured here.", "bad")
        case CallbackState.WAITING:
            text = "The webhook goes out as soon as the task has ended, and as task.abandoned when its time is over."
            text = " ".join(filter(None, (held_up, planned(polls), text)))
            return LinePoint("Next poll", task.next_poll_at, text, "next")
        case CallbackState.PENDING if paused is not None:
            above = "" if paused.receiver == callback.receiver else f" with {paused.receiver}"
            text = f"Paused{above} by {paused.by} since {clock_time(paused.since)}."
            text += " It loses neither attempts nor time by that."
            return LinePoint(
                f"Attempt {callback.attempts + 1} waits for its receiver to be resumed", None, text, "warn"
            )
        case CallbackState.PENDING:
            most = f"A receiver that goes on failing gets {schedule_length} attempts in all."
            return LinePoint(f"Attempt {callback.attempts + 1}", callback.next_attempt_at, most, "next")
        case CallbackState.DELIVERED:
            return LinePoint("Nothing more: it was delivered", None, "It can be redelivered.", "good")
        case CallbackState.DEAD:
            return LinePoint("Nothing more: no attempt is left", None, "It can be redelivered.", "bad")
        case _:
            return LinePoint("Nothing more: it was cancelled", None)


class _ResultUrls(msgspec.Struct):
    resultUrls: Any = None  # noqa: N815 - as it is called on the wire


class _ResultOnly(msgspec.Struct):
    result: Any = None


def _result_urls(outcome: bytes | None) -> list[str]:
    """Return where a task's results are, as its upstream wrote it; whether one may be followed a page asks."""
    if outcome is None:
        return []
    try:
        result = msgspec.json.decode(outcome, type=_ResultOnly).result
        urls = msgspec.convert(result, _ResultUrls).resultUrls
    except msgspec.MsgspecError:
        return []
    return [url for url in urls if isinstance(url, str)][:_MOST_URLS] if isinstance(urls, list) else []
