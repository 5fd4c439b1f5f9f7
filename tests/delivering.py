"""A receiver that answers attempts as it is told, and webhooks that are owed to it, for the tests of the deliverer."""

import asyncio
from itertools import count
from pathlib import Path

import httpx

from gateway.core.model import (
    Callback,
    Format,
    Outcome,
    Settlement,
    TaskState,
)
from gateway.loops.supervisor import Supervisor
from gateway.upstream.answer import PollResult
from gateway.webhook.limits import ReceiverLimits
from gateway.webhook.sender import Sender
from tests.attemptlog import is_whole
from tests.life import SCHEDULE_S, Life, ScriptedSender, ScriptedUpstream, Transport
from tests.virtualtime import VirtualClock

__all__ = ["Receiver", "new_life", "owed", "results", "unused"]


_tasks = count()


async def unused(task_id: str) -> PollResult:
    raise AssertionError(task_id)


class Receiver:
    """Answers from a script, its last word for ever; notes when each attempt came, and with which id and body."""

    def __init__(self, *script: httpx.Response | Exception, takes_s: float = 0.0) -> None:
        self.script = list(script)
        self.takes_s = takes_s
        self.times: list[float] = []
        self.ids: list[str] = []
        self.bodies: list[bytes] = []
        self.running = 0
        self.most = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.times.append(VirtualClock().monotonic())
        self.ids.append(request.headers["webhook-id"])
        self.bodies.append(request.content)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.running -= 1
        word = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(word, httpx.Response):
            return httpx.Response(word.status_code, headers=word.headers, content=word.content)
        raise word

    def sender(self) -> Sender:
        return Sender(Transport(self.answer), VirtualClock(), timeout_s=15)


def new_life(
    path: Path,
    receiver: Receiver | ScriptedSender,
    schedule_s: tuple[float, ...] = SCHEDULE_S,
    seed: int = 0,
    limits: ReceiverLimits | None = None,
) -> Life:
    sender = receiver.sender() if isinstance(receiver, Receiver) else receiver
    upstream = ScriptedUpstream(unused, "other")
    clock = VirtualClock()
    life = Life(path, clock, upstream=upstream, sender=sender, schedule_s=schedule_s, seed=seed, limits=limits)
    life.supervisor = Supervisor([life.deliverer], life.clock, life.metrics)
    return life


async def owed(
    life: Life,
    count: int = 1,
    url: str = "https://app.example/hook",
    client: str = "",
    data: bytes = b'{"taskId":"t","state":"success"}',
    record: tuple[bytes, bytes, bytes] | None = None,
) -> list[Callback]:
    """Register callbacks and settle their tasks, so that their webhooks are due; ``record``: in that format."""
    ids = [f"{url}-{next(_tasks)}" for _ in range(count)]
    shape = Format.STANDARD if record is None else Format.RECORD
    callbacks = await asyncio.gather(*(life.register(task_id, url=url, client=client, shape=shape) for task_id in ids))
    outcome = Outcome(state=TaskState.SUCCESS, data=data)
    now = life.clock.now()
    await asyncio.gather(
        *(
            life.store.tasks.settle(
                Settlement(
                    seq=callback.task.seq, upstream="up", outcome=outcome, record=record, settled_at=now, polls=1
                )
            )
            for callback in callbacks
        )
    )
    return list(callbacks)


async def results(life: Life, callback: Callback) -> list[str]:
    attempts = await life.store.registry.list_attempts("", callback.id)
    assert attempts is not None
    assert is_whole([(one.number, one.result.value) for one in attempts], (await life.look(callback)).attempts)
    return [attempt.result.value for attempt in attempts]
