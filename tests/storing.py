"""What the tests of a store's ports have in common: callbacks, brought to a state the way the loops would."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from gateway.core.claims import AttemptRecord, DueCallback, DueTask
from gateway.core.ids import new_callback_id
from gateway.core.memory import SMALL
from gateway.core.model import (
    Attempt,
    AttemptResult,
    Callback,
    CallbackState,
    Format,
    NewCallback,
    Outcome,
    Registration,
    Settlement,
    TaskState,
)
from gateway.store import Store
from gateway.webhook.body import body_template, record_parts
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.nouns import NOW

__all__ = [
    "ABANDONED",
    "FAIL",
    "LARGE",
    "LIMIT_S",
    "NOW",
    "SUCCESS",
    "NewStore",
    "attempt_of",
    "brought_to",
    "claim",
    "claim_task",
    "lapse",
    "look",
    "new",
    "often_tried",
    "opened",
    "register",
    "registered",
    "settle",
]

LIMIT_S = 10
SUCCESS = Outcome(state=TaskState.SUCCESS, data='{"taskId":"t","result":{"text":"Füße 🐈"}}'.encode())
FAIL = Outcome(state=TaskState.FAIL, data=b'{"taskId":"t","failMsg":"no \\"luck\\""}')
ABANDONED = Outcome(state=TaskState.ABANDONED, data=b'{"taskId":"t","reason":"timeout"}')

LARGE = b'{"param":"' + b"x" * SMALL + b'"}'
"""What a task was told of, too large to stand in a row."""

_FAR_MS = 100 * 365 * 86_400_000
UPSTREAMS = ("up", "up-2", "other")
NewStore = Callable[..., Store]


async def opened(store: Store, stack: AsyncExitStack) -> Store:
    await store.open()
    stack.push_async_callback(store.close)
    for upstream in UPSTREAMS if store.shared else ():
        epoch = await store.lead(f"polls:{upstream}", 60)
        assert epoch is not None
        stack.push_async_callback(store.resign, f"polls:{upstream}")
        await store.tasks.gained(upstream, epoch)
    return store


def new(
    task_id: str = "task-1",
    *,
    client: str = "ann",
    url: str = "https://app.example.com/hooks",
    upstream: str = "up",
    metadata: bytes = b"{}",
    timeout_s: int = 3600,
    at: int = NOW,
    first_poll_at: int | None = None,
    model: str | None = None,
    shape: Format = Format.STANDARD,
    trace: str | None = None,
) -> NewCallback:
    return NewCallback(
        id=new_callback_id(at),
        client=client,
        upstream=upstream,
        task_id=task_id,
        url=url,
        metadata=metadata,
        timeout_s=timeout_s,
        created_at=at,
        first_poll_at=at if first_poll_at is None else first_poll_at,
        model=model,
        format=shape,
        trace=trace,
    )


async def lapse(store: Store) -> None:
    """Let so much time pass that the claims lapse of a store that is closed next."""
    if store.shared:
        await store._database.read("UPDATE callbacks SET claimed_until = 1 WHERE claimed_until > 1")


async def register(store: Store, callback: NewCallback) -> Registration:
    (registration,) = await store.registry.register([callback])
    return registration


async def registered(store: Store, callback: NewCallback | None = None) -> Callback:
    return (await register(store, new() if callback is None else callback)).callback


async def look(store: Store, callback: Callback | DueCallback) -> Callback:
    found = await store.registry.get_callback(callback.client, callback.id)
    assert found is not None
    return found


async def settle(
    store: Store,
    callback: Callback,
    outcome: Outcome = SUCCESS,
    *,
    at: int = NOW,
    expired_by: int | None = None,
    record: bytes | None = None,
) -> None:
    await store.tasks.settle(
        Settlement(
            upstream="up",
            seq=callback.task.seq,
            outcome=outcome,
            settled_at=at,
            frame=None if outcome.state.terminal else body_template(outcome, at).frame,
            record=None if record is None else record_parts(outcome.state, record),
            polls=1 if expired_by is None else 0,
            expired_by=expired_by,
        )
    )


async def claim(store: Store, at: int = NOW) -> DueCallback:
    """Claim the one webhook that is due."""
    (due,), _ = await claim_webhooks(store, at, 10)
    return due


async def claim_task(store: Store, at: int = NOW) -> DueTask:
    (due,), _ = await claim_tasks(store, "up", at, 10)
    return due


def attempt_of(
    due: DueCallback,
    result: AttemptResult,
    *,
    at: int = NOW,
    next_at: int | None = None,
    error: str | None = None,
    excerpt: str | None = None,
) -> AttemptRecord:
    status_code = {AttemptResult.DELIVERED: 200, AttemptResult.INTERRUPTED: None}.get(result, 503)
    made = Attempt(
        number=due.attempts + 1,
        started_at=at,
        duration_ms=12,
        status_code=status_code,
        error=error,
        result=result,
        excerpt=excerpt,
    )
    return AttemptRecord(claim=due, attempt=made, next_attempt_at=next_at)


async def brought_to(store: Store, state: CallbackState, callback: NewCallback | None = None) -> Callback:
    """Register a callback and bring it to a state the way the loops would."""
    made = await registered(store, callback)
    if state is CallbackState.WAITING:
        return made
    if state is CallbackState.CANCELLED:
        await store.registry.cancel(made.client, made.id, NOW)
        return await look(store, made)
    await settle(store, made)
    if state is not CallbackState.PENDING:
        for due in (await claim_webhooks(store, NOW, 10))[0]:
            if due.id == made.id:
                await store.outbox.record(attempt_of(due, AttemptResult(state.value)))
            else:
                await store.outbox.release([due])
    return await look(store, made)


async def often_tried(store: Store, times: int, excerpt: str, callback: NewCallback) -> Callback:
    """Return a callback whose receiver has refused so many attempts with this; the next one is far away."""
    made = await brought_to(store, CallbackState.PENDING, callback)
    for number in range(1, times + 1):
        next_at = NOW if number < times else NOW + _FAR_MS
        await store.outbox.record(attempt_of(await claim(store), AttemptResult.RETRY, next_at=next_at, excerpt=excerpt))
    return made
