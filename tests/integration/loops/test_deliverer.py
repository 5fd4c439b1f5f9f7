"""The life of one attempt: when it is made, what its answer leads to, and that it is never lost. In virtual time."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.errors import OutOfResources, StoreError
from gateway.core.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Callback,
    CallbackState,
    DueCallback,
    Format,
    Lane,
    Outcome,
    Settlement,
    TaskState,
)
from gateway.loops.deliverer import _speaks_for_its_receiver
from gateway.loops.pauses import Pauses
from gateway.loops.supervisor import HEARTBEAT_S, Supervisor
from gateway.net.errors import ExchangeFailed
from gateway.signature import Signer, parse_secrets
from gateway.store import Claimed
from gateway.store.sqlite import webhookclaims
from gateway.upstream.answer import PollResult
from gateway.webhook.body import callback_parts, webhook_body
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.headers import ClientWebhooks
from gateway.webhook.sender import Found, Sender, SendResult
from tests.lanes import claim_webhooks, lane, webhook, well
from tests.life import SCHEDULE_S, SECRET, Life, ScriptedSender, ScriptedUpstream, Transport, until
from tests.virtualtime import EPOCH, VirtualClock, run_virtual

REFUSED = ExchangeFailed("no", "refused", sent=False)
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
        return Sender(Transport(self.answer), VirtualClock(), timeout_s=15, user_agent="test")


def new_life(
    path: Path, receiver: Receiver | ScriptedSender, schedule_s: tuple[float, ...] = SCHEDULE_S, seed: int = 0
) -> Life:
    sender = receiver.sender() if isinstance(receiver, Receiver) else receiver
    upstream = ScriptedUpstream(unused, "other")
    life = Life(path, VirtualClock(), upstream=upstream, sender=sender, schedule_s=schedule_s, seed=seed)
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


async def known(life: Life, receiver: Receiver, *lanes: Lane) -> None:
    """Let each receiver take a webhook, so that it is known to be well."""
    takes_s, receiver.takes_s = receiver.takes_s, 0.0
    for client, url in lanes:
        await owed(life, url=url, client=client)
    await until(lambda: len(receiver.times) == len(lanes) and life.claims == 0, step_s=0.001)
    receiver.takes_s = takes_s
    receiver.times.clear()
    receiver.ids.clear()
    receiver.most = 0


async def results(life: Life, callback: Callback) -> list[str]:
    attempts = await life.store.registry.list_attempts("", callback.id)
    assert attempts is not None
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    return [attempt.result.value for attempt in attempts]


# The schedule.


@pytest.mark.parametrize(
    ("seed", "word"),
    list(enumerate([httpx.Response(500), httpx.Response(302, headers={"location": "/"}), REFUSED])),
)
def test_the_schedule_is_kept_to_the_end(word: httpx.Response | Exception, seed: int, tmp_path: Path) -> None:
    """Every wait is the schedule's and up to a tenth more; then the callback is dead. Its bytes stay the same."""

    async def main() -> None:
        receiver = Receiver(word, takes_s=2.0)
        life = await new_life(tmp_path / "db", receiver, seed=seed).start()
        (callback,) = await owed(life)
        await asyncio.sleep(sum(SCHEDULE_S) * 1.2)
        gaps = [b - a - 2.0 for a, b in zip(receiver.times, receiver.times[1:], strict=False)]
        assert receiver.times[0] < 0.01
        assert len(gaps) == len(SCHEDULE_S) - 1
        for gap, wait_s in zip(gaps, SCHEDULE_S[1:], strict=True):
            assert wait_s - 0.002 <= gap <= wait_s * 1.1 + 0.002
        assert any(gap > wait_s * 1.01 for gap, wait_s in zip(gaps, SCHEDULE_S[1:], strict=True))
        assert (await life.look(callback)).state is CallbackState.DEAD
        assert await results(life, callback) == ["retry"] * 9 + ["dead"]
        assert set(receiver.ids) == {callback.id}
        assert len(set(receiver.bodies)) == 1
        assert json.loads(receiver.bodies[0])["data"]["callbackId"] == callback.id
        await life.stop()

    run_virtual(main())


