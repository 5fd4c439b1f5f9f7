"""The API's calls, one method for each: what is asked, and what comes back.

Owns their names in Python, and what of the API is one call here though it is several requests. Each method's steps are
taken by ``gateway.client.clients``, for threads and for asyncio; so what is told here is told of both.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from gateway.client.errors import WaitTimeout
from gateway.client.exchange import Ask, Exchange, Pause, Steps
from gateway.client.results import (
    Attempt,
    BatchResult,
    Callback,
    CallbackFormat,
    CallbackState,
    Page,
    Registration,
    Task,
    read_attempts,
    read_batch,
    read_callback,
    read_count,
    read_page,
    read_task,
)

T = TypeVar("T")

_MAX_BATCH = 1000
_MAX_WAIT_S = 60.0
_MANY_S = 270.0
"""What takes thousands may take so much longer: of a batch, the names of a thousand URLs are looked up."""
_LEAST_PAUSE_S = 1.0
"""A gateway that stops answers what it holds at once: it is not asked again sooner than that."""


class Calls:
    """Every one raises ``ApiError`` for what the gateway refuses, ``Unreachable`` and ``NotAGateway``."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def register(
        self,
        task_id: str,
        callback_url: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        timeout_seconds: int | None = None,
        upstream: str | None = None,
        model: str | None = None,
        format: CallbackFormat | None = None,  # noqa: A002  # its name in the API
    ) -> Steps[Callback]:
        """Register a callback URL for a task; what is on disk is returned.

        The same task and URL again returns the callback that there is, so this may be repeated. Raises ApiError with
        the code ``conflict`` where that one has other metadata, another time or another format.
        """
        asked = Registration(
            task_id=task_id,
            callback_url=callback_url,
            metadata=metadata,
            timeout_seconds=timeout_seconds,
            upstream=upstream,
            model=model,
            format=format,
        )
        return self._ask("POST", "/v1/callbacks", read_callback, body=_body(asked))

    def register_batch(self, registrations: Iterable[Registration]) -> Steps[tuple[BatchResult, ...]]:
        """Register many, a thousand in a request; what became of each is returned in their order.

        Each stands for itself: one that is refused has its ``error``, and takes no other down.
        """
        bodies = [_body(registration) for registration in registrations]
        results: list[BatchResult] = []
        for start in range(0, len(bodies), _MAX_BATCH):
            batch = bodies[start : start + _MAX_BATCH]
            read = partial(read_batch, expected=len(batch))
            results += yield from self._ask(
                "POST", "/v1/callbacks/batch", read, body={"callbacks": batch}, held_s=_MANY_S
            )
        return tuple(results)

    def get(self, callback_id: str) -> Steps[Callback]:
        """Return a callback."""
        return self._ask("GET", path_of("callbacks", callback_id), read_callback)

    def attempts(self, callback_id: str) -> Steps[tuple[Attempt, ...]]:
        """Return the attempts to deliver a callback's webhook, the first one first."""
        return self._ask("GET", f"{path_of('callbacks', callback_id)}/attempts", read_attempts)

    def list(
        self,
        *,
        state: CallbackState | None = None,
        task_id: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        client: str | None = None,
    ) -> Steps[Page]:
        """Return a page of callbacks, newest first: 50 of them, or ``limit``, at most 200.

        ``cursor`` is ``next_cursor`` of the page before; ``client`` is for the operator's token.
        """
        query = {"state": state, "taskId": task_id, "limit": limit, "cursor": cursor, "client": client}
        return self._ask("GET", "/v1/callbacks", read_page, params=given(query))

    def cancel(self, callback_id: str) -> Steps[None]:
        """Cancel a callback that is not delivered; ``ApiError`` has the code ``conflict`` where it is, or is dead."""
        return self._ask("DELETE", path_of("callbacks", callback_id), _nothing)

    def redeliver(self, callback_id: str) -> Steps[Callback]:
        """Send a webhook again, with a fresh budget of attempts and the same ``webhook-id``.

        Where the answer is lost it is not asked for again, as that might send the webhook once more.
        """
        path = f"{path_of('callbacks', callback_id)}/redeliver"
        return self._ask("POST", path, read_callback, repeatable=False)

    def redeliver_dead(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        receiver: str | None = None,
        client: str | None = None,
        dry_run: bool = False,
    ) -> Steps[int]:
        """Redeliver every callback that died from ``since`` on and before ``until``; return how many.

        ``receiver``: only those whose callback URLs begin with this one; a text that is no URL: those of receivers with
        it in their name. ``dry_run``: return how many there are, up to 100,000, and redeliver none. ``client`` is for
        the operator's token.

        Raises ValueError for an instant without a zone. Where the answer is lost it is not asked for again by itself;
        the same call redelivers the rest.
        """
        asked = {"state": "dead", "since": _iso(since), "until": _iso(until), "receiver": receiver, "client": client}
        body = given(asked | {"dryRun": dry_run or None})
        return self._ask("POST", "/v1/redeliveries", read_count, body=body, repeatable=dry_run, held_s=_MANY_S)

    def task(self, task_id: str) -> Steps[Task]:
        """Return what the gateway knows of a task, without asking the upstream."""
        return self._task(task_id, 0.0)

    def wait(self, task: str | Callback, *, timeout_s: float | None = None) -> Steps[Task]:
        """Return a task, or a callback's, once it has ended; raise ``WaitTimeout`` where it runs for longer.

        The gateway holds the request until then, a minute at a time: that costs neither it nor the upstream anything.
        """
        task_id = task if isinstance(task, str) else task.task_id
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            asked_at = time.monotonic()
            left_s = _MAX_WAIT_S if until is None else max(until - asked_at, 0.0)
            wait_s = min(left_s, _MAX_WAIT_S)
            found = yield from self._task(task_id, wait_s)
            if found.state != "waiting":
                return found
            now = time.monotonic()
            if timeout_s is not None and until is not None and now >= until - 0.001:
                raise WaitTimeout(found, timeout_s)
            pause_s = min(wait_s, _LEAST_PAUSE_S) - (now - asked_at)
            if pause_s > 0:
                yield Pause(pause_s)

    def _task(self, task_id: str, wait_s: float) -> Steps[Task]:
        params = {"wait": f"{wait_s:.3f}"} if wait_s else {}
        return self._ask("GET", path_of("tasks", task_id), read_task, params=params, held_s=wait_s)

    def _ask(self, method: str, path: str, read: Callable[[Any], T], **options: Any) -> Steps[T]:
        return self._exchange.steps(Ask(method=method, path=path, read=read, **options))


def _body(asked: Registration) -> Mapping[str, Any]:
    names = {"task_id": "taskId", "callback_url": "callbackUrl", "timeout_seconds": "timeoutSeconds"}
    return given({names.get(one.name, one.name): getattr(asked, one.name) for one in fields(asked)})


def given(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that are given: what is None is left to the gateway."""
    return {name: value for name, value in members.items() if value is not None}


def path_of(kind: str, name: str) -> str:
    """Return the path of one of the API's ``callbacks`` or ``tasks``."""
    return f"/v1/{kind}/{quote(name, safe='', errors='replace')}"


def _iso(at: datetime | None) -> str | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"{at} has no zone: datetime.now(UTC), for example, has one")
    return at.isoformat()


def _nothing(answer: Any) -> None:
    """Read an answer that has no body."""
