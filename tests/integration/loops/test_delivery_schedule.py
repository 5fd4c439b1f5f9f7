"""When a webhook is tried, and tried again, and what each answer comes to. In virtual time."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from gateway.core.model import (
    Attempt,
    AttemptResult,
    CallbackState,
)
from gateway.loops.deliverer import _speaks_for_its_receiver
from gateway.loops.pauses import Pauses
from gateway.net.errors import ExchangeFailed
from gateway.signature import Signer, parse_secrets
from gateway.webhook.headers import ClientWebhooks
from tests.delivering import Receiver, new_life, owed, results
from tests.life import SCHEDULE_S, SECRET, until
from tests.virtualtime import EPOCH, run_virtual

REFUSED = ExchangeFailed("no", "refused", sent=False)


@pytest.mark.parametrize(
    ("seed", "word", "schedule_s"),
    [
        (0, httpx.Response(500), SCHEDULE_S),
        # What is as long as that is proved once.
        (1, httpx.Response(302, headers={"location": "/"}), SCHEDULE_S[:6]),
        (2, REFUSED, SCHEDULE_S[:6]),
    ],
)
def test_the_schedule_is_kept_to_the_end(
    word: httpx.Response | Exception, schedule_s: tuple[float, ...], seed: int, tmp_path: Path
) -> None:
    """Every wait is the schedule's and up to a tenth more; then the callback is dead. Its bytes stay the same."""

    async def main() -> None:
        receiver = Receiver(word, takes_s=2.0)
        life = await new_life(tmp_path / "db", receiver, schedule_s, seed=seed).start()
        (callback,) = await owed(life)
        await asyncio.sleep(sum(schedule_s) * 1.2)
        gaps = [b - a - 2.0 for a, b in zip(receiver.times, receiver.times[1:], strict=False)]
        assert receiver.times[0] < 0.01
        assert len(gaps) == len(schedule_s) - 1
        for gap, wait_s in zip(gaps, schedule_s[1:], strict=True):
            assert wait_s - 0.002 <= gap <= wait_s * 1.1 + 0.002
        assert any(gap > wait_s * 1.01 for gap, wait_s in zip(gaps, schedule_s[1:], strict=True))
        assert (await life.look(callback)).state is CallbackState.DEAD
        assert await results(life, callback) == ["retry"] * len(gaps) + ["dead"]
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


@pytest.mark.parametrize(("status", "looks_s"), [(200, 86_400), (201, 3600), (204, 3600), (299, 3600)])
def test_any_2xx_delivers(status: int, looks_s: float, tmp_path: Path) -> None:
    """One attempt, delivered, and nothing after it."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(status))
        life = await new_life(tmp_path / "db", receiver).start()
        (callback,) = await owed(life)
        await asyncio.sleep(looks_s)
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
        await until(lambda: len(receiver.times) == 2, limit_s=100_000, step_s=10)
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
