"""The upstream's own calls, for clients that use the gateway as their base URL. Must not poll, settle or deliver.

Owns what is answered from the gateway's state and what is forwarded; ``creating`` has a create from there on.

Reading a task that the gateway watches costs no request to the upstream, however often a client asks. Everything else
spends from the key's budgets, as the polls do. A create costs money: whatever would spoil its callback is found out
before it is forwarded, and from then on it runs to its end even when the client goes away. Whatever else waits for the
rate limit or the upstream ends with the last client that waits for it.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import large
from gateway.api.auth import client_of, scope_of
from gateway.api.createrequest import CreateRequest, read_create
from gateway.api.creating import Creating
from gateway.api.once import Alone, Once, digest_of
from gateway.api.schema import TASK_ID, read_any_body
from gateway.api.shares import READ, share
from gateway.api.tasks import whole
from gateway.core.clock import Clock
from gateway.core.errors import (
    AddressNotAllowed,
    CallbackNotAllowed,
    InvalidRequest,
    RateLimited,
    RequestError,
    StoreError,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.core.memory import SMALL
from gateway.core.model import NewCreate, Task
from gateway.core.telemetry import Metrics
from gateway.store import Housekeeping, Registry
from gateway.upstream.api import Answer, NoAnswer, Upstream
from gateway.upstream.budget import Budget
from gateway.upstream.envelope import record_envelope
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable
from gateway.upstream.turns import Waiter

__all__ = ["UpstreamProxy"]

T = TypeVar("T")

_MAX_BODY = 1024 * 1024
_PATIENCE_S = 10.0
"""How long a client's request waits for its turn in the rate limit."""

# Anything else would speak for the upstream's host, where the client sees only the gateway's.
_PASSED_ON = ("content-type", "retry-after")
_STATUSES = range(200, 600)  # below they are no answers, and above there are none (RFC 9110 §15)
_OPERATOR = ""  # stands in the turns beside the clients, whose names are longer
_REQUEST_ID = re.compile(r"[!-~]{1,255}")