def test_the_first_wait_counts_too(tmp_path: Path) -> None:
    """A schedule that begins with a wait makes the first attempt wait."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204))
        life = await new_life(tmp_path / "db", receiver, (60.0, 5.0)).start()
        (callback,) = await owed(life)
        await asyncio.sleep(70)
        assert receiver.times == [pytest.approx(60.0, abs=0.01)]
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_delivers(status: int, tmp_path: Path) -> None:
    """One attempt, delivered, and nothing after it."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(status))
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await asyncio.sleep(86_400)
        found = await life.look(callback)
        assert (found.state, found.attempts, len(receiver.times)) == (CallbackState.DELIVERED, 1, 1)
        assert await results(life, callback) == ["delivered"]
        await life.stop()

    run_virtual(main())


def test_410_is_final(tmp_path: Path) -> None:
    """The receiver wants no more: dead at once."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(410))
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await asyncio.sleep(86_400)
        assert (await life.look(callback)).state is CallbackState.DEAD
        assert len(receiver.times) == 1
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    ("status", "retry_after", "least_s", "most_s"),
    [
        (429, "120", 120.0, 120.1),
        (503, "120", 120.0, 120.1),
        (503, "1", 5.0, 5.6),  # never earlier than the schedule
        (500, "120", 5.0, 5.6),  # means nothing elsewhere
        (429, "999999999", 86_400.0, 86_400.1),
        (429, "99999999999", 86_400.0, 86_400.1),
        (503, "9" * 400, 86_400.0, 86_400.1),
        (503, "7.5", 7.5, 7.6),
        (429, "6, 120", 120.0, 120.1),
        (429, "soon", 5.0, 5.6),
    ],
)
def test_retry_after(status: int, retry_after: str, least_s: float, most_s: float, tmp_path: Path) -> None:
    """A receiver puts the next attempt off, by a day at most, and never brings it forward."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(status, headers={"retry-after": retry_after}), httpx.Response(200))
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await until(lambda: len(receiver.times) == 2, limit_s=100_000, step_s=1)
        assert least_s - 0.002 <= receiver.times[1] - receiver.times[0] <= most_s
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


def test_an_attempt_has_one_time_limit(tmp_path: Path) -> None:
    """A receiver that does not answer in time has failed the attempt."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=3600)
        life = await new_life(tmp_path / "db", receiver, (0.0, 5.0)).start()
        (callback,) = await owed(life)
        await asyncio.sleep(60)
        assert 20.0 - 0.002 <= receiver.times[1] - receiver.times[0] <= 20.502
        assert (await life.look(callback)).state is CallbackState.DEAD
        await life.stop()

    run_virtual(main())


# Many at once.


def test_at_most_so_many_at_a_time(tmp_path: Path) -> None:
    """A crowd is sent 128 at a time, each once, as fast as places come free."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=1.0)
        life = await new_life(tmp_path / "db", receiver).start()
        await known(life, receiver, Lane("", "https://app.example/hook"))
        await owed(life, 1000)
        await until(lambda: len(receiver.times) == 1000 and life.claims == 0, limit_s=60)
        assert receiver.most == 128
        assert len(set(receiver.ids)) == 1000
        assert VirtualClock().monotonic() < 8.5
        await life.stop()

    run_virtual(main())


