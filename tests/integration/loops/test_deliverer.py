"""Nothing is lost and nothing is sent twice without need, whatever happens to the deliverer. In virtual time."""

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.claims import AttemptRecord
from gateway.core.errors import OutOfResources, StoreError
from gateway.core.model import CallbackState
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.net.errors import ExchangeFailed
from gateway.store import Claimed
from gateway.store.sqlite import webhookclaims
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.sender import SendResult
from tests.delivering import Receiver, new_life, owed, results
from tests.lanes import claim_webhooks, well
from tests.life import ScriptedSender, until
from tests.virtualtime import EPOCH, VirtualClock, run_virtual


@pytest.mark.parametrize(("takes_s", "results_then"), [(5.0, ["delivered"]), (14.0, ["interrupted"])])
def test_draining(takes_s: float, results_then: list[str], tmp_path: Path) -> None:
    """At the end an attempt is finished in time, or recorded as interrupted, which costs no retry; then made again."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=takes_s)
        life = await new_life(tmp_path / "db", receiver, (0.0,)).start()
        (callback,) = await owed(life)
        await until(lambda: len(receiver.times) == 1)
        (task,) = life.deliverer._in_flight._tasks
        ((lane, its, _),) = life.deliverer.lanes()
        assert (life.deliverer.in_flight, its) == (1, 1)
        assert callback.url.startswith(lane.receiver)
        await life.supervisor.drain(10)
        assert task.cancelled() == (results_then == ["interrupted"])
        assert await results(life, callback) == results_then
        (attempt,) = await life.store.registry.list_attempts("", callback.id) or []
        assert attempt.duration_ms == pytest.approx(min(takes_s, 10.0) * 1000, abs=200)
        assert life.claims == 0
        await life.store.close()
        receiver.takes_s = 0.0
        life = await new_life(tmp_path / "db", receiver, (0.0,)).start()
        await asyncio.sleep(1)
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        assert len(receiver.times) == (1 if results_then == ["delivered"] else 2)
        await life.stop()

    run_virtual(main())


def test_a_shutdown_that_cannot_be_recorded(tmp_path: Path) -> None:
    """The attempt that it cuts short is missing in the log, and nothing else: the webhook is sent after the start."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=14.0)
        life = await new_life(tmp_path / "db", receiver, (0.0,)).start()
        (callback,) = await owed(life)
        await until(lambda: len(receiver.times) == 1)
        life.connection.broken = "disk full"
        await life.stop(1)
        life = await new_life(tmp_path / "db", receiver, (0.0,)).start()
        await asyncio.sleep(15)
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        assert await results(life, callback) == ["delivered"]
        await life.stop()

    run_virtual(main())


def test_a_kill_during_an_attempt(tmp_path: Path) -> None:
    """What a killed gateway was sending is sent after the next start, with the same id and bytes."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=5.0)
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await until(lambda: len(receiver.times) == 1)
        await life.kill()
        life = await new_life(tmp_path / "db", receiver).start()
        await asyncio.sleep(6)
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        assert len(set(receiver.bodies)) == 1
        assert len(receiver.ids) == 2
        await life.stop()

    run_virtual(main())


def test_a_store_that_fails_after_an_attempt(tmp_path: Path) -> None:
    """What was sent is recorded as soon as the store works again, and is not sent a second time."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=1.0)
        life = await new_life(tmp_path / "db", receiver).start()
        callbacks = await owed(life, 3)
        await until(lambda: len(receiver.times) == 3)
        life.connection.broken = "disk full"
        await asyncio.sleep(300)
        assert (await life.look(callbacks[0])).state is CallbackState.PENDING
        life.connection.broken = None
        await asyncio.sleep(6)
        for callback in callbacks:
            assert (await life.look(callback)).state is CallbackState.DELIVERED
        assert (len(receiver.times), life.claims) == (3, 0)
        await life.stop()

    run_virtual(main())


