"""The names of the statements, which each engine has in its own dialect: what they take, and what they return.

A module of constants is one: each engine has five. *Rows*: over many rows (``engine.Rows``), which have these columns;
else run once, with the parameters in this order, or named. Owns no SQL, but for how a lane is written; called by the
ports through their engine.
"""

from typing import Any, NamedTuple, Protocol

from gateway.core.model import CallbackState

NEW_CALLBACK = (
    "id",
    "client",
    "url",
    "receiver",
    "metadata",
    "timeout_s",
    "created_at",
    "expires_at",
    "format",
    "trace",
)
"""What a registration sets of a callback's row."""

OWED_AT_ONCE = 5000
"""Webhooks that one statement makes due: a task may have any number of callbacks, and a statement has five seconds."""

LANE = "client || '\n' || receiver"
"""What names a lane in one column: neither of the two has a line's end in it."""


class Counted(NamedTuple):
    """What is counted in parts. Parameters of both statements: the row before the part, and the part's size."""

    part: str
    """By label how many rows are in the part, and their earliest instant."""
    end: str
    """The part's last row, where it is full."""
    start: tuple[Any, ...]
    """Comes before every row."""


class Statements(Protocol):
    """Tasks, callbacks and small values. CALLBACK, TASK: the fields of these types, in their order."""

    # Registering.

    INSERT_TASKS: str
    """Rows upstream, task_id, created_at, next_poll_at, model, watchers → upstream, task_id, seq of those inserted."""
    INSERT_CALLBACKS: str
    """Rows upstream, task_id, then ``NEW_CALLBACK`` → id, seq of those inserted."""
    SELECT_REGISTERED: str
    """Rows upstream, task_id, client, url, place → CALLBACK with its TASK, without outcome, in the places' order."""
    REVIVE_TASK: str
    """:seq, :client, :now."""
    WATCH_TASK: str
    """:seq, :client, :first_poll_at → seq, upstream, watchers, next_poll_at where the client watches it from now on."""
    NAME_MODEL: str
    """:seq, :model."""
    OWE_WEBHOOK: str
    """:id, :deliver_at."""
    OWE_RECORD: str
    """seq."""

    # Reading for the API. :client None means everybody's.

    SELECT_CALLBACK: str
    """:id, :client → CALLBACK with its TASK."""

    def select_callbacks(self, *, state: CallbackState | None, by_task: bool, every_client: bool = False) -> str:
        """:client, :task_id, :before, :limit → CALLBACK with its TASK, newest first."""

    SELECT_TASK: str
    """:client, :task_id → TASK; its outcome only where it is small, then its length."""
    SELECT_ATTEMPTS: str
    """callback_seq, limit → the fields of ``Attempt``, the last one first."""
    SELECT_STATE: str
    """:id, :client → seq, task_seq, state."""
    SELECT_CLIENTS: str
    """→ client, of each that has a callback."""
    SELECT_POLLED_UPSTREAMS: str
    """→ upstream, of each that has a task to be polled."""
    COUNT_POLLED_TASKS: str
    """upstream, most → count, at most so many."""
    COUNT_CALLBACKS: str
    """→ state, count."""
    COUNT_WAITING: Counted
    """By upstream, of tasks that are to be polled."""
    COUNT_PENDING: Counted
    """Labelled with an empty text."""
    COUNT_PENDING_LANES: Counted
    """By ``LANE``."""
    COUNT_DEAD: Counted
    """Labelled with an empty text."""

    # Cancelling and redelivering.

    LOCK_STATE: str
    """:id, :client → seq, task_seq, state, ended_at: nobody changes them until the transaction ends."""
    CANCEL_CALLBACK: str
    """now, seq."""
    IDLE_TASKS: str
    """Rows seq, now: stops polling those that nobody waits for, nor reads."""
    REDELIVER_CALLBACK: str
    """:seq, :now → client, receiver."""
    REDELIVER_DEAD: str
    """:client, :since, :until, :now, :limit → client, receiver of each."""

    # Polling.

    SELECT_DUE_TASKS: str
    """upstream, watchers, from, array of claimed seqs, limit → the fields of ``DueTask``, the longest due first."""
    SELECT_NEXT_WATCHERS: str
    """upstream, watchers → upstream, watchers, next_poll_at: the earliest of the next group, or of the next ones."""
    SELECT_NEW_TASKS: str
    """upstream, since, now, array of claimed seqs → the fields of ``DueTask``, of each group's first."""
    RESCHEDULE_TASKS: str
    """Rows seq, polled_at, next_poll_at, error, born_at, model, record, asked_at, denied_at, told.

    → seq, next_poll_at at least of those that are to be polled sooner.
    """
    SELECT_TRACES: str
    """task_seq, limit → trace of callbacks that wait for it, in their order."""
    POLL_TASKS_NOW: str
    """Rows seq, now → upstream, watchers, next_poll_at of those moved."""
    OWE_WEBHOOKS: str
    """Rows task_seq, expired_by, deliver_at, head, middle, tail, record → task_seq, id, client, receiver, format.

    At most ``OWED_AT_ONCE``: where it is so many, there may be more.
    """
    SETTLE_TASKS: str
    """Rows seq, state, outcome, at, polls, record, told, told_at."""
    SELECT_EXPIRED: str
    """from, to, upstream → seq of each task of which a callback's time passes then."""
    SELECT_EXPIRY_END: str
    """from, to, how many → expires_at of the one that so many come before; none where they are fewer."""
    SELECT_EXPIRIES: str
    """array of seqs → the fields of ``ExpiredTask``, by expires_at, of those that callbacks wait for."""
    SELECT_NEXT_EXPIRY: str
    """after → the first expires_at, or NULL."""

    # Keeping house.

    PRUNE_CALLBACKS: str
    """:ended_before, :dead_before, :limit → task_seq of each that is deleted."""
    PRUNE_TASKS: str
    """Rows seq: deletes those that have no callback, nor a reader."""
    SELECT_META: str
    """key → value."""
    INSERT_META: str
    """key, value; its count counts."""
    SWAP_META: str
    """new value, key, old value; its count counts."""
    PROBE: str
    """Writes something."""


