"""Reads of a task by the upstream's own call.

Owns which of them are answered from the gateway's state, and that those which ask the same at once are one request.
Called by the proxy. A read costs a place in the rate limit, and ends with the last client that waits for it.
"""

import asyncio
from collections import Counter
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import large
from gateway.api.auth import scope_of
from gateway.api.forwarding import OPERATOR, Forwarding, no_answer, passed_on, result_of
from gateway.api.schema import TASK_ID
from gateway.api.shares import READ, share
from gateway.api.tasks import whole
from gateway.config.profile import Proxy, RecordCall
from gateway.core.clock import Clock
from gateway.core.errors import InvalidRequest, NotFound, RequestError
from gateway.core.memory import SMALL
from gateway.core.model import Task
from gateway.store import Registry
from gateway.upstream.api import Answer, NoAnswer, Upstream
from gateway.upstream.envelope import record_envelope
from gateway.upstream.key import UpstreamKey
from gateway.upstream.turns import Waiter

__all__ = ["Reading"]


class Reading:
    """Reads of one upstream's tasks; ``poller_wake`` is set when a place in the rate limit may have its time."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        upstream: Upstream,
        calls: Proxy,
        call: RecordCall,
        key: UpstreamKey,
        forwarding: Forwarding,
        *,
        poller_wake: asyncio.Event,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._upstream = upstream
        self._call = call
        self._key = key
        self._forwarding = forwarding
        self._poller_wake = poller_wake
        self._synthesizes = calls.synthesize
        self._reads: dict[str, tuple[asyncio.Task[Answer | RequestError], Waiter]] = {}
        self._readers: Counter[str] = Counter()

    async def read(self, request: Request) -> tuple[str, Response]:
        """Return how a read was answered, and the answer."""
        task_id = self._task_id(request)
        client = scope_of(request)
        async with share(request, READ):
            task = await self._registry.get_task(client, task_id)
        if task is not None and self._knows(task):
            return "answered", await self._answered(request, await whole(self._registry, request, task))
        outcome = "shared"
        if task_id not in self._reads:
            outcome = "forwarded"
            asked = Waiter(client or OPERATOR)
            work = self._forwarding.spawn(self._forward(task_id, asked), f"proxy-read-{task_id}")
            self._reads[task_id] = work, asked
            self._reads[task_id][0].add_done_callback(lambda done: self._forget(task_id, done))
        work, waiter = self._reads[task_id]
        self._key.queries.join(waiter, client or OPERATOR)
        self._readers[task_id] += 1
        try:
            return outcome, passed_on(await result_of(work))
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

    def _forget(self, task_id: str, work: "asyncio.Task[Answer | RequestError]") -> None:
        if task_id in self._reads and self._reads[task_id][0] is work:
            del self._reads[task_id]

    async def _answered(self, request: Request, task: Task) -> Response:
        made = partial(record_envelope, self._upstream.profile, task)
        body = made() if task.outcome_bytes <= SMALL else await large.work(request, made)
        return Response(body, media_type="application/json")

    def _knows(self, task: Task) -> bool:
        """Whether the gateway's state is as good as the upstream's: the task has ended, or is being polled."""
        ours = self._synthesizes and task.upstream == self._upstream.name
        return ours and (task.state.terminal or task.next_poll_at is not None)

    async def _forward(self, task_id: str, waiter: Waiter) -> Answer | RequestError:
        target = self._upstream.target(self._call.target, task_id)
        if target is None:
            return NotFound("No task has an id with . or .. as a part of its path.")
        if (refused := await self._forwarding.turn(self._key.queries, waiter)) is not None:
            return refused
        asked_at = self._clock.monotonic()
        try:
            answer = await self._upstream.forward("GET", target, whose=waiter.client)
        finally:
            self._key.queries.end(waiter)
            self._poller_wake.set()  # a place in the rate limit may have its time now
        self._key.judge(task_id, asked_at, await self._upstream.read(task_id, answer))
        return no_answer(answer) if isinstance(answer, NoAnswer) else self._upstream.without_key(answer)