def test_a_full_house_waits_for_a_place(tmp_path: Path) -> None:
    """While there is no room the loop sleeps."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=14.0)
        life = new_life(tmp_path / "db", receiver)
        rounds = 0
        once = life.deliverer.run_once

        async def counted() -> float:
            nonlocal rounds
            rounds += 1
            return await once()

        life.deliverer.run_once = counted  # type: ignore[method-assign]
        await life.start()
        await known(life, receiver, Lane("", "https://app.example/hook"))
        await owed(life, 300)
        await asyncio.sleep(1)
        assert receiver.running == 128
        rounds = 0
        await asyncio.sleep(12)
        assert rounds <= 3
        await life.stop()

    run_virtual(main())


def test_a_house_full_of_hanging_receivers_waits_for_a_place(tmp_path: Path) -> None:
    """With not one place left the loop asks for nothing; what ends makes room for what waits."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=14.0)
        life = await new_life(tmp_path / "db", receiver).start()
        # Each finds half of what the ones before have left.
        lanes = [Lane(f"client-{number}", f"https://slow-{number}.example/hook") for number in range(16)]
        await known(life, receiver, *lanes)
        for client, url in lanes:
            await owed(life, 256, url=url, client=client)
        await asyncio.sleep(1)
        assert receiver.running == 256
        claim, asked = life.store.outbox.claim, 0

        async def counted(*args: Any) -> Any:
            nonlocal asked
            asked += 1
            return await claim(*args)

        life.store.outbox.claim = counted  # type: ignore[method-assign]
        await life.register("t", url="https://other.example/hook")
        life.store.outbox.due.set()
        await asyncio.sleep(12)
        assert asked == 0
        await asyncio.sleep(2)
        assert len(receiver.times) > 256
        await life.stop(0)

    run_virtual(main())


def test_what_comes_to_a_full_house_that_nobody_waits_for_has_the_first_place(tmp_path: Path) -> None:
    """The last claim has left nobody waiting; a webhook that falls due afterwards does not wait for a heartbeat."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=3.0)
        life = await new_life(tmp_path / "db", receiver).start()
        *lanes, last = [Lane(f"client-{number}", f"https://app-{number}.example/hook") for number in range(257)]
        await known(life, receiver, *lanes, last)
        for client, url in lanes:
            await owed(life, url=url, client=client)
        await until(lambda: receiver.running == 256, step_s=0.01)
        await owed(life, url=last.receiver, client=last.client)
        await until(lambda: len(receiver.times) == 257, step_s=0.01)
        assert receiver.times[-1] - receiver.times[0] < 3.1
        await life.stop(0)

    run_virtual(main())


# Nothing is lost, nothing is sent twice without need.


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


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"x" * 5000, "x" * 1024),
        ("café".encode() + b"\xff\xfe\x00\r\n\x1b[2J", "café\ufffd\ufffd\ufffd\r\n\x1b[2J"),
        (b"", None),
    ],
    ids=["long", "not text", "empty"],
)
def test_what_a_refusing_receiver_said_is_kept(tmp_path: Path, content: bytes, kept: str | None) -> None:
    """The answer's first 1 KiB stands with each attempt that failed, read as UTF-8, and with none that delivered."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(500, content=content), REFUSED, httpx.Response(410, content=content))
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await until(lambda: len(receiver.times) == 3, limit_s=1000)
        await asyncio.sleep(1)
        await life.store.registry.redeliver("", callback.id, life.clock.now())
        receiver.script = [httpx.Response(200, content=content)]
        await asyncio.sleep(1)
        attempts = await life.store.registry.list_attempts("", callback.id) or []
        assert [(attempt.result.value, attempt.excerpt) for attempt in attempts] == [
            ("retry", kept),
            ("retry", None),
            ("dead", kept),
            ("delivered", None),
        ]
        await life.stop()

    run_virtual(main())