class UpstreamProxy:
    """Both calls, over the registry and one upstream's key."""

    def __init__(
        self,
        registry: Registry,
        housekeeping: Housekeeping,
        clock: Clock,
        metrics: Metrics,
        upstream: Upstream,
        key: UpstreamKey,
        timetable: Timetable,
        *,
        check_url: Callable[[str], Awaitable[object]],
        poller_wake: asyncio.Event,
        draining: asyncio.Event,
    ) -> None:
        """Stand in for ``upstream``, whose profile has calls for that.

        ``check_url`` raises AddressNotAllowed for a URL that the callback policy refuses. Once ``draining`` is set
        nothing more is created; then ``drain`` is to be called.
        """
        calls = upstream.profile.proxy
        assert calls is not None  # noqa: S101 - the wiring looks first
        self.calls = calls
        self._registry = registry
        self._housekeeping = housekeeping
        self._clock = clock
        self._metrics = metrics
        self._upstream = upstream
        self._key = key
        self._creating = Creating(
            registry, clock, metrics, upstream, calls, key, timetable, draining=draining, spawn=self._spawn
        )
        self._once = Once(registry, clock, upstream.name, honoured=calls.once)
        self._check_url = check_url
        self._draining = draining
        self._poller_wake = poller_wake
        self._reads: dict[str, tuple[asyncio.Task[Answer | RequestError], Waiter]] = {}
        self._readers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def read(self, request: Request) -> Response:
        return await self._counted("read", self._read(request))

    async def create(self, request: Request) -> Response:
        own_id = request.headers.get("x-request-id")
        request_id = own_id or uuid4().hex
        try:
            work = self._create(request, request_id, repeatable=bool(own_id))
            response = await self._counted("create", work)
        except RequestError as error:
            error.headers["x-request-id"] = request_id
            raise
        except asyncio.CancelledError:  # where it was forwarded, _create has an answer
            if not self._draining.is_set():
                raise
            cut = Unavailable("The gateway shut down before this was forwarded: nothing was created. Send it again.")
            cut.headers["x-request-id"] = request_id
            raise cut from None
        response.headers["x-request-id"] = request_id
        return response

    async def drain(self, timeout_s: float) -> None:
        """Let what was forwarded come to its end, registrations included, for ``timeout_s`` seconds; then stop it."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            late = set(self._tasks)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    # Reading

    async def _read(self, request: Request) -> tuple[str, Response]:
        name = self.calls.record_param
        task_id = request.query_params.get(name, "")
        if not TASK_ID.fullmatch(task_id):
            raise InvalidRequest(f"{name}: must be 1 to 255 printable ASCII characters without spaces.")
        client = scope_of(request)
        async with share(request, READ):
            task = await self._registry.get_task(client, task_id)
        if task is not None and self._knows(task):
            return "answered", await self._answered(request, await whole(self._registry, request, task))
        outcome = "shared"
        if task_id not in self._reads:
            outcome = "forwarded"
            asked = Waiter(client or _OPERATOR)
            self._reads[task_id] = self._spawn(self._forward_read(task_id, asked), f"proxy-read-{task_id}"), asked
            self._reads[task_id][0].add_done_callback(lambda done: self._forget_read(task_id, done))
        work, waiter = self._reads[task_id]
        self._key.queries.join(waiter, client or _OPERATOR)
        self._readers[task_id] += 1
        try:
            return outcome, _passed_on(await _result(work))
        finally:
            self._readers[task_id] -= 1
            if not self._readers[task_id]:
                del self._readers[task_id]
                self._forget_read(task_id, work)
                work.cancel()  # all have gone, where it has not ended

    def _forget_read(self, task_id: str, work: "asyncio.Task[Answer | RequestError]") -> None:
        if task_id in self._reads and self._reads[task_id][0] is work:
            del self._reads[task_id]

    async def _answered(self, request: Request, task: Task) -> Response:
        made = partial(record_envelope, self._upstream.profile, task)
        body = made() if task.outcome_bytes <= SMALL else await large.work(request, made)
        return Response(body, media_type="application/json")

    def _knows(self, task: Task) -> bool:
        """Whether the gateway's state is as good as the upstream's: the task has ended, or is being polled."""
        return task.upstream == self._upstream.name and (task.state.terminal or task.next_poll_at is not None)

    async def _forward_read(self, task_id: str, waiter: Waiter) -> Answer | RequestError:
        if (refused := await self._turn(self._key.queries, waiter)) is not None:
            return refused
        path = f"{self.calls.record_path}?{quote(self.calls.record_param)}={quote(task_id, safe='')}"
        asked_at = self._clock.monotonic()
        try:
            answer = await self._upstream.forward("GET", path, whose=waiter.client)
        finally:
            self._key.queries.end(waiter)
            self._poller_wake.set()  # a place in the rate limit may have its time now
        self._key.judge(task_id, asked_at, await self._upstream.read(task_id, answer))
        if isinstance(answer, NoAnswer):
            return (UpstreamTimeout if answer.timed_out else UpstreamFailed)(answer.error)
        return self._upstream.without_key(answer)

    # Creating

    async def _create(self, request: Request, request_id: str, *, repeatable: bool) -> tuple[str, Response]:
        if not _REQUEST_ID.fullmatch(request_id):
            raise InvalidRequest("X-Request-ID: must be 1 to 255 printable ASCII characters without spaces.")
        client = client_of(request)
        body = await read_any_body(request, _MAX_BODY)
        read = partial(read_create, body, self.calls.callback_members)
        asked = read() if len(body) <= SMALL else await large.work(request, read)
        if not repeatable:
            return "forwarded", await self._create_anew(request, asked, request_id)
        create = self._once.create(client, request_id, digest_of(self.calls.create_path, body))
        async with AsyncExitStack() as stack:
            try:
                with large.waiting(request):
                    alone = await stack.enter_async_context(self._once.alone(create))
            except asyncio.CancelledError:
                if self._draining.is_set():  # what becomes of the one under way is not known here
                    raise self._creating.stopped(request_id, create) from None
                raise
            async with share(request, READ):
                known = await self._once.known(create)
            if known is None or known.answer is None:
                again = known is not None
                return "forwarded", await self._create_anew(request, asked, request_id, create, alone, again=again)
        answer = self._creating.again(asked, request_id, known.answer)
        if isinstance(answer, RequestError):
            raise answer
        return "repeated", _passed_on(answer)

    async def _create_anew(
        self,
        request: Request,
        asked: CreateRequest,
        request_id: str,
        create: NewCreate | None = None,
        alone: Alone | None = None,
        *,
        again: bool = False,
    ) -> Response:
        if asked.callback is not None:
            await self._check(*asked.callback)
        if self._draining.is_set():
            raise Unavailable("The gateway is shutting down; nothing was created.")
        waiter = Waiter(client_of(request))
        if (refused := await self._turn(self._key.creates, waiter)) is not None:
            raise refused
        # From here on it is no longer the client's to stop.
        forwarded = self._creating.forward(asked, request_id, waiter, create, again=again)
        work = self._spawn(forwarded, name=f"proxy-create-{request_id}")
        if alone is not None:
            alone.last_until(work)
        try:
            with large.waiting(request):
                answer = await _result(work)
            await large.hold(request, len(answer.body))  # for its sending, which nothing cuts short before it begins
        except asyncio.CancelledError:
            if self._draining.is_set():  # the client has to know the ID, if it is there
                raise self._creating.stopped(request_id, create) from None
            raise
        return _passed_on(answer)

    async def _check(self, member: str, url: str) -> None:
        """Make as sure as can be, before a task is paid for, that its callback can be registered and may be sent."""
        try:
            await self._check_url(url)
        except AddressNotAllowed as error:
            message = f"{member}: {error.message} (rule: {error.rule}) Nothing was created."
            raise CallbackNotAllowed(message) from None
        if self._housekeeping.failing is None:
            return
        try:
            await self._housekeeping.probe()  # only another write can tell whether it still fails
        except StoreError:
            raise _store_unavailable() from None

    # Both

    async def _turn(self, budget: Budget, waiter: Waiter) -> RequestError | None:
        """Wait for a turn in the rate limit and take it; or return why there is none."""
        try:
            wait_s = await budget.acquire(_PATIENCE_S, waiter)
        except StoreError:
            return _store_unavailable()
        if self._key.refusal is not None and budget is self._key.queries:
            if wait_s is None:  # the pause is over: it is for the poller to ask whether the key is accepted again
                budget.give_back(1, waiter)
            retry_after_s = math.ceil(wait_s or 1.0)
            return Unavailable("The upstream refuses the gateway's key; its log says why.", retry_after_s=retry_after_s)
        if wait_s is None:
            return None
        retry_after_s = math.ceil(wait_s)
        return RateLimited(
            f"The upstream's rate limit is used up, or too many requests wait for it; try again in {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something that a client who goes away does not stop."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _counted(self, call: str, work: Awaitable[tuple[str, Response]]) -> Response:
        outcome = "failed"
        try:
            outcome, response = await work
        except RequestError as error:
            if isinstance(error, RateLimited):
                outcome = "limited"
            elif error.status < 500:
                outcome = "refused"
            raise
        finally:
            self._metrics.proxied_requests.labels(call, outcome).inc()
        return response


async def _result(work: "asyncio.Task[Answer | RequestError]") -> Answer:
    """Wait for what may be shared: a client who goes away does not end it, and all get the same error."""
    result = await asyncio.shield(work)
    if isinstance(result, RequestError):
        raise result
    return result


def _passed_on(answer: Answer) -> Response:
    # What no HTTP answer can carry, or would mean something between us and the client, is left out: the body matters.
    found = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    headers = {name: value for name, value in found.items() if value.isascii() and value.isprintable()}
    status = answer.status if answer.status in _STATUSES else UpstreamFailed.status
    return Response(answer.body, status, headers)


def _store_unavailable() -> Unavailable:
    return Unavailable("The database cannot be used at the moment; nothing was forwarded.", retry_after_s=5)
