"""Reads of a task by the upstream's own call.

Owns which of them are answered from the gateway's state, and that those which ask the same at once are one request.
Called by the proxy. A read that is forwarded costs a place in the rate limit, and ends with the last client that waits
for it; what it tells of a running task begins a watch (``watching``), so that the next ones cost nothing.
"""

import asyncio
from collections import Counter
from functools import partial

import httpx
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import large
from gateway.api.auth import scope_of
from gateway.api.forwarding import OPERATOR, Forwarding, no_answer, passed_on, result_of
from gateway.api.proxied import Proxied
from gateway.api.schema import TASK_ID
from gateway.api.shares import share
from gateway.api.tasks import Ends, wait_of, whole
from gateway.api.watching import Watching
from gateway.core.clock import Moment
from gateway.core.errors import InvalidRequest, NotFound, RequestError, UpstreamTimeout
from gateway.core.memory import SMALL
from gateway.core.reads import ReadTask
from gateway.core.shares import READ
from gateway.upstream.api import Answer, NoAnswer
from gateway.upstream.envelope import record_envelope, told_envelope
from gateway.upstream.turns import Waiter
from gateway.webhook.body import record_of

_ANEW_S = 5.0
"""So long a read waits for the upstream that could be answered with less than somebody may have been told."""
_Told = tuple[Answer, bool] | RequestError
"""An answer, and whether the store has a newer one."""
_COST = 3  # a record that is read takes so many times its size: as it is stored, in its envelope, and on its way