def test_what_a_receiver_said_is_not_kept_where_it_was_told_a_clients_headers(tmp_path: Path) -> None:
    """Its answer may repeat them, and they may be secret."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(500, content=b"Bearer s3cret is not welcome"))
        life = new_life(tmp_path / "db", receiver)
        signer = Signer(parse_secrets(SECRET))
        webhooks = ClientWebhooks(signer, {"authorization": "Bearer s3cret"})
        life.deliverer._client_headers.use(signer, {"": webhooks})
        await life.start()
        (callback,) = await owed(life)
        await asyncio.sleep(1)
        (attempt,) = await life.store.registry.list_attempts("", callback.id) or []
        assert (attempt.status_code, attempt.excerpt) == (500, None)
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


def test_nobody_is_woken_for_a_place_that_nobody_waits_for(tmp_path: Path) -> None:
    """A delivery that ends with places enough is the end of it."""

    async def main() -> None:
        life = new_life(tmp_path / "db", Receiver(httpx.Response(204), takes_s=1.0))
        await life.store.open()
        await owed(life)
        life.store.outbox.due.clear()
        await life.deliverer.run_once()
        await asyncio.sleep(2)
        assert life.claims == 0
        assert not life.store.outbox.due.is_set()
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    ("status_code", "says"),
    [
        (None, False),
        (299, False),
        (300, None),
        (302, None),
        (404, None),
        (408, False),
        (410, None),
        (429, False),
        (499, None),
        (500, False),
        (503, False),
    ],
)
def test_what_an_attempt_says_about_its_receiver(status_code: int | None, says: bool | None) -> None:
    """Nothing, where it answered that only this webhook is wrong for it; that it is not well, where it could not."""

    def attempt(result: AttemptResult) -> Attempt:
        return Attempt(number=1, started_at=EPOCH, duration_ms=1, status_code=status_code, error="e", result=result)

    assert _speaks_for_its_receiver(attempt(AttemptResult.RETRY)) is says
    assert _speaks_for_its_receiver(attempt(AttemptResult.DELIVERED)) is True


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
        assert f'gateway_attempts_total{{result="not_made"}} {lacks}.0'.encode() in life.metrics.render()
        await life.stop()

    tried: list[float] = []
    run_virtual(main())


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


def test_a_shutdown_before_an_attempt_can_be_made(tmp_path: Path) -> None:
    """Nothing is recorded, and nothing is lost."""

    async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        raise OutOfResources("No attempt could be made: Too many open files")

    async def main() -> None:
        life = await new_life(tmp_path / "db", ScriptedSender(send)).start()
        (callback,) = await owed(life)
        await asyncio.sleep(1)
        await life.supervisor.drain(0)
        assert (life.claims, await results(life, callback)) == (0, [])
        await life.store.close()
        receiver = Receiver(httpx.Response(204))
        life = await new_life(tmp_path / "db", receiver).start()
        await asyncio.sleep(1)
        assert (await life.look(callback)).state is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


def test_a_redelivery_goes_out_at_once(tmp_path: Path) -> None:
    """The loop sleeps, and is woken; the attempts are numbered on."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(410), httpx.Response(200))
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await asyncio.sleep(1000.5)
        await life.store.registry.redeliver("", callback.id, life.clock.now())
        await asyncio.sleep(0.1)
        assert receiver.times[1] == pytest.approx(1000.5, abs=0.01)
        assert await results(life, callback) == ["dead", "delivered"]
        await life.stop()

    run_virtual(main())


def test_a_paused_receiver_gets_no_attempt_until_it_is_resumed(tmp_path: Path) -> None:
    """What falls due meanwhile waits, with no attempt used up, and goes out at once then; nobody else waits."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204))
        life = new_life(tmp_path / "db", receiver)
        pauses = Pauses(life.store, life.clock, life.store.outbox.due.set)
        life.deliverer._pauses = pauses
        await life.start()
        await pauses.pause("ann", "https://app.example", "ann")
        (paused,) = await owed(life, client="ann")
        (other,) = await owed(life, client="bob")
        await asyncio.sleep(3600)
        assert [receiver.ids, life.claims] == [[other.id], 0]
        await pauses.resume("ann", "https://app.example", "ann")
        await asyncio.sleep(1)
        assert receiver.ids == [other.id, paused.id]
        attempts = await life.store.registry.list_attempts("ann", paused.id)
        assert attempts is not None
        assert [attempt.result for attempt in attempts] == [AttemptResult.DELIVERED]
        await life.stop()

    run_virtual(main())


def test_a_cancelled_callback_is_not_sent_again(tmp_path: Path) -> None:
    """A callback that is cancelled during an attempt stays cancelled, and there is no further attempt."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(500), takes_s=1.0)
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await until(lambda: len(receiver.times) == 1)
        await life.store.registry.cancel("", callback.id, life.clock.now())
        await asyncio.sleep(86_400)
        assert (await life.look(callback)).state is CallbackState.CANCELLED
        assert (len(receiver.times), life.claims) == (1, 0)
        await life.stop()

    run_virtual(main())


