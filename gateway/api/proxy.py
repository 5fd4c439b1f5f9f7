"""An upstream's own calls, for clients that use the gateway as their base URL. Must not poll, settle or deliver.

Owns one upstream's calls as the table has them, and what is found out before a create is forwarded: ``creating`` has it
from there on, ``reading`` and ``passing`` the other calls. Where they stand ``mounts`` says.

Reading a task that the gateway watches costs no request to the upstream, however often a client asks. Everything else
spends from the key's budgets, as the polls do. A create costs money: whatever would spoil its callback is found out
before it is forwarded, and from then on it runs to its end even when the client goes away. Whatever else waits for the
rate limit or the upstream ends with the last client that waits for it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import large
from gateway.api.auth import client_of
from gateway.api.createrequest import CreateRequest, is_form, read_create
from gateway.api.creating import Creating
from gateway.api.forwarding import Forwarding, passed_on, result_of, sent_on, store_unavailable, target
from gateway.api.once import Alone, Once, digest_of
from gateway.api.passing import Passing
from gateway.api.reading import Reading
from gateway.api.schema import read_any_body
from gateway.api.shares import READ, share
from gateway.api.watching import Watching
from gateway.config.profile import listed, passed_calls, record_call
from gateway.core import lenientjson
from gateway.core.clock import Clock
from gateway.core.creates import NewCreate
from gateway.core.errors import (
    AddressNotAllowed,
    CallbackNotAllowed,
    InvalidRequest,
    RequestError,
    StoreError,
    TooLarge,
    Unavailable,
)
from gateway.core.memory import SMALL
from gateway.core.model import Format
from gateway.core.telemetry import Metrics
from gateway.store import Housekeeping, Registry
from gateway.upstream.api import Upstream
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable
from gateway.upstream.turns import Waiter

__all__ = ["UpstreamProxy"]

_MAX_UNCOUNTED = 1024 * 1024
"""Bytes of a create up to which what is read of it has room in what its body holds, or is little enough."""
_MOST_BESIDE = 16 * 1024 * 1024
"""Bytes that decoding a larger one may take beside its texts: a picture is one text, and costs no more."""
_REQUEST_ID = re.compile(r"[!-~]{1,255}")


class UpstreamProxy:
    """One upstream's calls, over the registry and its key."""

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
        callback_format: Format,
        check_url: Callable[[str], Awaitable[object]],
        poller_wake: asyncio.Event,
        draining: asyncio.Event,
        denies: Callable[[int], bool],
        watch_s: float,
    ) -> None:
        """Stand in for ``upstream``, whose profile has calls for that.

        ``callback_format``: of what creates ask for. ``check_url`` raises AddressNotAllowed for a URL that the callback
        policy refuses. Once ``draining`` is set nothing more is created, and no read is held; then ``drain`` is to be
        called. ``denies``, ``watch_s``: see ``Watching``.
        """
        self.profile = upstream.profile
        calls = self.profile.proxy
        record = None if calls is None else record_call(self.profile.request, calls)
        assert calls is not None and record is not None  # noqa: S101, PT018 - the wiring looks first
        self.name, self.base_url = upstream.name, upstream.base_url
        self._max_body = upstream.max_answer
        self.calls, self.record_call, self.passed = calls, record, list(passed_calls(calls.passed).values())
        self.create_paths = listed(calls.create_path)
        self.paths = [record.path, *self.create_paths, *(path for _, path in self.passed)]
        self._housekeeping = housekeeping
        self._key = key
        self._check_url = check_url
        self._draining = draining
        self._forwarding = Forwarding(key, metrics)
        watching = Watching(registry, clock, upstream, calls, timetable, denies=denies, watch_s=watch_s)
        self._reading = Reading(
            registry,
            clock,
            upstream,
            calls,
            record,
            key,
            self._forwarding,
            watching,
            poller_wake=poller_wake,
            draining=draining,
        )
        self._creating = Creating(
            registry,
            clock,
            metrics,
            upstream,
            calls,
            key,
            timetable,
            watching,
            callback_format=callback_format,
            draining=draining,
            spawn=self._forwarding.spawn,
        )
        self._once = Once(registry, clock, upstream.name, honoured=calls.once)
        self._passing = Passing(upstream, calls, key, self._forwarding, watching, poller_wake=poller_wake)

    async def read(self, request: Request) -> Response:
        return await self._forwarding.counted("read", self._reading.read(request))

    async def create(self, mount: str, request: Request) -> Response:
        """Create a task; ``mount`` is what stands before the upstream's own path."""
        own_id = request.headers.get("x-request-id")
        request_id = own_id or uuid4().hex
        try:
            work = self._create(mount, request, request_id, repeatable=bool(own_id))
            response = await self._forwarding.counted("create", work)
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

    async def pass_on(self, mount: str, method: str, request: Request) -> Response:
        """Forward another call, as it came."""
        return await self._forwarding.counted("pass", self._passing.forward(mount, method, request))

    async def drain(self, timeout_s: float) -> None:
        """Let what was forwarded come to its end, registrations included, for ``timeout_s`` seconds; then stop it."""
        await self._forwarding.drain(timeout_s)

    async def _create(self, mount: str, request: Request, request_id: str, *, repeatable: bool) -> tuple[str, Response]:
        if not _REQUEST_ID.fullmatch(request_id):
            raise InvalidRequest("X-Request-ID: must be 1 to 255 printable ASCII characters without spaces.")
        client = client_of(request)
        to = target(request, mount)
        content_type = request.headers.get("content-type", "")
        body = await read_any_body(request, self._max_body)
        if len(body) > _MAX_UNCOUNTED and not is_form(content_type):
            await _hold_decoded(request, body)
        read = partial(read_create, body, self.calls, content_type)
        asked = read() if len(body) <= SMALL else await large.work(request, read)
        if not repeatable:
            return "forwarded", await self._create_anew(request, asked, to, request_id)
        digest = partial(digest_of, to, content_type, body)
        told_by = digest() if len(body) <= SMALL else await large.work(request, digest)
        create = self._once.create(client, request_id, told_by)
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
                return "forwarded", await self._create_anew(request, asked, to, request_id, create, alone, again=again)
        answer = self._creating.again(asked, request_id, known.answer)
        if isinstance(answer, RequestError):
            raise answer
        return "repeated", passed_on(answer)

    async def _create_anew(
        self,
        request: Request,
        asked: CreateRequest,
        to: str,
        request_id: str,
        create: NewCreate | None = None,
        alone: Alone | None = None,
        *,
        again: bool = False,
    ) -> Response:
        headers = sent_on(request, ("content-type", *self.calls.headers))  # a form's own; JSON's has one name
        if asked.callback is not None:
            await self._check(*asked.callback)
        if self._draining.is_set():
            raise Unavailable("The gateway is shutting down; nothing was created.")
        waiter = Waiter(client_of(request))
        if (refused := await self._forwarding.turn(self._key.creates, waiter)) is not None:
            raise refused
        # From here on it is no longer the client's to stop.
        forwarded = self._creating.forward(asked, to, headers, request_id, waiter, create, again=again)
        work = self._forwarding.spawn(forwarded, f"proxy-create-{request_id}")
        if alone is not None:
            alone.last_until(work)
        try:
            with large.waiting(request):
                answer = await result_of(work)
            await large.hold(request, len(answer.body))  # for its sending, which nothing cuts short before it begins
        except asyncio.CancelledError:
            if self._draining.is_set():  # the client has to know the ID, if it is there
                raise self._creating.stopped(request_id, create) from None
            raise
        return passed_on(answer)

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
            raise store_unavailable() from None


async def _hold_decoded(request: Request, body: bytes) -> None:
    """Wait for room for what is read of a large create. Raises TooLarge where that is out of all proportion."""
    cost = await large.work(request, lenientjson.cost, body)
    if cost > 4 * len(body) + _MOST_BESIDE:
        raise TooLarge(f"Reading this body of {len(body)} bytes would take {cost} bytes of memory.")
    await large.hold(request, cost)