def test_how_often_a_failing_store_is_asked_to_record(tmp_path: Path) -> None:
    """Soon, then more slowly, and every five seconds from then on, until it has."""

    async def main() -> None:
        life = await new_life(tmp_path / "db", Receiver(httpx.Response(200))).start()
        record, tried = life.store.outbox.record, []

        async def failing(attempt: AttemptRecord) -> None:
            tried.append(VirtualClock().monotonic())
            if len(tried) < 7:
                raise StoreError("disk full")
            await record(attempt)

        life.store.outbox.record = failing  # type: ignore[method-assign]
        (callback,) = await owed(life)
        await asyncio.sleep(30)
        assert [at - tried[0] for at in tried] == [pytest.approx(at) for at in (0, 0.1, 0.6, 1.6, 6.6, 11.6, 16.6)]
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


def test_when_the_deliverer_comes_round_again(tmp_path: Path) -> None:
    """When the next webhook is due; at once while more are due than one claim takes; at the latest at a heartbeat."""

    async def main() -> None:
        life = new_life(tmp_path / "db", Receiver(httpx.Response(500), takes_s=1.0), (0.0, 5.0, 5.0))
        await life.store.open()
        assert await life.deliverer.run_once() == HEARTBEAT_S
        (callback,) = await owed(life)
        assert await life.deliverer.run_once() == HEARTBEAT_S
        await until(lambda: life.claims == 0, step_s=0.01)
        next_attempt_at = (await life.look(callback)).next_attempt_at
        assert next_attempt_at is not None
        assert await life.deliverer.run_once() == (next_attempt_at - life.clock.now()) / 1000
        await life.stop()

    run_virtual(main())


def test_how_soon_the_deliverer_looks_for_what_is_left(tmp_path: Path) -> None:
    """At once while there are places; where there are none, the first that becomes free wakes it."""

    async def main() -> None:
        life = new_life(tmp_path / "db", Receiver(httpx.Response(204), takes_s=1.0))
        await life.store.open()
        await owed(life, client="ann")
        await owed(life, client="bob")
        (first, second), _ = await claim_webhooks(life.store, life.clock.now(), 2)
        found = [[], [first], [second]]
        bulkhead = life.deliverer._bulkhead = Bulkhead(2)
        well(bulkhead, first.lane, second.lane)

        async def claim(_: object, now: int) -> Claimed:
            return Claimed(found.pop(0), [], now - 5)

        life.store.outbox.claim = claim  # type: ignore[method-assign]
        assert [await life.deliverer.run_once() for _ in range(3)] == [0.001, 0.001, HEARTBEAT_S]
        await life.stop(0)

    run_virtual(main())


def test_a_turn_that_is_due_by_now_is_looked_for_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that no attempt's end makes does not keep the loop busy until it is there."""

    async def main() -> None:
        life = new_life(tmp_path / "db", Receiver(httpx.Response(204)))
        await life.store.open()
        monkeypatch.setattr(Bulkhead, "next_turn_s", 0.0)
        assert await life.deliverer.run_once() == 0.001
        await life.stop()

    run_virtual(main())