def test_a_hanging_receiver_delays_nobody_else(tmp_path: Path) -> None:
    """500 webhooks wait on a receiver that never answers: those of another one go out as if it were not there."""

    class Mixed(Receiver):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            if request.url.host.startswith("hangs"):
                await asyncio.sleep(3600)
            return await super().answer(request)

    async def main() -> None:
        receiver = Mixed(httpx.Response(204), takes_s=0.01)
        life = await new_life(tmp_path / "gateway.db", receiver).start()
        await owed(life, 500, url="https://hangs.example/hook")
        await asyncio.sleep(1)
        started = life.clock.monotonic()
        await owed(life, 50, url="https://works.example/hook")
        await until(lambda: len(receiver.times) == 50, limit_s=10)
        assert max(receiver.times) - started < 0.1
        await life.stop(0)

    run_virtual(main())


def test_retries_that_hold_their_share_do_not_slow_first_attempts(tmp_path: Path) -> None:
    """With every place that retries may have taken, first attempts go out one after another, not at each heartbeat."""
    times: list[float] = []
    down = True

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host.startswith("slow"):
            if down:
                return httpx.Response(500)
            await asyncio.sleep(1000)
        else:
            await asyncio.sleep(0.05)
            times.append(VirtualClock().monotonic())
        return httpx.Response(204)

    async def main() -> None:
        nonlocal down
        sender = Sender(Transport(answer), VirtualClock(), timeout_s=2000, user_agent="test")
        upstream = ScriptedUpstream(unused, "other")
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream, sender=sender, schedule_s=(0.0, 60.0, 60.0))
        life.supervisor = Supervisor([life.deliverer], life.clock, life.metrics)
        await life.start()
        clients = [f"client-{number % 3}" for number in range(60)]
        for number, client in enumerate(clients):  # four failures each: no breaker opens
            await owed(life, 4, url=f"https://slow-{number}.example/hook", client=client)
        await until(lambda: len(life.deliverer._bulkhead._failures) == 60 and life.claims == 0)
        well(life.deliverer._bulkhead, *life.deliverer._bulkhead._failures)  # until then
        down = False
        await asyncio.sleep(75)
        assert life.deliverer._bulkhead._retries[None] == 192
        started = life.clock.monotonic()
        await owed(life, 300, url="https://works.example/hook")
        await until(lambda: len(times) == 300, limit_s=600)
        assert max(times) - started < 2
        await life.stop(0)

    run_virtual(main())


def test_a_retry_does_not_wait_for_a_heartbeat_where_a_place_became_free_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another retry ends while the store is asked, and nobody waits yet that it could wake."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(500), httpx.Response(204))
        life = new_life(tmp_path / "db", receiver, (0.0, 5.0))
        await life.store.open()
        await owed(life)
        await life.deliverer.run_once()
        await until(lambda: life.claims == 0)
        await asyncio.sleep(10)
        bulkhead = life.deliverer._bulkhead = Bulkhead(8)
        others = [lane(f"r{number}", f"client-{number}") for number in range(6)]
        well(bulkhead, *others)
        taken = [webhook(on, retry=True) for on in others]
        assert all(map(bulkhead.admit, taken))
        look = webhookclaims._due_callbacks

        def due_callbacks(*args: Any) -> Any:
            if taken:
                bulkhead.ended(taken.pop(), delivered=True)
            return look(*args)

        monkeypatch.setattr(webhookclaims, "_due_callbacks", due_callbacks)
        assert await life.deliverer.run_once() < 1
        await life.deliverer.run_once()
        await until(lambda: len(receiver.times) == 2)
        await life.stop()

    run_virtual(main())


