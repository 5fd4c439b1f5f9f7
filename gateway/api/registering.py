"""``POST /v1/callbacks``, of one callback and of a batch: what is asked is checked, and then registered.

Owns that no URL is registered which the callback policy refuses, and that no item of a batch touches the others.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from io import BytesIO
from itertools import islice
from types import MappingProxyType

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.auth import client_of
from gateway.api.large import hold, work
from gateway.api.problems import Problem, problem
from gateway.api.schema import (
    COST,
    DEFAULT_TIMEOUT_S,
    MAX_BODY,
    CallbackRequest,
    Wire,
    batch_items,
    decode,
    encode_metadata,
    invalid,
    read_body,
)
from gateway.api.shares import note, paced, piece, share, share_for_piece
from gateway.api.traced import trace_of
from gateway.api.views import CallbackView, callback_view, json_response
from gateway.core.clock import Clock
from gateway.core.errors import (
    AddressNotAllowed,
    CallbackNotAllowed,
    Conflict,
    InvalidRequest,
    RequestError,
    StoreDefect,
    StoreError,
    StoreLocked,
    StoreRefused,
    TooLarge,
    Unavailable,
)
from gateway.core.ids import new_callback_id
from gateway.core.model import Callback, Format, NewCallback, Registration
from gateway.core.telemetry import Metrics
from gateway.core.urls import receiver_of
from gateway.store import Registry

_MAX_BATCH_BODY = 12 * 1024 * 1024  # 1,000 callbacks with the largest URL and metadata
_READ_AT_ONCE = 128 * 1024  # bytes of a batch that are read in a few milliseconds, whatever stands in it
_ITEM_BYTES = 2560
"""What an item of a batch takes at most beside ``COST``, its answer included: 1.6 KB were measured of one that is none,
2.4 of a good one."""
_BATCH_LOOKUPS = 64
"""How many names of one batch are looked up at once: each is two questions, and forwarders such as dnsmasq take no more
than 150 from everybody. Of several batches together, and of webhooks, nothing is bounded here: where so many names at
once have no answer, a forwarder may drop others' questions too, which are asked again for ten seconds."""

_one = msgspec.json.Decoder(CallbackRequest)


class BatchAnswer(Wire, frozen=True, kw_only=True):
    """What became of one item: its callback, or why there is none."""

    status: int
    callback: CallbackView | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class BatchAnswers(Wire, frozen=True, kw_only=True):
    data: list[BatchAnswer]


