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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import large
from gateway.api.auth import client_of
from gateway.api.createrequest import is_form, read_create
from gateway.api.creating import BegunBefore, Creating, Outgoing
from gateway.api.forwarding import Forwarding, passed_on, result_of, sent_on, shutting_down, store_unavailable, target
from gateway.api.once import Alone, Once, digest_of
from gateway.api.passing import Passing
from gateway.api.proxied import Proxied
from gateway.api.reading import Reading
from gateway.api.schema import read_any_body, refuse_compressed
from gateway.api.shares import note, share
from gateway.api.traced import trace_of
from gateway.api.watching import Watching
from gateway.config.profile import listed, passed_calls
from gateway.core import lenientjson
from gateway.core.creates import KnownCreate, NewCreate
from gateway.core.errors import (
    AddressNotAllowed,
    CallbackNotAllowed,
    InvalidRequest,
    RequestError,
    StoreError,
    TooLarge,
    Unavailable,
    without_frames,
)
from gateway.core.memory import SMALL
from gateway.core.model import Format
from gateway.core.shares import READ
from gateway.core.urls import receiver_of
from gateway.store import Housekeeping
from gateway.upstream.turns import Waiter

_MAX_UNCOUNTED = 1024 * 1024
"""Bytes of a create up to which what is read of it has room in what its body holds, or is little enough."""
_MOST_BESIDE = 16 * 1024 * 1024
"""Bytes that decoding a larger one may take beside its texts: a picture is one text, and costs no more."""
_REQUEST_ID = re.compile(r"[!-~]{1,255}")


class UpstreamProxy:
    """One upstream's calls."""

    def __init__(
        self,
        proxied: Proxied,
        housekeeping: Housekeeping,
        *,
        callback_format: Format,
        check_url: Callable[[str], Awaitable[object]],
        watch_s: float,
        receiver_name: Callable[[str], str] = receiver_of,
    ) -> None:
        """Stand in for an upstream.

        ``callback_format``: of what creates ask for. ``check_url`` raises AddressNotAllowed for a URL that the callback
        policy refuses. ``receiver_name``: what a URL's receiver is called. ``watch_s``: see ``Watching``. Once the
        gateway drains, ``drain`` is to be called.
        """
        upstream, calls = proxied.upstream, proxied.calls
        self.profile, self.name, self.base_url = upstream.profile, upstream.name, upstream.base_url
        self.calls, self.record_call = calls, proxied.record_call
        self.passed = list(passed_calls(calls.passed).values())
        self.create_paths = listed(calls.create_path)
        self.paths = [self.record_call.path, *self.create_paths, *(path for _, path in self.passed)]
        self._max_body = upstream.max_answer
        self._housekeeping = housekeeping
        self._key = proxied.key
        self._draining = proxied.draining
        self._check_url = check_url
        self._forwarding = Forwarding(proxied)
        watching = Watching(proxied, watch_s)
        self._reading = Reading(proxied, self._forwarding, watching)
        self._creating = Creating(
            proxied, self._forwarding, watching, callback_format=callback_format, receiver_name=receiver_name
        )
        self._once = Once(proxied)
        self._passing = Passing(proxied, self._forwarding, watching)

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
            cut = shutting_down()
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
        note(request)
        to = target(request, mount)
        content_type = request.headers.get("content-type", "")
        if not is_form(content_type):
            refuse_compressed(request)
        body = await read_any_body(request, self._max_body)
        if len(body) > _MAX_UNCOUNTED and not is_form(content_type):
            await _hold_decoded(request, body)
        read = partial(read_create, body, self.calls, content_type)
        asked = read() if len(body) <= SMALL else await large.work(request, read)
        # A form's own; JSON's has one name, and no coding.
        headers = sent_on(request, ("content-type", "content-encoding", *self.calls.headers))
        create: NewCreate | None = None
        if repeatable:
            digest = partial(digest_of, to, content_type, body)
            told_by = digest() if len(body) <= SMALL else await large.work(request, digest)
            create = self._once.create(client, request_id, told_by)
        one = Outgoing(
            asked=asked,
            target=to,
            headers=headers,
            client=client,
            request_id=request_id,
            create=create,
            trace=trace_of(request),
            again=False,
        )
        if create is None:
            return "forwarded", await self._create_anew(request, one)
        if (response := await self._create_unseen(request, one, create)) is not None:
            return "forwarded", response
        while True:
            async with AsyncExitStack() as stack:
                with self._told_at_stop(one), large.waiting(request):
                    alone = await stack.enter_async_context(self._once.alone(create))
                    known = await self._once.known(create, partial(self._look, request, create))
                if known is not None and known.answer is not None:
                    break
                one = msgspec.structs.replace(one, again=known is not None)
                try:
                    return "forwarded", await self._create_anew(request, one, alone)
                except BegunBefore as error:  # by another replica, while this one waited for its turn
                    without_frames(error)
        answer = self._creating.again(asked, request_id, known.answer)
        if isinstance(answer, RequestError):
            raise answer
        return "repeated", passed_on(answer)

    async def _look(self, request: Request, create: NewCreate) -> KnownCreate | None:
        async with share(request, READ):
            return await self._once.look(create)

    async def _create_unseen(self, request: Request, one: Outgoing, create: NewCreate) -> Response | None:
        """Forward a create without looking for an earlier one, where there is a place for it at once.

        Most are new, and one that is not is found out where it is taken down: a look before is another journey to the
        database. None: nothing was forwarded, and what was known of it is to be looked for.
        """
        async with AsyncExitStack() as stack:
            with self._told_at_stop(one), large.waiting(request):
                alone = await stack.enter_async_context(self._once.alone(create))
            waiter = Waiter(one.client)
            try:
                if one.asked.callback is not None:
                    await self._check(*one.asked.callback)
                if self._draining.is_set() or not await self._key.creates.acquire_now(waiter):
                    return None
                return await self._forward(request, one, waiter, alone)
            except (BegunBefore, CallbackNotAllowed, StoreError, Unavailable) as error:
                without_frames(error)
                return None  # an earlier one may have been answered

    async def _create_anew(self, request: Request, one: Outgoing, alone: Alone | None = None) -> Response:
        if one.asked.callback is not None:
            await self._check(*one.asked.callback)
        if self._draining.is_set():
            raise shutting_down()
        waiter = Waiter(one.client)
        if (refused := await self._forwarding.turn(self._key.creates, waiter)) is not None:
            raise refused
        return await self._forward(request, one, waiter, alone)

    async def _forward(self, request: Request, one: Outgoing, waiter: Waiter, alone: Alone | None) -> Response:
        # From here on it is no longer the client's to stop.
        work = self._forwarding.begin(self._creating.forward(one, waiter), f"proxy-create-{one.request_id}")
        if alone is not None:
            alone.last_until(work.task)
        with self._told_at_stop(one):
            with large.waiting(request):
                answer = await result_of(work.result())
            await large.hold(request, len(answer.body))  # for its sending, which nothing cuts short before it begins
        return passed_on(answer)

    @contextmanager
    def _told_at_stop(self, one: Outgoing) -> Iterator[None]:
        """Where the shutdown cuts off what is waited for, which may come to its end, have the client know its ID."""
        try:
            yield
        except asyncio.CancelledError:
            if self._draining.is_set():
                raise self._creating.stopped(one) from None
            raise

    async def _check(self, member: str, url: str) -> None:
        """Make as sure as can be, before a task is paid for, that its callback can be registered and may be sent."""
        try:
            await self._check_url(url)
        except AddressNotAllowed as error:
            message = f"{member}: {error.message} (rule: {error.rule}) Nothing was forwarded."
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
