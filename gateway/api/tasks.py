"""``/v1/tasks``: what the gateway knows of a task, without asking the upstream."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.auth import scope_of
from gateway.api.large import hold
from gateway.api.schema import invalid
from gateway.api.shares import share
from gateway.api.views import json_response, task_view
from gateway.core.clock import Clock
from gateway.core.errors import NotFound
from gateway.core.model import Task, TaskState
from gateway.core.shares import READ
from gateway.core.telling import told
from gateway.store import Registry

T = TypeVar("T")

MAX_WAIT_S = 60.0
_LEAST_S = 0.001
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
"""As JSON has one; Python's own take digits of other scripts, too."""
_COST = 4  # a task that is read takes so many times its outcome's size: in two spellings, and on its way


async def whole(registry: Registry, request: Request, task: Task) -> Task:
    """Return a task with its outcome, once there is room for that where it is large."""
    if not task.outcome_bytes or task.outcome is not None:
        return task
    await hold(request, _COST * task.outcome_bytes)
    async with share(request, READ):
        return msgspec.structs.replace(task, outcome=await registry.outcome(task.seq))


class Ends:
    """Waits for tasks' ends, for requests that are held meanwhile; once ``draining`` is set none may be any longer."""

    def __init__(self, registry: Registry, clock: Clock, draining: asyncio.Event, recheck_s: float) -> None:
        """``recheck_s``: look again after so long, as another process may have settled the task."""
        self._registry = registry
        self._clock = clock
        self._draining = draining
        self._recheck_s = recheck_s

    async def wait(self, look: Callable[[], Awaitable[T]], runs: Callable[[T], int | None], until: float) -> T:
        """Return what a look finds once nothing runs, or at ``until``, by the steady clock.

        ``runs``: the seq of the task that runs, of what was found; None where nothing is to be waited for.
        """
        found = await look()
        if (seq := runs(found)) is None or until - self._clock.monotonic() < _LEAST_S:
            return found  # nearly always, and with no task of asyncio's
        drained = asyncio.create_task(self._draining.wait(), name="task-wait-drain")
        settled: asyncio.Task[None] | None = None
        try:
            while seq is not None and not self._draining.is_set():
                left_s = until - self._clock.monotonic()
                if left_s < _LEAST_S:
                    break
                settled = asyncio.create_task(
                    self._registry.wait_settled(seq, min(left_s, self._recheck_s)), name="task-wait-settled"
                )
                # It listens from here on; a task that settled just before shows when looked at once more.
                await asyncio.sleep(0)
                found = await look()
                if runs(found) is not None:
                    del found  # it has up to 64 KiB, which nobody counts
                    await asyncio.wait((settled, drained), return_when=asyncio.FIRST_COMPLETED)
                    found = await look()
                seq = runs(found)
                settled.cancel()
        finally:  # its client may have gone
            drained.cancel()
            if settled is not None:
                settled.cancel()
        return found


class Tasks:
    """The call, over a store; ``upstreams`` are polled."""

    def __init__(self, registry: Registry, clock: Clock, ends: Ends, upstreams: Collection[str]) -> None:
        self._upstreams = upstreams
        self._registry = registry
        self._clock = clock
        self._ends = ends

    async def get(self, request: Request) -> Response:
        until = self._clock.monotonic() + wait_of(request)
        task = await self._ends.wait(lambda: self._task(request), _runs, until)
        return json_response(task_view(told(await whole(self._registry, request, task), self._upstreams)))

    async def _task(self, request: Request) -> Task:
        task_id = request.path_params["taskId"]
        async with share(request, READ):
            task = await self._registry.get_task(scope_of(request), task_id)
        if task is None:
            raise NotFound(f"No callback was registered for the task {task_id}.")
        return task


def _runs(task: Task) -> int | None:
    return task.seq if task.state is TaskState.WAITING else None


def wait_of(request: Request) -> float:
    """Return for how many seconds a request may be held. Raises InvalidRequest."""
    text = request.query_params.get("wait")
    if text is None:
        return 0.0
    wait_s = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise invalid("wait", f"must be a number of seconds from 0 to {MAX_WAIT_S:g}")
    return wait_s
