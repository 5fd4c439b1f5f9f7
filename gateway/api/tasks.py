"""``/v1/tasks``: what the gateway knows of a task, without asking the upstream."""

import asyncio
from collections.abc import Collection

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.auth import scope_of
from gateway.api.large import hold
from gateway.api.schema import invalid
from gateway.api.shares import READ, share
from gateway.api.views import json_response, task_view, told
from gateway.core.clock import Clock
from gateway.core.errors import NotFound
from gateway.core.model import Task, TaskState
from gateway.store import Registry

__all__ = ["MAX_WAIT_S", "Tasks", "whole"]

MAX_WAIT_S = 60.0
_RECHECK_S = 15.0
"""A task may be settled by another process: look again after this long."""
_COST = 4  # a task that is read takes so many times its outcome's size: in two spellings, and on its way


async def whole(registry: Registry, request: Request, task: Task) -> Task:
    """Return a task with its outcome, once there is room for that where it is large."""
    if not task.outcome_bytes or task.outcome is not None:
        return task
    await hold(request, _COST * task.outcome_bytes)
    async with share(request, READ):
        return msgspec.structs.replace(task, outcome=await registry.outcome(task.seq))


class Tasks:
    """The call, over a store; ``draining`` is set when requests may no longer be held. ``upstreams`` are polled."""

    def __init__(self, registry: Registry, clock: Clock, draining: asyncio.Event, upstreams: Collection[str]) -> None:
        self._upstreams = upstreams
        self._registry = registry
        self._clock = clock
        self._draining = draining

    async def get(self, request: Request) -> Response:
        deadline = self._clock.monotonic() + _wait(request.query_params.get("wait"))
        task = await self._task(request)
        drained = asyncio.create_task(self._draining.wait(), name="task-wait-drain")
        settled: asyncio.Task[None] | None = None
        try:
            while task.state is TaskState.WAITING and not self._draining.is_set():
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0:
                    break
                settled = asyncio.create_task(
                    self._registry.wait_settled(task.seq, min(left_s, _RECHECK_S)), name="task-wait-settled"
                )
                # It listens from here on; a task that settled just before shows when looked at once more.
                await asyncio.sleep(0)
                task = await self._task(request)
                if task.state is TaskState.WAITING:
                    await asyncio.wait((settled, drained), return_when=asyncio.FIRST_COMPLETED)
                    task = await self._task(request)
                settled.cancel()
        finally:  # its client may have gone
            drained.cancel()
            if settled is not None:
                settled.cancel()
        return json_response(task_view(told(await whole(self._registry, request, task), self._upstreams)))

    async def _task(self, request: Request) -> Task:
        task_id = request.path_params["taskId"]
        async with share(request, READ):
            task = await self._registry.get_task(scope_of(request), task_id)
        if task is None:
            raise NotFound(f"No callback was registered for the task {task_id}.")
        return task


def _wait(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise invalid("wait", f"must be a number of seconds from 0 to {MAX_WAIT_S:g}")
    return wait_s
