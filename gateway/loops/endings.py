"""How a task has ended → what is stored of that: its outcome, and what its webhooks' bodies are made of.

Owns what a task that was given up is told as, in each format; pure. Called by ``pollresults`` and ``expiry``.
"""

from typing import NamedTuple

from gateway.config.profile import Profile
from gateway.core.model import Outcome, TaskState
from gateway.upstream.answer import WHY_ABANDONED, AbandonReason, PollResult, abandoned
from gateway.upstream.envelope import given_up
from gateway.webhook.body import body_template, callback_parts, record_parts

CALLBACKS_TOLD = 20
"""So many of a task's callbacks are named in its line of the log."""

_CODE = 408


class Ending(NamedTuple):
    """What a settlement holds of a task's end."""

    outcome: Outcome
    frame: tuple[bytes, bytes, bytes] | None
    record: tuple[bytes, bytes, bytes] | None


def ended(profile: Profile, result: PollResult, outcome: Outcome) -> Ending:
    """Return how the upstream has ended a task, by the answer that told of it."""
    return Ending(outcome, None, None if result.record is None else _body(profile, outcome.state, result.record))


def gave_up(profile: Profile, task_id: str, reason: AbandonReason, now: int) -> Ending:
    """Return the end of a task that the gateway gives up: in format record, a failure that says so."""
    outcome = abandoned(task_id, reason)
    code = str(_CODE) if profile.callback is None else _CODE  # in a callback of its own it is the body's
    record = given_up(profile, task_id, code, f"The gateway gave this task up: {WHY_ABANDONED[reason]}.")
    return Ending(outcome, body_template(outcome, now).frame, _body(profile, TaskState.ABANDONED, record))


def _body(profile: Profile, state: TaskState, record: bytes) -> tuple[bytes, bytes, bytes]:
    if (own := profile.callback) is not None:
        return callback_parts(own.success if state is TaskState.SUCCESS else own.fail, record)
    return record_parts(state, record) if profile.wraps_records else (b"", record, b"")
