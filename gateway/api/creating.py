"""A create that is paid for: from where it is forwarded until its callback is registered, its answer kept and its task
watched.

Owns that a forwarded create's callback is not lost, however long the store fails, and what its client is told where
that cannot be promised. Called by the proxy, once the create has had its turn in the rate limit.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import msgspec
import structlog
from msgspec.structs import replace

from gateway.api.createrequest import CreateRequest
from gateway.api.forwarding import Detached, Forwarding, shutting_down, store_unavailable
from gateway.api.once import SAME_AGAIN
from gateway.api.proxied import Proxied
from gateway.api.registering import new_callback
from gateway.api.schema import TASK_ID, CallbackRequest
from gateway.api.watching import Watching
from gateway.core.creates import CreateAnswer, NewCreate
from gateway.core.errors import Conflict, RequestError, StoreError, UpstreamFailed, UpstreamTimeout
from gateway.core.model import Format
from gateway.upstream.answer import Created
from gateway.upstream.api import Answer, NoAnswer
from gateway.upstream.turns import Waiter

_log = structlog.get_logger()

_TIMEOUT_S = 75.0  # some APIs hold a create for up to a minute where they are asked to
_REGISTRATION_WAIT_S = 10.0
"""How long the answer to a create is held back for its callback to be durable, or for the answer itself to be."""
_MAX_TOLD = 4000  # characters of an answer in which no id was found, which its client is shown
_MAX_KEPT = 16 * 1024  # bytes of an answer that is given again: a client's creates of a day are kept
_RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""Pauses between tries to store what became of a create, while the store fails."""
_LAST_WORD_S = 1.0
"""How long the end of a gateway waits for it to be stored that a create's answer will never be known."""
_STOPPED = NoAnswer(error="The gateway shut down before the upstream answered.")


class BegunBefore(Conflict):
    """A create under this id was taken down before: nothing was forwarded now."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A create on its way to the upstream."""

    asked: CreateRequest
    target: str
    """Path and query at the upstream."""
    headers: Mapping[str, str]
    """What goes on of its client's."""
    client: str
    request_id: str
    """Its client's own, or one that the gateway has made."""
    create: NewCreate | None
    """What is taken down of it, where the id is its client's own."""
    trace: str | None
    """What its webhook is to be a part of."""
    again: bool
    """Whether it was forwarded before, and the upstream knows what became of that."""


