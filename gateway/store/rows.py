"""Rows → ``gateway.core.model`` types, whose fields stand in the columns' order; those types → statements' parameters.

Owns what ``msgspec.convert`` alone does not make of a row, and the columns of statements over rows; pure.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from msgspec import convert

from gateway.core.claims import AttemptRecord, BodyParts, DueCallback
from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.memory import SMALL
from gateway.core.model import (
    Attempt,
    AttemptResult,
    Callback,
    CallbackState,
    NewCallback,
    PollRecord,
    Settlement,
    Task,
    TaskState,
)
from gateway.core.reads import END_TOLD, ReadTask, ReadWatch
from gateway.store.dialect import NEW_CALLBACK

T = TypeVar("T")

Table = list[tuple[Any, ...]]
"""What ``engine.Rows`` takes."""


_CALLBACK_COLUMNS = len(Callback.__struct_fields__) - 1  # then its task's
_TASK_COLUMNS = len(Task.__struct_fields__)  # then what its readers need
_DUE_COLUMNS = len(DueCallback.__struct_fields__) - 1  # then those of its body
_NEW_CALLBACK = attrgetter("upstream", "task_id", *NEW_CALLBACK)
_MADE = attrgetter("number", "started_at", "duration_ms", "status_code")
FOREVER = 2**62  # later than any instant, above any seq
_PART_BYTES = 256 * 1024
_NEXT_STATE = {
    AttemptResult.DELIVERED: CallbackState.DELIVERED,
    AttemptResult.RETRY: CallbackState.PENDING,
    AttemptResult.DEAD: CallbackState.DEAD,
    AttemptResult.INTERRUPTED: CallbackState.PENDING,
}


def callback(row: Any) -> Callback:
    return convert((*row[:_CALLBACK_COLUMNS], row[_CALLBACK_COLUMNS:]), Callback)


def task(row: Any) -> Task:
    return convert(row, Task)


def due_callback(row: Any) -> DueCallback:
    return convert((*row[:_DUE_COLUMNS], body(*row[_DUE_COLUMNS:])), DueCallback)


def body(
    stored: bytes | None, outcome: bytes | None, state: str, settled_at: int, metadata: bytes, shape: str
) -> BodyParts | bytes | None:
    """Return a webhook's stored body, or what it is made of; None where neither is here."""
    return (stored or None) if outcome is None else convert(((state, outcome), settled_at, metadata, shape), BodyParts)


def new_tasks(new: Sequence[NewCallback]) -> Table:
    """Return INSERT_TASKS' rows."""
    return [(c.upstream, c.task_id, c.created_at, c.first_poll_at, _text(c.model), c.client) for c in new]


def watched_tasks(wishes: Sequence[ReadWatch]) -> Table:
    """Return INSERT_TASKS' rows of tasks that are watched for readers."""
    return [(w.upstream, w.task_id, w.at, w.next_poll_at, _text(w.model), w.client) for w in wishes]


def new_callbacks(new: Sequence[NewCallback]) -> Table:
    """Return INSERT_CALLBACKS' rows."""
    return list(map(_NEW_CALLBACK, new))


def created_callback(new: NewCallback, seq: int, first: NewCallback, task_seq: int) -> Callback:
    """Return a callback as it was inserted, on the task that ``first`` has inserted beside it."""
    return Callback(
        seq=seq,
        id=new.id,
        client=new.client,
        url=new.url,
        receiver=new.receiver,
        metadata=new.metadata,
        timeout_s=new.timeout_s,
        format=new.format,
        state=CallbackState.WAITING,
        created_at=new.created_at,
        expires_at=new.expires_at,
        attempts=0,
        next_attempt_at=None,
        delivered_at=None,
        last_error=None,
        task=Task(
            seq=task_seq,
            upstream=new.upstream,
            task_id=new.task_id,
            state=TaskState.WAITING,
            polls=0,
            created_at=first.created_at,
            last_polled_at=None,
            next_poll_at=first.first_poll_at,
            last_error=None,
            model=_text(first.model),
        ),
    )


def named(task: Task, model: str) -> dict[str, Any]:
    """Return NAME_MODEL's parameters."""
    return {"seq": task.seq, "model": _text(model)}


def wanted(new: Sequence[NewCallback]) -> Table:
    """Return SELECT_REGISTERED's rows."""
    return [(c.upstream, c.task_id, c.client, c.url, place) for place, c in enumerate(new)]


def polls(records: Sequence[PollRecord]) -> Table:
    """Return RESCHEDULE_TASKS' rows; a large record is left empty, and written by itself."""
    return [
        (
            r.seq,
            r.polled_at,
            r.next_poll_at,
            _text(r.error),
            r.born_at,
            _text(r.model),
            small_record(r.record),
            r.polled_at if r.asked_at is None else r.asked_at,
            r.polled_at if r.denied else None,
            r.told,
        )
        for r in records
    ]