class Registering:
    """Both calls; ``check_url`` raises AddressNotAllowed for a URL that the callback policy refuses.

    So does ``check_now``, as far as it can without a look-up, and tells whether that was all: an asyncio task for each
    of a batch's thousand addresses takes longer than to check it.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        *,
        check_url: Callable[[str], Awaitable[object]],
        first_poll_at: Mapping[str, Callable[[str, int, str, str | None], int]],
        default_upstream: str | None,
        check_now: Callable[[str], bool] = lambda url: False,
        client_upstreams: Mapping[str, str] = MappingProxyType({}),
        root_path: str = "",
        receiver_name: Callable[[str], str] = receiver_of,
    ) -> None:
        """``first_poll_at``: for each upstream, when a task is first polled, by its id, now, its client and its model.

        ``default_upstream``: what a callback means that names none; None: it has to name one. ``client_upstreams``:
        for clients with another default upstream, its name. ``root_path`` stands before all paths to its clients.
        ``receiver_name``: what a URL's receiver is called.
        """
        self._registry = registry
        self._clock = clock
        self._registrations = {created: metrics.registrations.labels(created) for created in (True, False)}
        self._check_url = check_url
        self._check_now = check_now
        self._first_poll_at = first_poll_at
        self._default_upstream = default_upstream
        self.client_upstreams = client_upstreams
        self.root_path = root_path
        self._receiver_name = receiver_name

    @property
    def upstreams(self) -> Collection[str]:
        """The names that a callback may give."""
        return self._first_poll_at.keys()

    async def register(self, request: Request) -> Response:
        client = client_of(request)
        asked = decode(await read_body(request, MAX_BODY), _one)
        metadata = encode_metadata(asked.metadata)
        if asked.metadata:
            asked.metadata.clear()  # it may take many times as much as its bytes, and a name seconds to be looked up
        await self._check(asked.callback_url)
        # The time only now: a name may take seconds to look up, and the clock may be set meanwhile.
        trace = trace_of(request)
        new = self._new_callback(client, asked, metadata, self._clock.now(), trace)
        registration = await self._registered(request, new)
        if isinstance(registration, RequestError):
            raise registration
        self._registrations[registration.created].inc()
        if not registration.created and not new.same_request_as(registration.callback):
            raise _conflict(registration.callback)
        callback = registration.callback
        return json_response(
            callback_view(callback),
            201 if registration.created else 200,
            {"location": f"{self.root_path}/v1/callbacks/{callback.id}"},
        )

    async def register_batch(self, request: Request) -> Response:
        """Register each item by itself: one that is refused does not touch the others."""
        client = client_of(request)
        note(request)
        read = await self._read_batch(request)
        urls = {item.asked.callback_url for item in read if isinstance(item, _Item)}
        verdicts = await self._verdicts(request, urls)
        now, trace = self._clock.now(), trace_of(request)
        checked = [
            verdicts[item.asked.callback_url] or self._new_item(client, item, now, trace)
            if isinstance(item, _Item)
            else item
            async for item in paced(request, read)
        ]
        new = [item for item in checked if isinstance(item, NewCallback)]
        registrations = iter(await self._registered_batch(request, new))
        answers, between = BytesIO(), b'{"data":['
        statuses: Counter[int] = Counter()
        async for item in paced(request, checked):
            answers.write(between)
            between = b","
            if isinstance(item, NewCallback):
                answer = _batch_answer(item, next(registrations))
                statuses[answer.status] += 1
                answers.write(msgspec.json.encode(answer))
            else:
                answers.write(item)
        answers.write(b"]}")
        for created, counter in self._registrations.items():
            counter.inc(statuses[201 if created else 200])
        return Response(answers.getvalue(), media_type="application/json")

    async def _read_batch(self, request: Request) -> "list[_Item | bytes]":
        body = await read_body(request, _MAX_BATCH_BODY)
        large = len(body) > _READ_AT_ONCE
        items = await work(request, batch_items, body) if large else batch_items(body)
        await hold(request, COST * len(body) + _ITEM_BYTES * len(items))
        if large:
            return await work(request, _read_items, items)
        # Not at once: they may be a thousand, and of a hundred batches that waited for room nine go on in one turn.
        return [_read_item(item) async for item in paced(request, items)]

    def _new_callback(
        self, client: str, asked: CallbackRequest, metadata: bytes, now: int, trace: str | None
    ) -> NewCallback:
        upstream = asked.upstream
        if upstream is None:
            upstream = self.client_upstreams.get(client, self._default_upstream)
        if upstream is None or upstream not in self._first_poll_at:
            what = "is missing" if upstream is None else "is not configured"
            raise invalid("upstream", f"{what}; there is: {', '.join(self._first_poll_at)}")
        first_poll_at = self._first_poll_at[upstream](asked.task_id, now, client, asked.model)
        receiver = self._receiver_name(asked.callback_url)
        return new_callback(asked, receiver, metadata, client, upstream, now, first_poll_at, trace)

    async def _registered_batch(
        self, request: Request, new: list[NewCallback]
    ) -> Sequence[Registration | RequestError]:
        """Register them in pieces, so that a transaction of many rows delays nobody else's request.

        Raises StoreError where nothing was stored; where some of them were, each of the others is refused by itself.
        """
        registrations: list[Registration | RequestError] = []
        while len(registrations) < len(new):
            some, weight = _piece(new, len(registrations), piece(request))
            try:
                async with share_for_piece(request, weight):
                    registrations += await self._registry.register(some)
            except (StoreRefused, StoreDefect, StoreLocked):
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

    def _new_item(self, client: str, item: "_Item", now: int, trace: str | None) -> NewCallback | bytes:
        try:
            return self._new_callback(client, item.asked, item.metadata, now, trace)
        except RequestError as error:
            return _encoded(error)

    async def _verdicts(self, request: Request, urls: Collection[str]) -> dict[str, bytes | None]:
        """Return for each URL why it is refused, if it is."""
        places = asyncio.Semaphore(_BATCH_LOOKUPS)  # the batch's own: nobody else waits for one of these
        verdicts: dict[str, bytes | None] = {}
        looked_up: dict[str, asyncio.Task[bytes | None]] = {}
        async with asyncio.TaskGroup() as group:
            async for url in paced(request, urls):
                try:
                    if not self._check_now(url):
                        looked_up[url] = group.create_task(self._verdict(url, places))
                        continue
                    verdicts[url] = None
                except AddressNotAllowed as error:
                    verdicts[url] = _encoded(_not_allowed(error))
        return verdicts | {url: task.result() for url, task in looked_up.items()}

    async def _verdict(self, url: str, places: asyncio.Semaphore) -> bytes | None:
        try:
            async with places:
                await self._check(url)
        except RequestError as error:
            return _encoded(error)
        return None

    async def _check(self, url: str) -> None:
        try:
            await self._check_url(url)
        except AddressNotAllowed as error:
            raise _not_allowed(error) from None


def new_callback(
    asked: CallbackRequest,
    receiver: str,
    metadata: bytes,
    client: str,
    upstream: str,
    now: int,
    first_poll_at: int,
    trace: str | None,
) -> NewCallback:
    """Return what is stored of a registration that is made now, whoever has asked for it."""
    return NewCallback(
        id=new_callback_id(now),
        client=client,
        upstream=upstream,
        task_id=asked.task_id,
        url=asked.callback_url,
        receiver=receiver,
        metadata=metadata,
        timeout_s=DEFAULT_TIMEOUT_S if asked.timeout_seconds is None else int(asked.timeout_seconds),
        created_at=now,
        first_poll_at=first_poll_at,
        model=asked.model,
        format=asked.format or Format.STANDARD,
        trace=trace,
    )


def _piece(new: Sequence[NewCallback], start: int, most: int) -> tuple[list[NewCallback], int]:
    """Return what of a batch is written next, and its weight: one at least, and as many as ``most`` allows."""
    some: list[NewCallback] = []
    total = 0
    for one in islice(new, start, None):
        its = one.weight
        if some and total + its > most:
            break
        some.append(one)
        total += its
    return some, total


class _Item(msgspec.Struct, frozen=True, gc=False):
    """One registration of a batch, its metadata as it is kept: as an object it may take many times as much."""

    asked: CallbackRequest
    metadata: bytes


def _read_items(items: Sequence[msgspec.Raw]) -> list[_Item | bytes]:
    """Return of each item what it asks for, or what is answered to one that is none."""
    return [_read_item(item) for item in items]


def _read_item(item: msgspec.Raw) -> _Item | bytes:
    if len(memoryview(item)) > MAX_BODY:
        return _encoded(TooLarge(f"A registration may have at most {MAX_BODY} bytes."))
    try:
        asked = decode(item, _one)
        return _Item(replace(asked, metadata=None) if asked.metadata else asked, encode_metadata(asked.metadata))
    except RequestError as error:
        return _encoded(error)


def _encoded(error: RequestError) -> bytes:
    """Return the answer to an item that is refused, as it is sent.

    The error would keep what was read until then; and of a hundred batches of such items the garbage collector had
    50,000 objects to look at, which took it 60 ms.
    """
    return msgspec.json.encode(_refused(error))


def _batch_answer(new: NewCallback, registration: Registration | RequestError) -> BatchAnswer:
    if isinstance(registration, RequestError):
        return _refused(registration)
    if not registration.created and not new.same_request_as(registration.callback):
        return _refused(_conflict(registration.callback))
    return BatchAnswer(status=201 if registration.created else 200, callback=callback_view(registration.callback))


def _refused(error: RequestError) -> BatchAnswer:
    return BatchAnswer(status=error.status, error=problem(error))


def _not_allowed(error: AddressNotAllowed) -> CallbackNotAllowed:
    return CallbackNotAllowed(error.message, errors=[("callbackUrl", error.message)])


def _conflict(existing: Callback) -> Conflict:
    return Conflict(
        f"{existing.id} is registered for this task and URL with another metadata, timeoutSeconds or format; "
        "cancel it first, or send the same request."
    )


def _not_stored() -> Unavailable:
    return Unavailable("The database cannot be used at the moment; this callback was not stored.")
