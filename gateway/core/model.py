"""The nouns: task, callback, attempt, outcome; their states, and who moves them from one to the next.

Owns the two tables of moves, which the manual prints; tests hold the store's statements, the schema's CHECKs and the
API's refusals to them. Pure. All other modules speak in these types, and in those of ``claims``.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from gateway.core.urls import receiver_of


class TaskState(StrEnum):
    """What is known of the upstream's job. Being polled right now is a claim, not a state."""

    WAITING = "waiting"
    SUCCESS = "success"
    FAIL = "fail"
    ABANDONED = "abandoned"  # the gateway gave up

    @property
    def terminal(self) -> bool:
        """Whether the upstream itself has ended the task, so that asking again cannot change the answer."""
        return self in (TaskState.SUCCESS, TaskState.FAIL)


class CallbackState(StrEnum):
    """What has become of one owed webhook. Being sent right now is a claim, not a state."""

    WAITING = "waiting"  # for its task's end
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # no attempt is left
    CANCELLED = "cancelled"


class Format(StrEnum):
    """The shape of a webhook's body."""

    STANDARD = "standard"  # the gateway's own
    RECORD = "record"  # the upstream's: what its own callbacks hold


TASK_MOVES: Mapping[TaskState | None, Mapping[TaskState | None, str]] = {
    None: {TaskState.WAITING: "API"},
    TaskState.WAITING: {
        TaskState.WAITING: "API",  # all its callbacks were cancelled, and a new one came
        TaskState.SUCCESS: "poller",
        TaskState.FAIL: "poller",
        TaskState.ABANDONED: "poller",
        None: "janitor",
    },
    TaskState.SUCCESS: {None: "janitor"},
    TaskState.FAIL: {None: "janitor"},
    TaskState.ABANDONED: {TaskState.WAITING: "API", None: "janitor"},  # to waiting: a new callback came
}
"""State → {next state: who moves it there}; None: there is no such task yet, or no more."""

CALLBACK_MOVES: Mapping[CallbackState | None, Mapping[CallbackState | None, str]] = {
    None: {CallbackState.WAITING: "API", CallbackState.PENDING: "API"},  # to pending: its task had ended before
    CallbackState.WAITING: {CallbackState.PENDING: "poller", CallbackState.CANCELLED: "API"},
    CallbackState.PENDING: {
        CallbackState.PENDING: "deliverer, API",  # for a retry; for a redelivery
        CallbackState.DELIVERED: "deliverer",
        CallbackState.DEAD: "deliverer",
        CallbackState.CANCELLED: "API",
    },
    CallbackState.DELIVERED: {CallbackState.PENDING: "API", None: "janitor"},  # to pending: a redelivery
    CallbackState.DEAD: {CallbackState.PENDING: "API", None: "janitor"},
    CallbackState.CANCELLED: {None: "janitor"},
}
"""The same of callbacks."""


class AttemptResult(StrEnum):
    """What one attempt came to, and with it what happens next."""

    DELIVERED = "delivered"  # 2xx: done
    RETRY = "retry"  # failed, and the schedule has a next attempt
    DEAD = "dead"  # failed, and it was the last attempt or the receiver said 410
    INTERRUPTED = "interrupted"  # the gateway shut down meanwhile, or its own proxy failed; does not count, made again


