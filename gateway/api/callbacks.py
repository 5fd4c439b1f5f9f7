"""``/v1/callbacks`` and ``/v1/redeliveries``: reading, cancelling and redelivering callbacks.

Owns what a list's query may say, and its cursors. Called by the routes; ``registering`` makes the callbacks.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeVar

import msgspec
from itsdangerous import BadSignature, URLSafeSerializer
from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.auth import scope_of
from gateway.api.large import made_with_room
from gateway.api.schema import (
    CLIENT,
    MAX_BODY,
    NO_CLIENT,
    NO_INSTANT,
    TASK_ID,
    RedeliveriesRequest,
    Wire,
    decode,
    invalid,
    read_body,
)
from gateway.api.shares import share
from gateway.api.views import AttemptView, CallbackView, attempt_view, callback_view, json_response
from gateway.core.clock import Clock, from_iso
from gateway.core.errors import Forbidden, InvalidRequest, NotFound, without_frames
from gateway.core.memory import SMALL
from gateway.core.model import Callback, CallbackState
from gateway.core.search import Sought, sought
from gateway.core.shares import READ, WHOLE
from gateway.core.telling import refuse_cancelling, refuse_redelivering, told
from gateway.store import Registry

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_VIEW = 1024
"""Bytes of one callback in a list, if it has no large metadata and no long URL: from 500 to 700."""

_WHOLE = re.compile(r"[1-9][0-9]{0,8}")

_redeliveries = msgspec.json.Decoder(RedeliveriesRequest)


class CallbackPage(Wire, frozen=True, kw_only=True):
    data: list[CallbackView]
    next_cursor: str | None


class Attempts(Wire, frozen=True, kw_only=True):
    data: list[AttemptView]


class Redelivered(Wire, frozen=True, kw_only=True):
    count: int


class Callbacks:
    """These calls, over the registry; ``upstreams`` are polled."""

    def __init__(self, registry: Registry, clock: Clock, upstreams: Collection[str]) -> None:
        self._registry = registry
        self._clock = clock
        self._upstreams = upstreams
        self._cursors: URLSafeSerializer | None = None

    async def list_all(self, request: Request) -> Response:
        query = request.query_params
        state = _state(query.get("state"))
        task_id = _task_id(query.get("taskId"))
        limit = _limit(query.get("limit"))
        before_seq = await self._read_cursor(query.get("cursor"))
        client = _whose(request, query.get("client"))

        async def page() -> Response:
            async with share(request, READ + limit):
                # One more than asked for tells whether there is a next page.
                found = await self._registry.list_callbacks(
                    client, state=state, task_id=task_id, before_seq=before_seq, limit=limit + 1
                )
            callbacks = found[:limit]
            cursor = (await self._cursor_serializer()).dumps(callbacks[-1].seq) if len(found) > limit else None
            views = [self._view(request, callback) for callback in callbacks]
            return json_response(CallbackPage(data=views, next_cursor=cursor))

        is_full = (state is None and task_id is None) or before_seq is not None  # as the page before was
        return await made_with_room(request, page, likely=limit * _VIEW if is_full else SMALL)

    async def get(self, request: Request) -> Response:
        return json_response(self._view(request, await _asked(request, READ, self._registry.get_callback)))

    async def attempts(self, request: Request) -> Response:
        async def read() -> Response:
            attempts = await _asked(request, 2 * READ, self._registry.list_attempts)
            return json_response(Attempts(data=[attempt_view(attempt) for attempt in attempts]))

        return await made_with_room(request, read)

    async def cancel(self, request: Request) -> Response:
        found = await _asked(request, 1, lambda whose, one: self._registry.cancel(whose, one, self._clock.now()))
        refuse_cancelling(found)
        return Response(status_code=204)

    async def redeliver(self, request: Request) -> Response:
        found, callback = await _asked(
            request, 1, lambda whose, one: self._registry.redeliver(whose, one, self._clock.now())
        )
        refuse_redelivering(found)
        return json_response(self._view(request, callback), 202)

    async def redeliver_dead(self, request: Request) -> Response:
        asked = decode(await read_body(request, MAX_BODY), _redeliveries)
        now = self._clock.now()
        since = _instant("since", asked.since, 0)
        until = _instant("until", asked.until, now + 1)
        if since >= until:
            raise InvalidRequest("since must be before until.", errors=[("since", "must be before until")])
        whose = _whose(request, asked.client)
        receiver = None if asked.receiver is None else _receiver(asked.receiver)
        if asked.dry_run:
            async with share(request, WHOLE):
                count = await self._registry.count_dead(whose, since, until, receiver)
            return json_response(Redelivered(count=count))
        turn = partial(share, request, WHOLE)
        count = await self._registry.redeliver_dead(whose, since, until, now, turn, receiver)
        return json_response(Redelivered(count=count), 202)

    def _view(self, request: Request, callback: Callback) -> CallbackView:
        callback = replace(callback, task=told(callback.task, self._upstreams))
        return callback_view(callback, callback.client if scope_of(request) is None else UNSET)

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
        except BadSignature as error:
            without_frames(error)  # one of them keeps it
            seq = None
        if not isinstance(seq, int):
            raise invalid("cursor", "is not one that this gateway gave out; take nextCursor of the page before")
        return seq


async def _asked(request: Request, cost: int, question: Callable[[str | None, str], Awaitable[T | None]]) -> T:
    """Ask the registry about the callback that the path names. Raises NotFound."""
    callback_id = request.path_params["id"]
    if not callback_id.isprintable():  # not every database takes such a name, not even to look for it
        raise NotFound("There is no such callback.")
    async with share(request, cost):
        found = await question(scope_of(request), callback_id)
    if found is None:
        raise NotFound(f"There is no callback {callback_id}.")
    return found


def _whose(request: Request, named: str | None) -> str | None:
    """Return whose callbacks are meant, None for everybody's; only the operator may name a client."""
    own = scope_of(request)
    if own is not None and named is not None:
        raise Forbidden("client: only the operator's token is for another client's callbacks.")
    if named is not None and not CLIENT.match(named):
        raise invalid("client", NO_CLIENT)
    return named if own is None else own


def _receiver(named: str) -> Sought:
    try:
        return sought(named)
    except ValueError as error:
        raise invalid("receiver", str(error)) from None


def _state(text: str | None) -> CallbackState | None:
    if text is None:
        return None
    try:
        return CallbackState(text)
    except ValueError:
        raise invalid("state", f"must be one of {', '.join(CallbackState)}") from None


def _task_id(text: str | None) -> str | None:
    if text is not None and not TASK_ID.fullmatch(text):
        raise invalid("taskId", "must be 1 to 255 printable ASCII characters without spaces")
    return text


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (_WHOLE.fullmatch(text) and 1 <= int(text) <= MAX_LIMIT):
        raise invalid("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _instant(field: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    try:
        return from_iso(text.upper())
    except ValueError:  # such as 30 February
        raise invalid(field, NO_INSTANT) from None
