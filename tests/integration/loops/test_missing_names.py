"""A receiver whose name is not found has had its attempt by then: it needs no place among those that are sent to."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx

from gateway.core.claims import Lane
from gateway.core.model import Callback, Outcome, Settlement, TaskState
from gateway.loops.supervisor import Supervisor
from gateway.net.errors import ExchangeFailed
from gateway.upstream.answer import PollResult
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.sender import Sender
from tests.lanes import well
from tests.life import Life, ScriptedUpstream, Transport, until
from tests.virtualtime import VirtualClock, run_virtual

CROWD = [Lane(f"client-{number}", f"https://app-{number}.example") for number in range(8)]


class MissingName:
    """Tells after two seconds that there is no such host; the others' connections are open."""

    def must_look_up(self, url: httpx.URL) -> bool:
        return url.host == "gone.example"

    async def find(self, url: httpx.URL) -> Sequence[str]:
        await asyncio.sleep(2)
        raise ExchangeFailed("not found", "dns", sent=False)


async def owed(life: Life, task_id: str, lane: Lane) -> Callback:
    callback = await life.register(task_id, url=f"{lane.receiver}/hook", client=lane.client)
    await life.store.tasks.settle(
        Settlement(
            seq=callback.task.seq,
            upstream="up",
            outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}'),
            settled_at=life.clock.now(),
            polls=1,
        )
    )
    return callback


async def unused(task_id: str) -> PollResult:
    raise AssertionError(task_id)


def test_a_name_that_is_not_found_in_a_full_house_fails_at_once(tmp_path: Path) -> None:
    """Its place has gone to another meanwhile, and it waits for none: nothing would be sent in it."""
    sent: list[str] = []

    async def take(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.host)
        await asyncio.sleep(0.5)
        return httpx.Response(204)

    async def main() -> None:
        names = MissingName()
        sender = Sender(Transport(take), VirtualClock(), timeout_s=15, names=names)
        life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(unused), sender=sender)
        life.supervisor = Supervisor([life.deliverer], life.clock, life.metrics)
        gone = Lane("", "https://gone.example")
        life.deliverer._bulkhead = Bulkhead(4, 4)
        well(life.deliverer._bulkhead, gone, *CROWD)
        await life.start()
        callback = await owed(life, "gone", gone)
        for lane in CROWD:
            for number in range(20):
                await owed(life, f"{lane.client}-{number}", lane)
        await until(lambda: life.clock.monotonic() >= 2.1, step_s=0.01)
        assert len(sent) < len(CROWD) * 20, "the house is full still"
        (attempt,) = await life.store.registry.list_attempts("", callback.id) or []
        assert (attempt.duration_ms, attempt.result) == (2000, "retry")
        assert "gone.example" in (attempt.error or "")
        await life.stop(0)

    run_virtual(main())