class Noun(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What never changes and holds nothing that could lead back to it: the garbage collector need not look at it.

    Array-like: a store makes them of rows, whose columns stand in the order of the fields. ``seq`` is its own number of
    a row, and grows with every one; ``born_at``, ``model`` and ``failures`` are told of at DueTask.
    """


class Outcome(Noun, frozen=True, kw_only=True):
    """How a task ended: a state other than waiting, and the members of the webhook's ``data`` that tell it.

    ``data`` is the encoded JSON object of those members without ``callbackId`` and ``metadata``, which differ from
    callback to callback. Its bytes are stored and never made again.
    """

    state: TaskState
    data: bytes


class Task(Noun, frozen=True, kw_only=True):
    """The upstream's job as the gateway knows it."""

    seq: int
    upstream: str
    task_id: str
    state: TaskState
    polls: int
    created_at: int
    last_polled_at: int | None
    next_poll_at: int | None
    last_error: str | None
    settled_at: int | None = None
    born_at: int | None = None
    model: str | None = None
    outcome: bytes | None = None
    """``Outcome.data`` once the task has settled, where it is small; else the store is asked for it."""
    outcome_bytes: int = 0
    """How large that is."""


class Callback(Noun, frozen=True, kw_only=True):
    """One registration and the one webhook it is owed."""

    seq: int
    id: str
    client: str
    url: str
    receiver: str
    metadata: bytes
    """The encoded JSON object, compact; ``{}`` where the client sent none."""
    timeout_s: int
    format: Format
    state: CallbackState
    created_at: int
    expires_at: int
    attempts: int
    next_attempt_at: int | None
    delivered_at: int | None
    last_error: str | None
    task: Task


class Attempt(Noun, frozen=True, kw_only=True):
    """One POST of a callback's webhook, as it is kept."""

    number: int
    started_at: int
    duration_ms: int
    status_code: int | None
    error: str | None
    result: AttemptResult
    excerpt: str | None = None
    """How the body of the answer began, at most 1 KiB; None where it was delivered or no body came."""


def weight(size: int) -> int:
    """Return how many small rows take as long to write as one with so many bytes in it.

    With SQLite 512 small ones were measured at 7 ms, with 2 kB each at 56, with 8 kB at 62.
    """
    return 1 + size // 1024


class NewCallback(Noun, frozen=True, kw_only=True):
    """A registration on its way into the store."""

    id: str
    client: str
    upstream: str
    task_id: str
    url: str
    metadata: bytes
    timeout_s: int
    created_at: int
    first_poll_at: int
    receiver: str = ""
    """Who receives: scheme, host and port of the URL, also where it is left out; or its table's ``match``."""
    model: str | None = None
    """Which model works on the task, where the client has told, in the registration or its create."""
    format: Format = Format.STANDARD
    trace: str | None = None
    """What its webhook is to be a part of: ``gateway.core.tracecontext``."""

    def __post_init__(self) -> None:
        if not self.receiver:
            msgspec.structs.force_setattr(self, "receiver", receiver_of(self.url))

    @property
    def expires_at(self) -> int:
        return self.created_at + self.timeout_s * 1000

    @property
    def weight(self) -> int:
        return weight(len(self.metadata))

    def same_request_as(self, existing: Callback) -> bool:
        """Whether a registration that already exists asked for the same thing, whatever the key order."""
        return (
            self.timeout_s == existing.timeout_s
            and self.format is existing.format
            and _canonical(self.metadata) == _canonical(existing.metadata)
        )


class PollRecord(Noun, frozen=True, kw_only=True):
    """What one poll that did not end its task leaves behind."""

    seq: int
    upstream: str
    polled_at: int
    next_poll_at: int
    error: str | None
    """Why the poll brought no usable answer, or None where the upstream said "still running"."""
    born_at: int | None = None
    model: str | None = None
    """Both where the answer told them; None keeps what is known."""
    record: bytes | None = None
    """What the upstream told of a task that is read; None keeps what is known."""
    asked_at: int | None = None
    """When the poll was sent; None: at the same moment. What was told, or wished for, after that stays."""
    denied: bool = False
    """Whether the upstream has long denied that there is the task, though it had told of it."""
    told: bytes = b""
    """This poll, as the task's row keeps it: ``core.pollhistory``."""


class Settlement(Noun, frozen=True, kw_only=True):
    """A task's end, to be stored together with the webhooks that it makes due."""

    seq: int
    upstream: str
    outcome: Outcome
    settled_at: int
    polls: int
    """Polls to add to the task's count: 1 where a poll brought the outcome, else 0."""
    model: str | None = None
    frame: tuple[bytes, bytes, bytes] | None = None
    """Of a task that was given up, its webhooks' bodies but for the callback's id and its metadata, which stand between
    these. They are stored, as the task may begin anew; None: a body is made of what the task's row says for good."""
    record: tuple[bytes, bytes, bytes] | None = None
    """The whole body of its webhooks of format record, in parts. It is stored where one is owed: in the task's row,
    once for all of them, or with each callback where it was given up. None: such a body is made of the outcome."""
    read: bool = False
    """Whether the record is stored for readers as well."""
    keeps_record: bool = False
    """Whether it is kept for readers who come later, too: it tells what an answer made of the outcome would not."""
    expired_by: int | None = None
    """Settle only callbacks whose ``expires_at`` is at most this; the task itself ends once nobody waits any more."""
    told: bytes = b""
    """As in PollRecord, where a poll brought the outcome."""


class ExpiredTask(Noun, frozen=True, kw_only=True):
    """A waiting task with at least one callback whose time has passed."""

    seq: int
    task_id: str
    expires_at: int
    """The earliest passed ``expires_at`` among its waiting callbacks."""
    last_polled_at: int | None
    failures: int


class Registration(Noun, frozen=True, kw_only=True):
    """What the store made of a NewCallback: the callback that now stands, and whether this request created it."""

    callback: Callback
    created: bool


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits."""

    waiting: dict[str, tuple[int, int]]
    """By upstream, how many tasks are watched, and when the next poll of any of them is or was due."""
    pending: int
    """Webhooks that are owed."""
    oldest_due_at: int | None
    """Since when the longest due one of these is that no pause holds back; None where there is none."""
    dead: int


def _canonical(data: bytes) -> bytes:
    # Bytes are compared, because to Python 1, 1.0 and true are equal.
    return msgspec.json.encode(msgspec.json.decode(data), order="sorted")
