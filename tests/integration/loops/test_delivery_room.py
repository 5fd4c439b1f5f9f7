"""Webhooks that are large: they begin once there is room for them. In virtual time."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.claims import DueCallback
from gateway.webhook.body import callback_parts, webhook_body
from gateway.webhook.sender import Found, SendResult
from tests.delivering import Receiver, new_life, owed, results
from tests.life import Life, ScriptedSender, until
from tests.virtualtime import EPOCH, run_virtual


@pytest.mark.parametrize("waits", [False, True], ids=["looks its name up", "waits for room"])
def test_a_large_webhook_that_has_not_begun_does_not_hold_up_the_stop(tmp_path: Path, waits: bool) -> None:
    """It goes back at once where there is no room for it, and nothing is recorded: nothing of it was sent."""
    looked_up = asyncio.Event()

    class LooksUp(ScriptedSender):
        def must_look_up(self, url: str) -> bool:
            return True

        async def find(self, url: str) -> Found:
            await looked_up.wait()
            return Found(addresses=[], failure=None, took_s=0.0)

    async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        raise AssertionError(url)

    async def main() -> None:
        life = await new_life(tmp_path / "db", LooksUp(send)).start()
        holds = asyncio.create_task(hold_all(life))
        (callback,) = await owed(life, data=b"x" * 100_000)
        await until(lambda: bool(life.deliverer._in_flight.count), step_s=0.01)
        if waits:
            looked_up.set()
            await until(lambda: bool(life.memory._waiting), step_s=0.01)
        began_s = life.clock.monotonic()
        drain = asyncio.create_task(life.supervisor.drain(10))
        await asyncio.sleep(0.5)
        looked_up.set()
        await drain
        assert life.clock.monotonic() - began_s < 1
        assert (life.claims, await results(life, callback)) == (0, [])
        holds.cancel()
        await life.store.close()

    async def hold_all(life: Life) -> None:
        await life.memory.hold(life.memory.limit, "another")
        await asyncio.Event().wait()

    run_virtual(main())


def test_a_large_webhook_that_is_anothers_once_there_is_room_is_let_go(tmp_path: Path) -> None:
    """It may have waited for longer than its claim lasts: nothing is sent or recorded until it is claimed again."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204))
        life = new_life(tmp_path / "db", receiver)
        body, asked = life.store.outbox.body, 0

        async def lapsed_once(claim: DueCallback) -> Any:
            nonlocal asked
            asked += 1
            return None if asked == 1 else await body(claim)

        life.store.outbox.body = lapsed_once  # type: ignore[method-assign]
        await life.start()
        (callback,) = await owed(life, data=b"x" * 100_000)
        await until(lambda: len(receiver.times) == 1 and life.claims == 0)
        assert (asked, await results(life, callback)) == (2, ["delivered"])
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("items", [5_000, 100_000], ids=["came with its claim", "is read"])
def test_making_a_callback_of_the_apis_own_has_room(tmp_path: Path, items: int) -> None:
    """Its record is decoded, for many times its bytes: they are held until then, and the event loop goes on."""
    record = b'{"urls":[%b]}' % b",".join([b"{}"] * items)
    held: list[int] = []

    async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        sent.append(body)
        held.append(sum(holder.held for holder in life.memory._holders.values()))
        return SendResult(
            started_at=EPOCH, duration_ms=0, status_code=204, reason=None, error=None, retry_after_s=None, excerpt=b""
        )

    async def main() -> None:
        nonlocal life
        life = new_life(tmp_path / "db", ScriptedSender(send))
        hold, work = life.memory.hold, life.memory.work

        async def holding(size: int, *owner: str) -> None:
            await hold(size, *owner)
            held.append(size)

        async def working(function: Callable[..., Any], *args: Any) -> Any:
            apart.append(function)
            return await work(function, *args)

        life.memory.hold, life.memory.work = holding, working  # type: ignore[method-assign]
        await life.start()
        await owed(life, record=callback_parts({"count": "{urls.0}", "id": "{absent}"}, record))
        await until(lambda: bool(sent), step_s=0.01)
        assert sent == [b'{"count":{}}']
        assert webhook_body in apart
        assert max(held) > 72 * items
        assert held[-1] < 3 * len(record)
        await life.stop()

    life: Life
    sent: list[bytes] = []
    apart: list[Callable[..., Any]] = []
    run_virtual(main())


@pytest.mark.parametrize("items", [5_000, 100_000], ids=["came with its claim", "is read"])
def test_a_callback_that_is_weighed_at_the_stop_does_not_begin(tmp_path: Path, items: int) -> None:
    """It goes back at once, though there is room for it: what begins at the stop may be cut short."""
    weighing = asyncio.Event()

    async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        raise AssertionError(url)

    async def main() -> None:
        life = new_life(tmp_path / "db", ScriptedSender(send))
        work = life.memory.work

        async def working(function: Callable[..., Any], *args: Any) -> Any:
            weighing.set()
            await asyncio.sleep(1)  # it is a large one
            return await work(function, *args)

        life.memory.work = working  # type: ignore[method-assign]
        await life.start()
        record = b'{"urls":[%b]}' % b",".join([b"{}"] * items)
        (callback,) = await owed(life, record=callback_parts({"count": "{urls.0}", "id": "{absent}"}, record))
        await weighing.wait()
        began_s = life.clock.monotonic()
        await life.supervisor.drain(10)
        assert life.clock.monotonic() - began_s < 2, "it was not made, which takes as long once more"
        assert (life.claims, await results(life, callback)) == (0, [])
        await life.store.close()

    run_virtual(main())