class SlowNames:
    """Tells the address of one host after two seconds, and has the others' connections open."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.asked = 0

    def must_look_up(self, url: httpx.URL) -> bool:
        return url.host == self._host

    async def find(self, url: httpx.URL) -> list[str]:
        self.asked += 1
        await asyncio.sleep(2)
        return ["192.0.2.1"]


def slow_name_in_a_full_house(tmp_path: Path, receiver: Receiver, crowd: int) -> tuple[Life, SlowNames]:
    names = SlowNames("slow.example")
    sender = Sender(Transport(receiver.answer), VirtualClock(), timeout_s=15, user_agent="test", names=names)
    life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(unused), sender=sender)
    life.supervisor = Supervisor([life.deliverer], life.clock, life.metrics)
    bulkhead = life.deliverer._bulkhead = Bulkhead(4, 4)
    lanes = [Lane(f"client-{number}", f"https://app-{number}.example") for number in range(crowd)]
    well(bulkhead, Lane("", "https://slow.example"), *lanes)
    return life, names


def test_a_name_that_takes_long_to_find_is_sent_to_in_a_full_house(tmp_path: Path) -> None:
    """Its place has gone to another when the answer comes; at its next turn it is not looked up again.

    Then the attempt has all of its time: the look-up is no part of it.
    """

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=0.5)
        life, names = slow_name_in_a_full_house(tmp_path, receiver, 8)
        await life.start()
        (slow,) = await owed(life, url="https://slow.example/hook")
        for number in range(8):
            await owed(life, 50, url=f"https://app-{number}.example/hook", client=f"client-{number}")
        await until(lambda: slow.id in receiver.ids, limit_s=60)
        assert len(receiver.ids) < 200
        assert names.asked == 1
        assert receiver.most == 4, "nobody sends without a place"
        await until(lambda: life.claims == 0, limit_s=60)
        (attempt,) = await life.store.registry.list_attempts("", slow.id) or []
        assert attempt.duration_ms == 500
        await life.stop(0)

    run_virtual(main())


def test_an_address_found_long_ago_does_not_count(tmp_path: Path) -> None:
    """It may be another's by now: the name is looked up again, and then it has a place."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204))
        life, names = slow_name_in_a_full_house(tmp_path, receiver, 0)
        life.deliverer._found["https://slow.example"] = Found(addresses=[], failure=None, took_s=2), -1.0
        await life.start()
        (slow,) = await owed(life, url="https://slow.example/hook")
        await until(lambda: slow.id in receiver.ids, limit_s=60)
        assert names.asked == 1
        assert not life.deliverer._found
        await life.stop(0)

    run_virtual(main())


@pytest.mark.parametrize("others", [1023, 1024])
def test_what_is_found_is_kept_for_so_many_receivers(others: int, tmp_path: Path) -> None:
    """Some never have their next turn, as those whose webhooks were cancelled: the first of too many is forgotten."""

    async def main() -> None:
        life, _ = slow_name_in_a_full_house(tmp_path, Receiver(httpx.Response(204), takes_s=0.5), 8)
        kept = life.deliverer._found
        for number in range(others):
            kept[f"https://gone-{number}.example"] = Found(addresses=[], failure=None, took_s=0), 60.0
        await life.start()
        await owed(life, url="https://slow.example/hook")
        for number in range(8):
            await owed(life, 50, url=f"https://app-{number}.example/hook", client=f"client-{number}")
        await until(lambda: "https://slow.example" in kept, limit_s=60, step_s=0.001)
        assert len(kept) == 1024
        assert kept["https://slow.example"][1] - life.clock.monotonic() == pytest.approx(60, abs=0.01)
        assert ("https://gone-0.example" in kept) == (others == 1023)
        await life.stop(0)

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