class Reading:
    """Reads of one upstream's tasks."""

    def __init__(self, proxied: Proxied, forwarding: Forwarding, watching: Watching) -> None:
        self._registry = proxied.registry
        self._clock = proxied.clock
        self._upstream = proxied.upstream
        self._call = proxied.record_call
        self._key = proxied.key
        self._forwarding = forwarding
        self._watching = watching
        self._poller_wake = proxied.poller_wake
        self._last_running = proxied.last_running
        self._ends = Ends(proxied.registry, proxied.clock, proxied.draining, proxied.recheck_s)
        self._synthesizes = proxied.calls.synthesize
        self._reads: dict[str, tuple[asyncio.Task[_Told], Waiter]] = {}
        self._readers: Counter[str] = Counter()

    async def read(self, request: Request) -> tuple[str, Response]:
        """Return how a read was answered, and the answer; it is held for as long as it asks to be."""
        task_id = self._task_id(request)
        until = self._clock.monotonic() + wait_of(request)
        await self._watching.begun(task_id)
        outcome, anew = "answered", False
        while True:
            known = await self._known(request, task_id, until, anew=anew)
            if (answer := await self._answered(request, task_id, known, anew=anew)) is not None:
                return outcome, answer
            may_make = known is not None and not anew and self._can_make(known, anew=True)
            told: Response | RequestError
            newer = False
            try:
                async with asyncio.timeout(_ANEW_S if may_make else None):
                    outcome, told, newer = await self._asked(request, task_id, known)
            except TimeoutError:
                told = UpstreamTimeout("The upstream did not answer in time.")
            except RequestError as error:
                told = error
            if not (may_make or (newer and not anew)) and (
                isinstance(told, RequestError)
                or self._clock.monotonic() >= until
                or self._runs(await self._known(request, task_id, 0.0), anew=True) is None
            ):
                if isinstance(told, RequestError):
                    raise told
                return outcome, told
            # The answer may be that it runs, and it is watched from now on: it goes, as up to 64 KiB are not counted.
            # Or another replica was told more meanwhile, and that is answered with.
            del known, answer, told
            anew = True

    async def _known(self, request: Request, task_id: str, until: float, *, anew: bool = False) -> ReadTask | None:
        """Return what the gateway knows of a task; of one that runs, once it has ended, or ``until`` then.

        ``anew``: see ``_can_make``.
        """

        def runs(known: ReadTask | None) -> int | None:
            return self._runs(known, anew=anew)

        client = scope_of(request) or OPERATOR

        async def look() -> ReadTask | None:
            async with share(request, READ):
                known = await self._registry.proxied_task(self._upstream.name, task_id)
            for_s = until - self._clock.monotonic()
            if known is not None and runs(known) is not None and self._watching.is_due(known, client, for_s):
                async with share(request, 1):
                    await self._watching.prolong(known, client, for_s)
                if not known.record_bytes:  # what is told has to be on disk: a later process must know no less
                    async with share(request, READ):
                        known = await self._registry.proxied_task(self._upstream.name, task_id)
            return known

        return await self._ends.wait(look, runs, until)

    def _is_polled(self, known: ReadTask) -> bool:
        """Whether a task is being polled, and those polls tell of it."""
        return known.task.next_poll_at is not None and known.denied_at is None

    def _can_make(self, known: ReadTask, *, anew: bool) -> bool:
        """Whether the answer about a polled task of which there is no record can be made of its row.

        Where the upstream has told of it, the row knows less than somebody may have been told: it is asked ``anew``
        first, as where another process did that.
        """
        return self._synthesizes and self._is_polled(known) and (anew or known.task.born_at is None)

    def _runs(self, known: ReadTask | None, *, anew: bool) -> int | None:
        """Return the seq of a running task that can be answered for."""
        if known is None or not self._is_polled(known):
            return None
        last, task_id = self._upstream.last_answers, known.task.task_id
        told = known.record_bytes > 0 or self._last_running(known) is not None or self._can_make(known, anew=anew)
        return known.task.seq if told and not known.end_told and last.ended(task_id) is None else None

    async def _answered(
        self, request: Request, task_id: str, known: ReadTask | None, *, anew: bool = False
    ) -> Response | None:
        """Answer from the gateway's state, where that is as good as the upstream's: it ended, or is being polled."""
        last, profile = self._upstream.last_answers, self._upstream.profile
        polled = known is not None and self._is_polled(known)
        record = last.ended(task_id)  # first: the poller may not have seen the end yet
        if record is None and known is not None and known.record_bytes and (polled or known.task.state.terminal):
            record = await self._record(request, known)
        elif record is None and known is not None and polled:
            record = self._last_running(known)
        if record is not None:
            made, size = partial(told_envelope, profile, record), len(record)
        elif known is not None and (self._can_make(known, anew=anew) or self._has_outcome(known)):
            task = await whole(self._registry, request, known.task)
            made, size = partial(record_envelope, profile, task), task.outcome_bytes
        else:
            return None
        body = made() if size <= SMALL else await large.work(request, made)
        return Response(body, media_type="application/json")

    def _has_outcome(self, known: ReadTask) -> bool:
        return self._synthesizes and known.task.state.terminal

    async def _record(self, request: Request, known: ReadTask) -> bytes | None:
        """Return what the upstream last told of a task, once there is room for that where it is large."""
        record = known.record
        if record is None:
            await large.hold(request, _COST * known.record_bytes)
            async with share(request, READ):
                record = await self._registry.record(known.task.seq)
        return None if record is None else record_of(record)  # it may have ended meanwhile

    async def _asked(self, request: Request, task_id: str, known: ReadTask | None) -> tuple[str, Response, bool]:
        """Forward a read, or share one that is under way; return whether the store has a newer answer by now, too."""
        client = scope_of(request) or OPERATOR
        outcome = "shared"
        if task_id not in self._reads:
            outcome = "forwarded"
            asked = Waiter(client)
            work = self._forwarding.spawn(self._forward(task_id, asked, known), f"proxy-read-{task_id}")
            self._reads[task_id] = work, asked
            self._reads[task_id][0].add_done_callback(lambda done: self._forget(task_id, done))
        work, waiter = self._reads[task_id]
        self._key.queries.join(waiter, client)
        self._readers[task_id] += 1
        try:
            answer, newer = await result_of(asyncio.shield(work))  # others may share it, and get the same error
            return outcome, passed_on(answer), newer
        finally:
            self._readers[task_id] -= 1
            if not self._readers[task_id]:
                del self._readers[task_id]
                self._forget(task_id, work)
                work.cancel()  # all have gone, where it has not ended

    def _task_id(self, request: Request) -> str:
        """Return which task a read is about. Raises InvalidRequest."""
        name = self._call.param
        # A path has one part alone that is not fixed, whatever another upstream at the same mount calls it.
        given = request.path_params.values() if name is None else [request.query_params.get(name, "")]
        (task_id,) = given
        if not TASK_ID.fullmatch(task_id):
            of = "The task's id" if name is None else name
            raise InvalidRequest(f"{of}: must be 1 to 255 printable ASCII characters without spaces.")
        return str(task_id)

    def _forget(self, task_id: str, work: "asyncio.Task[_Told]") -> None:
        if task_id in self._reads and self._reads[task_id][0] is work:
            del self._reads[task_id]

    async def _forward(self, task_id: str, waiter: Waiter, known: ReadTask | None) -> _Told:
        target = self._upstream.target(self._call.target, task_id)
        if target is None:
            return NotFound("No task has an id with . or .. as a part of its path.")
        if (refused := await self._forwarding.turn(self._key.queries, waiter)) is not None:
            return refused
        asked = Moment.of(self._clock)
        # The poller's next place may have its time once this one is free.
        with self._key.queries.sending(waiter, self._poller_wake.set) as answered:
            answer = await self._upstream.forward("GET", target, whose=waiter.client, answered=answered)
        result = await self._upstream.read(task_id, answer)
        self._key.judge(task_id, asked.steady, result)
        newer = await self._watching.told(task_id, waiter.client, result, known, asked)
        if isinstance(answer, NoAnswer):
            return no_answer(answer)
        if newer.record is not None:
            headers = httpx.Headers({"content-type": "application/json"})
            return Answer(200, headers, told_envelope(self._upstream.profile, newer.record)), False
        return self._upstream.without_key(answer), newer.stored