def test_a_defect_in_sending_gives_the_claim_back(tmp_path: Path) -> None:
    """A sender that raises what it should not is tried again after a while, not in a tight circle."""

    async def main() -> None:
        tried: list[float] = []

        async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
            tried.append(VirtualClock().monotonic())
            if len(tried) <= 2:
                raise ZeroDivisionError
            return SendResult(
                started_at=EPOCH,
                duration_ms=1,
                status_code=200,
                reason=None,
                error=None,
                retry_after_s=None,
                excerpt=b"",
            )

        life = await new_life(tmp_path / "db", ScriptedSender(send)).start()
        (callback,) = await owed(life)
        with capture_logs() as log:
            await asyncio.sleep(300)
        defects = [type(line["exc_info"]) for line in log if line["event"] == "inflight.failed"]
        assert defects == [ZeroDivisionError] * 2
        assert tried == [pytest.approx(at, abs=0.1) for at in (0.0, 60.0, 120.0)]
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        assert life.claims == 0
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("lacks", [1, 20])
def test_an_attempt_that_cannot_be_made_is_nobodys_failure(lacks: int, tmp_path: Path) -> None:
    """Out of open files: the only attempt of the schedule is made once there are some, and it is the first."""

    class Lacking(Receiver):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            if len(tried) < lacks:
                tried.append(VirtualClock().monotonic())
                raise ExchangeFailed("hook: Too many open files", "resources", sent=False)
            return await super().answer(request)

    async def main() -> None:
        receiver = Lacking(httpx.Response(204))
        life = await new_life(tmp_path / "db", receiver, (0.0,)).start()
        with capture_logs() as log:
            (callback,) = await owed(life)
            await asyncio.sleep(lacks * 5 + 1)
        assert tried == [pytest.approx(5 * number, abs=0.1) for number in range(lacks)]
        found = await life.look(callback)
        assert (found.state, found.attempts, len(receiver.times)) == (CallbackState.DELIVERED, 1, 1)
        assert await results(life, callback) == ["delivered"]
        assert life.claims == 0
        assert (life.deliverer._bulkhead.free, life.deliverer._bulkhead._failures) == (256, {})
        lines = [line for line in log if line["event"] == "attempt.not_made"]
        assert len(lines) == lacks
        assert lines[0]["error"] == "No attempt could be made: hook: Too many open files"
        assert not any("exc_info" in line for line in log)
        assert f'gateway_attempts_total{{result="not_made"}} {lacks}.0'.encode() in b"".join(life.metrics.render())
        await life.stop()

    tried: list[float] = []
    run_virtual(main())


def test_a_claim_that_is_not_held_any_more_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica may be sending it: it is given back with nothing recorded, and comes when it is claimed again."""
    held = [False, True]

    async def main() -> None:
        receiver = Receiver(httpx.Response(204))
        life = new_life(tmp_path / "db", receiver)
        monkeypatch.setattr(life.store.outbox, "holds", lambda claim: held.pop(0))
        await life.start()
        (callback,) = await owed(life)
        await until(lambda: not held and bool(receiver.times) and life.claims == 0, step_s=0.01)
        assert await results(life, callback) == ["delivered"]
        assert len(receiver.times) == 1
        await life.supervisor.drain(10)
        await life.store.close()

    run_virtual(main())


@pytest.mark.parametrize("error", [OutOfResources("No attempt could be made: Too many open files"), ValueError()])
@pytest.mark.parametrize("drain_s", [0.0, 30.0])
def test_a_shutdown_before_an_attempt_can_be_made(tmp_path: Path, error: Exception, drain_s: float) -> None:
    """Nothing is recorded, nothing is lost, and nothing waits for what only pauses."""

    async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        raise error

    async def main() -> None:
        life = await new_life(tmp_path / "db", ScriptedSender(send)).start()
        (callback,) = await owed(life)
        await asyncio.sleep(1)
        began_s = VirtualClock().monotonic()
        await life.supervisor.drain(drain_s)
        assert VirtualClock().monotonic() - began_s < 0.1
        assert (life.claims, await results(life, callback)) == (0, [])
        await life.store.close()
        receiver = Receiver(httpx.Response(204))
        life = await new_life(tmp_path / "db", receiver).start()
        await asyncio.sleep(1)
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


def test_a_claim_that_fails_half_way_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a later query of one claim fails, what the first ones found is sent after all, and no place is lost."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=1)
        life = await new_life(tmp_path / "gateway.db", receiver).start()
        look, broken = webhookclaims._due_callbacks, 0

        def due_callbacks(*args: Any) -> Any:
            nonlocal broken
            found = look(*args)
            if found[0] and broken < 3:
                broken += 1
                raise sqlite3.OperationalError("disk I/O error")
            return found

        monkeypatch.setattr(webhookclaims, "_due_callbacks", due_callbacks)
        callbacks = await owed(life, 400)
        await until(lambda: len(set(receiver.ids)) == 400, limit_s=60)
        await until(lambda: life.claims == 0, limit_s=60)
        assert broken == 3
        assert life.deliverer._bulkhead.free == 256
        assert {(await life.look(callback)).state for callback in callbacks} == {CallbackState.DELIVERED}
        await life.stop()

    run_virtual(main())
