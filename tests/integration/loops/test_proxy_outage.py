"""What attempts that end at an egress proxy do to the webhooks' receiver: nothing. In virtual time."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.core.model import AttemptResult, CallbackState
from gateway.webhook.explaining import Reason
from gateway.webhook.sender import SendResult
from tests.delivering import new_life, owed, results
from tests.life import ScriptedSender, until
from tests.virtualtime import VirtualClock, run_virtual

FAILURES = 5
"""So many in a row open a receiver's circuit breaker."""


@pytest.mark.parametrize(
    ("reason", "result", "speaks"),
    [
        ("proxy_unreachable", AttemptResult.INTERRUPTED, False),
        ("proxy_auth", AttemptResult.INTERRUPTED, False),
        ("proxy_failed", AttemptResult.RETRY, False),
        ("proxy_timeout", AttemptResult.RETRY, False),
        ("refused", AttemptResult.RETRY, True),
    ],
)
def test_a_proxys_fault_is_not_its_receivers(
    reason: Reason, result: AttemptResult, speaks: bool, tmp_path: Path
) -> None:
    """Its receiver is not told of as failing, and has all its places; what refuses by itself is, and has one."""
    schedule_s = (0.0,) * FAILURES + (60.0,)

    async def main() -> None:
        working = asyncio.Event()
        made: list[str] = []

        async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
            works = working.is_set()
            await asyncio.sleep(1)
            made.append(url)
            return SendResult(
                started_at=VirtualClock().now(),
                duration_ms=1000,
                status_code=204 if works else None,
                reason=None if works else reason,
                error=None if works else "It went wrong.",
                retry_after_s=None,
                excerpt=b"",
            )

        life = await new_life(tmp_path / "db", ScriptedSender(send), schedule_s).start()
        (callback,) = await owed(life)
        await until(lambda: len(made) == FAILURES and not life.deliverer.in_flight)
        told = [failures.in_a_row for failures in life.deliverer.failing.lanes.values()]
        assert told == ([FAILURES] if speaks else [])
        working.set()
        others = await owed(life, 3)
        await asyncio.sleep(0.5)
        assert life.deliverer.in_flight == (1 if speaks else 3)
        await asyncio.sleep(120)
        kept = 2 if result is AttemptResult.INTERRUPTED else FAILURES  # of those that do not count
        assert await results(life, callback) == [result.value] * kept + ["delivered"]
        assert (await life.look(callback)).attempts == FAILURES + 1
        assert {(await life.look(one)).state for one in others} == {CallbackState.DELIVERED}
        assert not life.deliverer.failing.lanes
        await life.stop()

    run_virtual(main())