class DeliverStatements(Protocol):
    """Webhooks that are due, and what came of them."""

    SELECT_BODY: str
    """seq → task_seq, body, the task's column that has it or NULL, state, settled_at, metadata, format."""
    COUNT_OWED: str
    """client, receiver, most → count of the webhooks that are owed there, at most so many."""
    SELECT_LANES: str
    """client and receiver of the last one, limit → client, receiver, when the first one is due that nobody has claimed,
    and when which claims lapse, if any do; in their order."""
    INSERT_ATTEMPTS: str
    """Rows callback_seq, the fields of ``Attempt``, fence."""
    RECORD_ATTEMPTS: str
    """Rows seq, number, error, state, next_attempt_at, ended_at, counts, redeliveries, fence; its count counts."""
    RECORD_DEAD: str
    """As RECORD_ATTEMPTS → seq of those that it has changed."""
    COUNT_ATTEMPTS: str
    """Rows seq, number, fence: what RECORD_ATTEMPTS has passed over was made all the same; its claim ends, too."""
    HAND_OVER_WEBHOOKS: str
    """Rows seq, receiver, fence: its claim ends, too."""
    FORGET_INTERRUPTED: str
    """Rows seq, fence: of several interrupted attempts in a row only the first and the last one stay."""


class ReadStatements(Protocol):
    """Tasks that are watched for the proxy's readers."""

    SELECT_READ_TASK: str
    """task_id, upstream → TASK, its outcome only where small and without record, its length; the rest of ReadTask."""
    WATCH_READ_TASKS: str
    """Rows upstream, task_id, client, at, read_until, next_poll_at, told, born_at, model, record, asked_at.

    No task twice. → task_id, seq, upstream, watchers, next_poll_at, told_at of those that are watched.
    """
    POLL_AGAIN: str
    """:upstream, :task_id, :now, :record, :read_until → seq, upstream, watchers, next_poll_at, if it is polled."""
    COUNT_READ_TASKS: str
    """→ count."""
    COUNT_READ_TASKS_FOR: str
    """client → count of those that it watches."""
    SELECT_RUNNING: str
    """seq → a row where the task runs."""
    SELECT_UNREAD: str
    """now, read_until and seq of the last one, limit → read_until, seq."""
    SELECT_NEXT_UNREAD: str
    """now → the first read_until after it, or NULL."""
    LEAVE_TASKS: str
    """Rows seq, now: forgets the readers who have gone, of those that callbacks wait for; its count counts."""
    SELECT_LONG_UNREAD: str
    """read_before, limit → seq."""
    END_WATCHES: str
    """Rows seq, read_before: forgets the readers of those that were not read since."""


class CreateStatements(Protocol):
    """Creates that their clients may repeat. :client, :upstream, :request_id name one."""

    SELECT_CREATE: str
    """The create → digest, at, lost_at, status, content_type, task_id, answer."""
    INSERT_CREATE: str
    """The create, :digest, :at; its count counts."""
    END_CREATE: str
    """The create, :status, :content_type, :task_id, :answer."""
    LOSE_CREATE: str
    """The create, :lost_at."""
    FORGET_CREATE: str
    """The create."""
    PRUNE_CREATES: str
    """before, limit; its count counts."""
    SELECT_CREATORS: str
    """→ client."""
    PRUNE_EXCESS_CREATES: str
    """:client, :most, :limit; its count counts."""


class SearchStatements(Protocol):
    """Looking through rows. :client, :state, :upstream, :text, and in metadata :string, :inner, :last: each or NULL."""

    SEARCH_CALLBACKS: str
    """:first, :before, :limit → CALLBACK with its TASK, of these seqs, newest first."""
    SEARCH_TASKS: str
    """:first, :before, :limit → TASK, of these seqs, newest first; :client has callbacks for it."""
    LAST_CALLBACK: str
    """:before → the greatest seq below it, or NULL."""
    LAST_TASK: str
    """The same of tasks."""
    SELECT_POLL_LOG: str
    """seq → poll_log of a task."""
    COUNT_DIED: str
    """:client, :since, :until, :most, :receiver or NULL → how many died in a part of that time, and until when it is.

    :receiver stands in the receiver's name, with a slash at its end. In the part died so many of the
    client's, or all that did; more where they died at one instant.
    """
    SELECT_DEAD: str
    """:client, :until, :at, :seq, :limit, :receiver → ended_at, seq, id, url of its dead ones, in order.

    The url is NULL where :receiver does not stand in the receiver's name, with a slash at its end.
    """