def small_record(record: bytes | None) -> bytes | None:
    """Return a record as a parameter: a large one is left empty, and written by itself."""
    return None if record is None else _small((record,))


def record_size(one: PollRecord | ReadWatch) -> int:
    """Return how much of it a statement's part would hold."""
    return len(one.record or b"")


def read_task(row: Any) -> ReadTask:
    return convert((row[:_TASK_COLUMNS], *row[_TASK_COLUMNS:]), ReadTask)


def read_watches(wishes: Sequence[ReadWatch]) -> Table:
    """Return WATCH_READ_TASKS' rows; a large record is left empty, and written by itself."""
    return [
        (
            wish.upstream,
            wish.task_id,
            wish.client,
            wish.at,
            wish.read_until,
            wish.next_poll_at,
            int(wish.told),
            wish.born_at,
            _text(wish.model),
            small_record(wish.record),
            wish.at if wish.asked_at is None else wish.asked_at,
        )
        for wish in wishes
    ]


def owed(settled: Sequence[Settlement], delay_ms: int) -> Table:
    """Return OWE_WEBHOOKS' rows; the webhooks fall due ``delay_ms`` milliseconds after their task's end."""
    return [
        (
            one.seq,
            FOREVER if one.expired_by is None else one.expired_by,
            one.settled_at + delay_ms,
            *((None,) * 4 if one.frame is None else (*one.frame, one.record and b"".join(one.record))),
        )
        for one in settled
    ]


def settled(ended: Sequence[Settlement], records: Container[int]) -> Table:
    """Return SETTLE_TASKS' rows; a large outcome or record is left empty, and written by itself.

    ``records``: of which tasks, by seq, the record is owed.
    """
    return [
        (
            one.seq,
            one.outcome.state.value,
            _small((one.outcome.data,)),
            one.settled_at,
            one.polls,
            _small(one.record or ()) if one.seq in records and one.outcome.state.terminal else None,
            one.told,
            END_TOLD if one.keeps_record and one.record is not None else None,
        )
        for one in ended
    ]


def _small(parts: Sequence[bytes]) -> bytes:
    return b"".join(parts) if sum(map(len, parts)) <= SMALL else b""


def known_create(row: Any) -> KnownCreate:
    digest, at, lost_at, status, *more = row
    answer = None if status is None else convert((status, *more), CreateAnswer)
    return KnownCreate(digest=digest, at=at, lost_at=lost_at, answer=answer)


def ended_create(create: NewCreate, answer: CreateAnswer) -> dict[str, Any]:
    """Return END_CREATE's parameters."""
    about = msgspec.structs.asdict(create) | msgspec.structs.asdict(answer)
    return about | {"content_type": _text(answer.content_type), "answer": about.pop("body")}


def attempts(records: Sequence[AttemptRecord]) -> Table:
    """Return INSERT_ATTEMPTS' rows."""
    return [
        (record.claim.seq, *_MADE(made), _text(made.error), made.result.value, _text(made.excerpt), record.claim.fence)
        for record in records
        for made in [record.attempt]
    ]


def recorded(records: Sequence[AttemptRecord]) -> Table:
    """Return RECORD_ATTEMPTS' rows."""
    return [_recorded(record, record.attempt) for record in records]


def recorded_whole(records: Sequence[AttemptRecord]) -> Table:
    """Return RECORD_UNFENCED's rows."""
    return [
        (
            *_recorded(record, made),
            made.started_at,
            made.duration_ms,
            made.status_code,
            made.result.value,
            _text(made.excerpt),
        )
        for record in records
        for made in [record.attempt]
    ]


def _recorded(record: AttemptRecord, made: Attempt) -> tuple[Any, ...]:
    return (
        record.claim.seq,
        made.number,
        _text(made.error),
        _NEXT_STATE[made.result].value,
        record.next_attempt_at,
        made.started_at + made.duration_ms,
        0 if made.result is AttemptResult.INTERRUPTED else 1,
        record.claim.redeliveries,
        record.claim.fence,
    )


def counted(records: Sequence[AttemptRecord]) -> Table:
    """Return COUNT_ATTEMPTS' rows."""
    return [(record.claim.seq, record.attempt.number, record.claim.fence) for record in records]


def _text(text: str | None) -> str | None:
    # SQLite keeps a NUL in a text, and its functions end it there; PostgreSQL refuses it.
    return None if text is None else text.replace("\0", "\ufffd")


def parts(items: Sequence[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield items in parts of a bounded size, for a statement each: it keeps what was last bound to it."""
    part: list[T] = []
    size = 0
    for item in items:
        its_size = size_of(item)
        if part and size + its_size > _PART_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += its_size
    if part:
        yield part


def array(values: Sequence[Any]) -> str:
    """Return a JSON parameter."""
    return msgspec.json.encode(values).decode()


def first_column(found: Iterable[Any]) -> list[Any]:
    """Return what stands first in each row."""
    return [row[0] for row in found]
