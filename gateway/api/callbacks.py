"""``/v1/callbacks`` and ``/v1/redeliveries``: registering, reading, cancelling and redelivering callbacks."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec
from itsdangerous import BadSignature, URLSafeSerializer
from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.auth import client_of, scope_of
from gateway.api.large import hold, work
from gateway.api.problems import problem
from gateway.api.routing import route
from gateway.api.schema import (
    DEFAULT_TIMEOUT_S,
    CallbackRequest,
    CallbackView,
    RedeliveriesRequest,
    attempt_view,
    batch_items,
    callback_view,
    decode,
    encode_metadata,
    json_response,
    read_body,
    told,
)
from gateway.api.shares import READ, paced, piece, share, share_for_piece, whole_share
from gateway.core.clock import Clock, from_iso
from gateway.core.errors import (
    AddressNotAllowed,
    CallbackNotAllowed,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    RequestError,
    StoreDefect,
    StoreError,
    StorePartly,
    StoreRefused,
    TooLarge,
    Unavailable,
)
from gateway.core.ids import new_callback_id
from gateway.core.memory import SMALL
from gateway.core.model import Callback, CallbackState, NewCallback, Registration
from gateway.core.telemetry import Metrics
from gateway.store import Registry

__all__ = ["Callbacks"]

_MAX_BODY = 64 * 1024
_MAX_BATCH_BODY = 12 * 1024 * 1024  # 1,000 callbacks with the largest URL and metadata
_READ_AT_ONCE = 128 * 1024  # bytes of a batch that are read in a few milliseconds, whatever stands in it
_ROW = 600  # bytes of a callback in a list, but for its metadata and URL
_BATCH_LOOKUPS = 64
"""How many names of one batch are looked up at once. Each is two questions, and forwarders such as dnsmasq take no more
than 150 from everybody."""
_DEFAULT_LIMIT = 50
_MAX_LIMIT = 200
_LIST_QUERY = ("state", "taskId", "limit", "cursor", "client")

_one = msgspec.json.Decoder(CallbackRequest)
_redeliveries = msgspec.json.Decoder(RedeliveriesRequest)


class Callbacks:
    """The routes, over a store; ``check_url`` raises AddressNotAllowed for a URL that the callback policy refuses."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        *,
        check_url: Callable[[str], Awaitable[object]],
        first_poll_at: Mapping[str, Callable[[int, str], int]],
        default_upstream: str | None,
        client_upstreams: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``first_poll_at``: for each upstream, when a task that a client registers now is first polled.

        ``default_upstream``: what a callback means that names none; None: it has to name one. ``client_upstreams``:
        for clients with another default upstream, its name.
        """
        self._registry = registry
        self._clock = clock
        self._registrations = {created: metrics.registrations.labels(created) for created in (True, False)}
        self._check_url = check_url
        self._first_poll_at = first_poll_at
        self._default_upstream = default_upstream
        self.client_upstreams = client_upstreams
        self._cursors: URLSafeSerializer | None = None

    def routes(self) -> list[Route]:
        return [
            route("/v1/callbacks", query=_LIST_QUERY, GET=self.list_all, POST=self.register),
            route("/v1/callbacks/batch", POST=self.register_batch),
            route("/v1/callbacks/{id}", GET=self.get, DELETE=self.cancel),
            route("/v1/callbacks/{id}/attempts", GET=self.attempts),
            route("/v1/callbacks/{id}/redeliver", POST=self.redeliver),
            route("/v1/redeliveries", POST=self.redeliver_dead),
        ]

    async def register(self, request: Request) -> Response:
        client = client_of(request)
        asked = decode(await read_body(request, _MAX_BODY), _one)
        await self._check(asked.callback_url)
        # The time only now: a name may take seconds to look up, and the clock may be set meanwhile.
        new = self._new_callback(client, asked, encode_metadata(asked.metadata), self._clock.now())
        registration = await self._registered(request, new)
        if isinstance(registration, RequestError):
            raise registration
        self._count(registration)
        if not registration.created and not new.same_request_as(registration.callback):
            raise _conflict(registration.callback)
        callback = registration.callback
        return json_response(
            callback_view(callback),
            201 if registration.created else 200,
            {"location": f"/v1/callbacks/{callback.id}"},
        )

    async def register_batch(self, request: Request) -> Response:
        """Register each item by itself: one that is refused does not touch the others."""
        client = client_of(request)
        body = await read_body(request, _MAX_BATCH_BODY)
        read = await work(request, _read_batch, body) if len(body) > _READ_AT_ONCE else _read_batch(body)
        del body
        verdicts = await self._verdicts({item.asked.callback_url for item in read if isinstance(item, _Item)})
        now = self._clock.now()
        checked = [
            verdicts[item.asked.callback_url] or self._new_item(client, item, now) if isinstance(item, _Item) else item
            async for item in paced(read)
        ]
        new = [item for item in checked if isinstance(item, NewCallback)]
        registrations = iter(await self._registered_batch(request, new))
        answers = [
            _batch_answer(item, next(registrations)) if isinstance(item, NewCallback) else _refused(item)
            async for item in paced(checked)
        ]
        for status, count in Counter(answer["status"] for answer in answers if "callback" in answer).items():
            self._registrations[status == 201].inc(count)
        return json_response({"data": answers})

    async def list_all(self, request: Request) -> Response:
        query = request.query_params
        state = _state(query.get("state"))
        task_id = query.get("taskId")
        limit = _limit(query.get("limit"))
        before_seq = await self._read_cursor(query.get("cursor"))
        client = _whose(request, query.get("client"))
        # One more than asked for tells whether there is a next page.
        read = partial(
            self._registry.list_callbacks, client, state=state, task_id=task_id, before_seq=before_seq, limit=limit + 1
        )
        async with share(request, READ + limit):
            found = await read()
        if (size := sum(len(one.metadata) + len(one.url) + _ROW for one in found)) > SMALL:
            found = []  # nothing large is kept while it waits for room
            await hold(request, 3 * size)  # the rows, their views and the answer
            async with share(request, READ + limit):
                found = await read()
        page = found[:limit]
        cursor = (await self._cursor_serializer()).dumps(page[-1].seq) if len(found) > limit else None
        return json_response({"data": [self._view(request, callback) for callback in page], "nextCursor": cursor})

    async def get(self, request: Request) -> Response:
        return json_response(self._view(request, await self._callback(request)))

    async def attempts(self, request: Request) -> Response:
        async with share(request, 2 * READ):
            attempts = await self._registry.list_attempts(scope_of(request), request.path_params["id"])
        if attempts is None:
            raise _not_found(request)
        return json_response({"data": [attempt_view(attempt) for attempt in attempts]})

    async def cancel(self, request: Request) -> Response:
        async with share(request, 1):
            found = await self._registry.cancel(scope_of(request), request.path_params["id"], self._clock.now())
        if found is None:
            raise _not_found(request)
        if found in (CallbackState.DELIVERED, CallbackState.DEAD):
            raise Conflict(f"The callback is {found} already: there is nothing left to cancel.")
        return Response(status_code=204)

    async def redeliver(self, request: Request) -> Response:
        async with share(request, 1):
            found = await self._registry.redeliver(scope_of(request), request.path_params["id"], self._clock.now())
        if found is None:
            raise _not_found(request)
        if found is CallbackState.WAITING:
            raise Conflict("The task still runs: there is no webhook to redeliver yet.")
        if found is CallbackState.CANCELLED:
            raise Conflict("The callback was cancelled; register it anew.")
        try:
            callback = await self._callback(request)
        except StoreError as exc:
            raise StorePartly("The callback is redelivered; the database cannot be read for it at the moment.") from exc
        return json_response(self._view(request, callback), 202)

    async def redeliver_dead(self, request: Request) -> Response:
        asked = decode(await read_body(request, _MAX_BODY), _redeliveries)
        now = self._clock.now()
        since = _instant("since", asked.since, 0)
        until = _instant("until", asked.until, now + 1)
        if since >= until:
            raise InvalidRequest("since must be before until.", errors=[("since", "must be before until")])
        whose = _whose(request, asked.client)
        count = await self._registry.redeliver_dead(whose, since, until, now, lambda: whole_share(request))
        return json_response({"count": count}, 202)

    async def _callback(self, request: Request) -> Callback:
        async with share(request, READ):
            callback = await self._registry.get_callback(scope_of(request), request.path_params["id"])
        if callback is None:
            raise _not_found(request)
        return callback

    def _view(self, request: Request, callback: Callback) -> CallbackView:
        callback = replace(callback, task=told(callback.task, self._first_poll_at))
        return callback_view(callback, callback.client if scope_of(request) is None else UNSET)

    def _new_callback(self, client: str, asked: CallbackRequest, metadata: bytes, now: int) -> NewCallback:
        upstream = asked.upstream
        if upstream is None:
            upstream = self.client_upstreams.get(client, self._default_upstream)
        if upstream is None or upstream not in self._first_poll_at:
            what = "is missing" if upstream is None else "is not configured"
            message = f"{what}; there is: {', '.join(self._first_poll_at)}"
            raise InvalidRequest(f"upstream: {message}", errors=[("upstream", message)])
        return NewCallback(
            id=new_callback_id(now),
            client=client,
            upstream=upstream,
            task_id=asked.task_id,
            url=asked.callback_url,
            metadata=metadata,
            timeout_s=DEFAULT_TIMEOUT_S if asked.timeout_seconds is None else asked.timeout_seconds,
            created_at=now,
            first_poll_at=self._first_poll_at[upstream](now, client),
        )

    async def _registered_batch(
        self, request: Request, new: list[NewCallback]
    ) -> Sequence[Registration | RequestError]:
        """Register them in pieces, so that a transaction of many rows delays nobody else's request.

        Raises StoreError where nothing was stored; where some of them were, each of the others is refused by itself.
        """
        registrations: list[Registration | RequestError] = []
        while len(registrations) < len(new):
            some = new[len(registrations) :][: piece(request)]
            try:
                async with share_for_piece(request, len(some)):
                    registrations += await self._registry.register(some)
            except (StoreRefused, StoreDefect):
                # Each by itself: one that cannot be stored must not take the others down with it.
                registrations += await asyncio.gather(*(self._registered_by_itself(request, one) for one in some))
            except StoreError:
                if not registrations:
                    raise
                registrations += [_not_stored()] * (len(new) - len(registrations))
        return registrations

    async def _registered_by_itself(self, request: Request, new: NewCallback) -> Registration | RequestError:
        try:
            return await self._registered(request, new)
        except StoreError:  # others beside it may be stored
            return _not_stored()

    async def _registered(self, request: Request, new: NewCallback) -> Registration | RequestError:
        try:
            async with share(request, 1):
                (registration,) = await self._registry.register([new])
        except StoreRefused as error:
            return InvalidRequest(f"This callback cannot be stored. {error.message}")
        except StoreDefect as error:
            return Unavailable(error.message)
        return registration

    def _new_item(self, client: str, item: "_Item", now: int) -> NewCallback | RequestError:
        try:
            return self._new_callback(client, item.asked, item.metadata, now)
        except RequestError as error:
            return error

    async def _verdicts(self, urls: Collection[str]) -> dict[str, RequestError | None]:
        """Return for each URL why it is refused, if it is."""
        places = asyncio.Semaphore(_BATCH_LOOKUPS)  # the batch's own: it delays nobody else's
        async with asyncio.TaskGroup() as group:
            tasks = {url: group.create_task(self._verdict(url, places)) async for url in paced(urls)}
        return {url: task.result() for url, task in tasks.items()}

    async def _verdict(self, url: str, places: asyncio.Semaphore) -> RequestError | None:
        try:
            async with places:
                await self._check(url)
        except RequestError as error:
            return error
        return None

    async def _check(self, url: str) -> None:
        try:
            await self._check_url(url)
        except AddressNotAllowed as error:
            raise CallbackNotAllowed(error.message, errors=[("callbackUrl", error.message)]) from None

    def _count(self, registration: Registration) -> None:
        self._registrations[registration.created].inc()

    async def _cursor_serializer(self) -> URLSafeSerializer:
        if self._cursors is None:
            # itsdangerous' defaults are SHA-1 and a plain concatenation: name better ones.
            self._cursors = URLSafeSerializer(
                await self._registry.secret_key(),
                salt="callbacks-cursor",
                signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
            )
        return self._cursors

    async def _read_cursor(self, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            seq = (await self._cursor_serializer()).loads(text)
        except BadSignature:
            seq = None
        if not isinstance(seq, int):
            message = "is not one that this gateway gave out; take nextCursor of the page before"
            raise InvalidRequest(f"cursor: {message}", errors=[("cursor", message)])
        return seq


class _Item(msgspec.Struct, frozen=True, gc=False):
    """One registration of a batch, its metadata as it is kept: as an object it may take many times as much."""

    asked: CallbackRequest
    metadata: bytes


def _read_batch(body: bytes) -> list[_Item | RequestError]:
    return [_read_item(item) for item in batch_items(body)]


def _read_item(item: msgspec.Raw) -> _Item | RequestError:
    if len(memoryview(item)) > _MAX_BODY:
        return TooLarge(f"A registration may have at most {_MAX_BODY} bytes.")
    try:
        asked = decode(item, _one)
        return _Item(replace(asked, metadata=None) if asked.metadata else asked, encode_metadata(asked.metadata))
    except RequestError as error:
        error.__context__ = None  # as its traceback, it would keep what was read until the answer
        return error.with_traceback(None)


def _batch_answer(new: NewCallback, registration: Registration | RequestError) -> dict[str, Any]:
    if isinstance(registration, RequestError):
        return _refused(registration)
    if not registration.created and not new.same_request_as(registration.callback):
        return _refused(_conflict(registration.callback))
    return {"status": 201 if registration.created else 200, "callback": callback_view(registration.callback)}


def _refused(error: RequestError) -> dict[str, Any]:
    return {"status": error.status, "error": problem(error)}


def _conflict(existing: Callback) -> Conflict:
    return Conflict(
        f"{existing.id} is registered for this task and URL with another metadata or timeoutSeconds; "
        "cancel it first, or send the same request."
    )


def _not_stored() -> Unavailable:
    return Unavailable("The database cannot be used at the moment; this callback was not stored.")


def _not_found(request: Request) -> NotFound:
    return NotFound(f"There is no callback {request.path_params['id']}.")


def _whose(request: Request, named: str | None) -> str | None:
    """Return whose callbacks are meant, None for everybody's; only the operator may name a client."""
    own = scope_of(request)
    if own is not None and named is not None:
        raise Forbidden("client: only the operator's token is for another client's callbacks.")
    return named if own is None else own


def _state(text: str | None) -> CallbackState | None:
    if text is None:
        return None
    try:
        return CallbackState(text)
    except ValueError:
        message = f"must be one of {', '.join(CallbackState)}"
        raise InvalidRequest(f"state: {message}", errors=[("state", message)]) from None


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= _MAX_LIMIT):
        message = f"must be a whole number from 1 to {_MAX_LIMIT}"
        raise InvalidRequest(f"limit: {message}", errors=[("limit", message)])
    return int(text)


def _instant(field: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    try:
        return from_iso(text)
    except ValueError:
        message = "must be an instant with a zone, such as 2026-11-23T10:00:00Z"
        raise InvalidRequest(f"{field}: {message}", errors=[(field, message)]) from None