class Creating:
    """Forwards creates to one upstream, whose callbacks are of this format."""

    def __init__(
        self,
        proxied: Proxied,
        forwarding: Forwarding,
        watching: Watching,
        *,
        callback_format: Format,
        receiver_name: Callable[[str], str],
    ) -> None:
        self._receiver_name = receiver_name
        self._registry = proxied.registry
        self._clock = proxied.clock
        self._metrics = proxied.metrics
        self._upstream = proxied.upstream
        self._calls = proxied.calls
        self._key = proxied.key
        self._timetable = proxied.timetable
        self._draining = proxied.draining
        self._has_replicas = proxied.has_replicas
        self._forwarding = forwarding
        self._watching = watching
        self._callback_format = callback_format

    async def forward(self, one: Outgoing, waiter: Waiter) -> Answer | RequestError:
        """Forward a create whose turn in the rate limit ``waiter`` has had."""
        if (refused := await self._begin(one, waiter)) is not None:
            return refused
        asked, client = one.asked, one.client
        own = {"content-type": asked.content_type, "x-request-id": _upstream_request_id(client, one.request_id)}
        try:
            with self._key.creates.sending(waiter) as answered:
                answer = await self._upstream.forward(
                    "POST",
                    one.target,
                    headers={**one.headers, **own},
                    content=asked.body,
                    timeout_s=_TIMEOUT_S,
                    whose=client,
                    answered=answered,
                )
            found = await self._read_created(answer)
        except asyncio.CancelledError:  # the drain's time was up
            _log.error("proxy.create_interrupted", upstream=self._upstream.name, request_id=one.request_id)
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_LAST_WORD_S):
                    await self._lose(one)
            return self._doubtful(_STOPPED, one, lost=True)
        told = answer if isinstance(answer, NoAnswer) else self._upstream.without_key(answer)
        # Before anything else is made of the answer: the task is paid for.
        ending = self._end(one, found, told)
        if isinstance(told, NoAnswer):
            await self._held_back(ending)
            if told.sent or one.again:
                return self._doubtful(told, one, lost=True)
            return UpstreamFailed(f"{told.error} Nothing was created: send it again.")
        result = await self._upstream.read(found.task_id or "", answer)
        self._key.judge_create(result)
        if found.task_id is not None and not found.refused:
            made = self._watching.created(found.task_id, client, asked, result)
            self._watching.beginning(found.task_id, self._forwarding.spawn(made, f"proxy-watch-{found.task_id}"))
        _log.info(
            "proxy.created",
            upstream=self._upstream.name,
            status=told.status,
            task_id=found.task_id,
            model=asked.model,
            receiver=None if asked.callback is None else self._receiver_name(asked.callback[1]),
            client=client,
        )
        await self._held_back(ending)
        if ending is not None and found.task_id is not None and self._upstream.last_answers.ended(found.task_id):
            self._forwarding.spawn(self._ended(found.task_id, ending.task), f"proxy-ended-{found.task_id}")
        return self._promised(one, found, told)

    def _promised(self, one: Outgoing, found: Created, told: Answer) -> Answer | RequestError:
        """Return what the client gets: an answer that promises a webhook only where one will come.

        Nor does it have SDKs send again by themselves what may have made a task, as they do at 408 and 5xx, where that
        would be paid twice or refused; but the upstream's own word on that counts.
        """
        asked = one.asked
        if found.refused:
            known = self._calls.once and one.create is not None  # the repetition has the id as well
            if found.none_made or known or "x-should-retry" in told.headers:
                return told
            return replace(told, headers=httpx.Headers([*told.headers.raw, *httpx.Headers(SAME_AGAIN).raw]))
        if asked.callback is None or found.task_id is not None:
            return told
        _log.error(
            "proxy.created_without_id",
            upstream=self._upstream.name,
            status=told.status,
            receiver=self._receiver_name(asked.callback[1]),
        )
        return self._without_id(told)

    async def _begin(self, one: Outgoing, waiter: Waiter) -> RequestError | None:
        """Take down that a create is forwarded now, and keep its place; or give that back, and return why."""
        refused: RequestError | None = None
        begun = None if one.again or one.create is None else replace(one.create, at=self._clock.now())
        try:
            if self._draining.is_set():
                refused = shutting_down()
            elif begun is not None and not await self._registry.begin_create(begun):
                refused = BegunBefore("Another create with this X-Request-ID is under way; send this one again later.")
        except StoreError:
            refused = store_unavailable()
        except BaseException:  # the drain's time was up
            self._key.creates.give_back(1, waiter)
            raise
        if refused is not None:
            self._key.creates.give_back(1, waiter)
        return refused

    async def _read_created(self, answer: Answer | NoAnswer) -> Created:
        """Return what an answer says of the new task, its id only where it can be one."""
        if isinstance(answer, NoAnswer):
            return Created(None, refused=False, none_made=not answer.sent)
        found = await self._upstream.read_created(answer, self._calls.created_id)
        is_id = isinstance(found.task_id, str) and TASK_ID.fullmatch(found.task_id)
        return found if is_id else found._replace(task_id=None)

    def again(self, asked: CreateRequest, request_id: str, answer: CreateAnswer) -> Answer | RequestError:
        """Return what a repeated create gets: what the first one got."""
        if answer.body is None:
            made, next_step = "its answer", "Look at the upstream for what that was; a new id creates anew."
            if answer.task_id is not None:
                made, next_step = f"task {answer.task_id}, and the answer", "Read that task; a new id creates anew."
            return Conflict(
                f"X-Request-ID {request_id} was forwarded before and has got {made}, which is too large to be given "
                f"again. Nothing was forwarded now. {next_step}",
                headers=SAME_AGAIN,
            )
        headers = httpx.Headers({} if answer.content_type is None else {"content-type": answer.content_type})
        told = Answer(answer.status, headers, answer.body)
        return self._without_id(told) if asked.callback is not None and answer.task_id is None else told

    def _without_id(self, answer: Answer) -> RequestError:
        """Return the answer to a create that may have been charged for, and whose webhook cannot be promised."""
        text = answer.body.decode("utf-8", "replace")
        return UpstreamFailed(
            f"The upstream answered {answer.status}, and no {self._calls.created_id} can be found in that: a task may "
            "have been created, and no webhook will come for it. Once its id is known, register it with POST "
            f"/v1/callbacks. The answer was: {text[:_MAX_TOLD]}",
            headers=SAME_AGAIN,
        )

    # What becomes of it

    def _end(self, one: Outgoing, found: Created, told: Answer | NoAnswer) -> Detached[None] | None:
        """Begin to store what came of it: a callback, and what a create that may be repeated was answered.

        Of an answer that leaves in doubt whether there is a task nothing is kept but that, for other replicas. Nor does
        one that leaves none tell of a create that was forwarded before.
        """
        asked, create = one.asked, one.create
        in_doubt = isinstance(told, NoAnswer) or (found.refused and found.task_id is None)
        if found.none_made or in_doubt:
            if create is None or one.again:
                return None
            if found.none_made:
                forgotten = self._note(create, partial(self._registry.forget_create, create))
                return self._forwarding.begin(forgotten, f"proxy-forget-{create.request_id}")
            lost = self._note(create, partial(self._lose, one))
            return self._forwarding.begin(lost, f"proxy-lose-{create.request_id}")
        assert isinstance(told, Answer)  # noqa: S101 - what has none is in doubt, or has made none
        answer = CreateAnswer(
            status=told.status,
            content_type=told.headers.get("content-type"),
            task_id=found.task_id,
            body=told.body if len(told.body) <= _MAX_KEPT else None,
        )
        if asked.callback is not None and found.task_id is not None:
            work = self._register(one, found.task_id, asked.callback[1], answer)
            return self._forwarding.begin(work, f"proxy-register-{found.task_id}")
        if create is not None:
            kept = self._note(create, partial(self._registry.end_create, create, answer, []))
            return self._forwarding.begin(kept, f"proxy-answered-{create.request_id}")
        return None

    async def _register(self, one: Outgoing, task_id: str, url: str, answer: CreateAnswer) -> None:
        """Register a callback, with the answer to its create where that may be repeated: its task is paid for."""
        client, model, create = one.client, one.asked.model, one.create
        receiver = self._receiver_name(url)
        told = {"upstream": self._upstream.name, "task_id": task_id, "receiver": receiver, "client": client}
        asked = CallbackRequest(task_id=task_id, callback_url=url, model=model, format=self._callback_format)

        async def write() -> None:
            now = self._clock.now()  # anew each time: the clock may have been set since the last
            first_poll_at = self._timetable.first_poll_at(now, client, model, new=True)
            new = new_callback(asked, receiver, b"{}", client, self._upstream.name, now, first_poll_at, one.trace)
            if create is None:
                (registration,) = await self._registry.register([new])
            else:
                (registration,) = await self._registry.end_create(create, answer, [new])
            self._metrics.registrations.labels(registration.created).inc()

        def failed(exc: StoreError, next_in_s: float) -> None:
            _log.error("proxy.registration_failed", **told, error=exc.message, next_in_s=next_in_s)

        try:
            await _until_stored(write, failed)
        except BaseException:  # the drain's time was up, or a defect
            _log.error("proxy.registration_lost", **told)  # by hand: `gateway register`
            raise

    async def _ended(self, task_id: str, registering: asyncio.Task[None]) -> None:
        """Have a task that had ended when it was created polled as soon as a callback waits for it."""
        await asyncio.wait([registering])
        await self._watching.poll_again(task_id, self._upstream.last_answers.ended(task_id))

    async def _lose(self, one: Outgoing) -> None:
        """Take down that a create's answer will never be known, where other replicas would wait for it."""
        if one.create is not None and not (one.again or self._calls.once) and self._has_replicas:
            await self._registry.lose_create(one.create, self._clock.now())

    async def _note(self, create: NewCreate, write: Callable[[], Awaitable[Any]]) -> None:
        """Store what became of a create that brought no callback."""
        try:
            await _until_stored(write)
        except BaseException:  # as above
            name, client, request_id = create.upstream, create.client, create.request_id
            _log.error("proxy.answer_lost", upstream=name, client=client, request_id=request_id)
            raise

    async def _held_back(self, ending: Detached[None] | None) -> None:
        """Hold an answer back until it is stored what came of it; but not for ever."""
        if ending is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_REGISTRATION_WAIT_S):
                    await ending.ended

    def stopped(self, one: Outgoing) -> RequestError:
        """Return the answer to a create whose client the shutdown cuts off: it may still come to its end."""
        return self._doubtful(_STOPPED, one, lost=False)

    def _doubtful(self, answer: NoAnswer, one: Outgoing, *, lost: bool) -> RequestError:
        """Return the answer to a create that may have made a task; ``lost``: what it made will never be known here."""
        repeatable = self._calls.once or (one.create is not None and not lost)
        what_next = f"send the same request again with X-Request-ID: {one.request_id}, so that it is not created twice."
        if not repeatable:
            what_next = "this upstream cannot be asked, so look there before you send it again."
            if one.create is not None:
                what_next = (
                    f"this upstream cannot be asked, so look there. With X-Request-ID {one.request_id} it is not "
                    "forwarded again; a new id creates anew."
                )
            if lost and one.asked.callback is not None:
                what_next += " No webhook comes for it; register it with POST /v1/callbacks once its id is known."
        error = (UpstreamTimeout if answer.timed_out else UpstreamFailed)(
            f"{answer.error} The task may have been created: {what_next}"
        )
        if not repeatable or one.create is None:
            error.headers.update(SAME_AGAIN)  # without an id of their own SDKs would have it paid twice
        return error


async def _until_stored(
    write: Callable[[], Awaitable[Any]], failed: Callable[[StoreError, float], None] | None = None
) -> None:
    """Try to write until that works; ``failed`` is told why it did not, and in how many seconds the next try is."""
    tries = 0
    while True:
        try:
            await write()
        except StoreError as exc:
            pause_s = _RETRY_S[min(tries, len(_RETRY_S) - 1)]
            tries += 1
            if failed is not None:
                failed(exc, pause_s)
            await asyncio.sleep(pause_s)
        else:
            return


def _upstream_request_id(client: str, request_id: str) -> str:
    """Return the id that the upstream sees: the same for a repeated request, another for another client's equal id.

    The upstream answers an id that it has seen with the task of that time, whoever sends it.
    """
    return hashlib.sha256(f"{client}\0{request_id}".encode()).hexdigest()[:32]
