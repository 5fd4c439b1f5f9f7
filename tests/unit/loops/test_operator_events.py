"""The life of an operator event's attempt: claimed, sent, and what is noted of it, whatever goes wrong."""

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import OutOfResources, StoreError
from gateway.core.eventledger import RECEIVER_FAILING, Ledger, WaitingEvent
from gateway.core.telemetry import Metrics
from gateway.loops.operatorevents import OperatorEvents
from gateway.webhook.explaining import Reason
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import SendResult
from tests.virtualtime import VirtualClock, run_virtual

TIMEOUT_S, LEASE_S = 10.0, 15.0
SCHEDULE_S = (0.0, 100.0, 1000.0)


class Store:
    """The port of events over a ledger in memory; ``broken``: the change that fails."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.kept = False
        self.dropped = 0
        self.changes = 0
        self.broken = 0
        self.answers_after_s = 0.0

    async def read(self) -> Ledger:
        return self.ledger

    async def change(self, change: Callable[[Ledger], Any]) -> Any:
        await asyncio.sleep(0)
        self.changes += 1
        if self.changes == self.broken:
            raise StoreError("The database is away.")
        changed = change(self.ledger)
        await asyncio.sleep(self.answers_after_s)
        return changed


class Sends:
    """The sender: each attempt takes a second, and ends as ``how`` says."""

    def __init__(self) -> None:
        self.how: int | BaseException = 204
        self.reason: Reason = "status"
        self.sent: list[str] = []
        self.together = 0

    def limit_s(self, url: str) -> float:
        assert url == "https://ops.example.com/"
        return TIMEOUT_S

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> SendResult:
        assert url == "https://ops.example.com/"
        assert int(headers["webhook-timestamp"]) == VirtualClock().now() // 1000
        self.sent.append(headers["webhook-id"])
        self.together += 1
        assert self.together == 1
        try:
            await asyncio.sleep(1)
        finally:
            self.together -= 1
        if isinstance(self.how, BaseException):
            raise self.how
        taken = self.how < 300
        return SendResult(
            started_at=0,
            duration_ms=1000,
            status_code=self.how,
            reason=None if taken else self.reason,
            error=None if taken else f"It answered {self.how}.",
            retry_after_s=None,
            excerpt=b"",
        )


def _headers(event_id: str, body: bytes, timestamp_s: int, url: str) -> dict[str, str]:
    assert url == "https://ops.example.com/"
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp_s)}


class Telling:
    """The loop, beside a store that tells of so many receivers that fail."""

    def __init__(self, failing: int = 1) -> None:
        self.clock = VirtualClock()
        self.store, self.sends, self.metrics = Store(), Sends(), Metrics()
        self.noted: list[Ledger] = []
        for number in range(failing):
            about = {"client": "ann", "receiver": f"https://{number}.example.com"}
            self.store.ledger.fails(RECEIVER_FAILING, about, {"lastError": None}, self.clock.now() + number)
        parts: dict[str, Any] = {
            "events": self.store,
            "happenings": SimpleNamespace(note=self._note),
            "sender": self.sends,
            "headers": SimpleNamespace(of_event=_headers),
        }
        self.loop = OperatorEvents(
            **parts,
            retry=RetryPolicy(SCHEDULE_S),
            clock=self.clock,
            metrics=self.metrics,
            rng=random.Random(1),
            url="https://ops.example.com/",
            manual="https://manual.example.com",
        )

    async def _note(self, ledger: Ledger) -> None:
        self.noted.append(ledger)

    @property
    def waiting(self) -> list[WaitingEvent]:
        return self.store.ledger.waiting

    async def attempt(self) -> None:
        """Let an attempt end that begins now: half a second ago, once this returns."""
        await asyncio.sleep(1.5)

    def in_s(self, event: WaitingEvent, ago_s: float = 0.5) -> float:
        """Return in how many seconds it is due, counted from so long ago."""
        return (event.due_at - self.clock.now()) / 1000 + ago_s

    @property
    def failing(self) -> float | None:
        return self.metrics.registry.get_sample_value("gateway_events_failing")

    def counted(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("gateway_events_total", {"result": result})


def test_what_is_due_is_sent_one_at_a_time_and_in_its_order() -> None:
    """A round begins that, goes on at once, and the next one begins nothing beside."""

    async def main() -> None:
        its = Telling(failing=3)
        assert its.store.kept
        ids = [event.id for event in its.waiting]
        assert await its.loop.run_once() == 1.0
        assert its.noted == [its.store.ledger]
        await asyncio.sleep(0.5)
        assert its.in_s(its.waiting[0]) == TIMEOUT_S + LEASE_S
        await its.loop.run_once()
        await asyncio.sleep(4)
        assert its.sends.sent == ids
        assert its.waiting == []
        assert [its.counted(result) for result in ("sent", "retry", "failed", "dropped")] == [3, 0, 0, 0]

    run_virtual(main())


def test_what_is_not_due_is_left_alone() -> None:
    """Not even the database is written for it; in the moment in which it is due it is sent."""

    async def main() -> None:
        its = Telling()
        its.waiting[0].due_at += 1
        await its.loop.run_once()
        await asyncio.sleep(0.1)
        assert (its.store.changes, its.sends.sent) == (0, [])
        its.waiting[0].due_at -= 1
        await its.loop.run_once()
        await its.attempt()
        assert len(its.sends.sent) == 1

    run_virtual(main())


def test_what_fails_is_sent_again_on_schedule_and_then_given_up() -> None:
    """Meanwhile it is seen that events do not get through, until none waits; that one was given up is counted."""

    async def main() -> None:
        its = Telling()
        its.sends.how = 500
        waits = []
        for number in (1, 2, 3):
            await its.loop.run_once()
            with capture_logs() as log:
                await its.attempt()
            await its.loop.run_once()
            assert its.loop.error == (None if number == 3 else "It answered 500.")
            assert its.failing == float(number < 3)
            assert log[-1]["number"] == number
            if its.waiting:
                assert its.waiting[0].attempts == number
                waits.append(its.in_s(its.waiting[0]))
                await asyncio.sleep(waits[-1] - 0.5)
        assert [SCHEDULE_S[1] <= waits[0] <= SCHEDULE_S[1] * 1.1, SCHEDULE_S[2] <= waits[1] <= SCHEDULE_S[2] * 1.1]
        assert len(waits) == 2
        assert its.waiting == []
        assert [its.counted(result) for result in ("sent", "retry", "failed", "dropped")] == [0, 2, 1, 0]

    run_virtual(main())


def test_what_is_given_up_says_nothing_of_an_event_that_comes_later() -> None:
    """Who takes them may have been mended by then; what waits behind it is held up with it."""

    async def main() -> None:
        its = Telling(failing=2)
        its.sends.how = 500
        first, second = its.waiting
        first.attempts = second.attempts = len(SCHEDULE_S) - 1
        await its.loop.run_once()
        await its.attempt()
        await its.loop.run_once()
        assert (its.waiting, its.loop.error, its.failing) == ([second], "It answered 500.", 1.0)
        await its.attempt()
        await its.loop.run_once()
        assert (its.waiting, its.loop.error) == ([], None)
        about = {"client": "ann", "receiver": "https://new.example.com"}
        its.store.ledger.fails(RECEIVER_FAILING, about, {"lastError": None}, its.clock.now() + 1)
        await its.loop.run_once()
        assert (len(its.waiting), its.loop.error, its.failing) == (1, None, 0.0)

    run_virtual(main())


def test_an_error_that_outlived_what_it_was_about_is_not_told() -> None:
    """As earlier releases have left it in the database: nothing waits."""

    async def main() -> None:
        its = Telling(failing=0)
        its.store.ledger.error = "It answered 500."
        await its.loop.run_once()
        assert (its.loop.error, its.failing) == (None, 0.0)

    run_virtual(main())


def test_what_gets_through_ends_that_events_do_not() -> None:
    """With the attempt, whatever failed before."""

    async def main() -> None:
        its = Telling()
        assert its.loop.error is None
        its.store.ledger.error = "It answered 500."
        await its.loop.run_once()
        assert its.loop.error == "It answered 500."
        await its.attempt()
        await its.loop.run_once()
        assert its.loop.error is None

    run_virtual(main())


@pytest.mark.parametrize(("how", "said"), [(OutOfResources("No file is left."), "event.not_made"), (ValueError(), "")])
def test_an_attempt_that_was_not_made_is_made_five_seconds_later(how: Exception, said: str) -> None:
    """It counts for nothing, and of a defect the loop tells that it is one."""

    async def main() -> None:
        its = Telling()
        its.sends.how = how
        await its.loop.run_once()
        with capture_logs() as log:
            await its.attempt()
        assert its.in_s(its.waiting[0]) == 5.0
        assert its.waiting[0].attempts == 0
        assert its.store.ledger.error is None
        assert [line["event"] for line in log] == [said or "inflight.failed"]
        assert log[0].get("exc_info", how) is how

    run_virtual(main())


def test_what_our_own_proxy_failed_at_uses_up_no_attempt() -> None:
    """It is sent again and again; meanwhile it is seen that events do not get through, and why."""

    async def main() -> None:
        its = Telling()
        its.sends.how, its.sends.reason = 502, "proxy_unreachable"
        for number in range(1, 6):
            await its.loop.run_once()
            await its.attempt()
            assert (its.waiting[0].attempts, its.store.ledger.error) == (0, "It answered 502.")
            await asyncio.sleep(its.in_s(its.waiting[0]) - 0.5)
            assert len(its.sends.sent) == number

    run_virtual(main())


def test_a_stop_waits_for_the_attempt_that_is_under_way() -> None:
    """And begins no other one."""

    async def main() -> None:
        its = Telling(failing=2)
        await its.loop.run_once()
        await asyncio.sleep(0.5)
        await its.loop.drain(5.0)
        assert len(its.sends.sent) == 1
        assert len(its.waiting) == 1
        assert its.counted("sent") == 1

    run_virtual(main())


def test_an_attempt_that_a_stop_cuts_short_is_due_at_once() -> None:
    """For whoever comes next; it counts for nothing."""

    async def main() -> None:
        its = Telling()
        await its.loop.run_once()
        await asyncio.sleep(0.5)
        with capture_logs() as log:
            await its.loop.drain(0.0)
        assert log == [], "it is no defect"
        assert its.in_s(its.waiting[0], ago_s=0) == 0
        assert its.waiting[0].attempts == 0

    run_virtual(main())


def test_what_could_not_be_recorded_is_sent_once_its_claim_has_lapsed() -> None:
    """That is logged, and the loop goes on."""

    async def main() -> None:
        its = Telling()
        its.store.broken = 2
        await its.loop.run_once()
        with capture_logs() as log:
            await its.attempt()
        assert [line["event"] for line in log] == ["event.delivered", "event.not_recorded"]
        await its.loop.run_once()
        await asyncio.sleep(TIMEOUT_S + LEASE_S - 1.5)
        await its.loop.run_once()
        await its.attempt()
        assert len(its.sends.sent) == 2
        assert len({*its.sends.sent}) == 1
        assert its.waiting == []

    run_virtual(main())


@pytest.mark.parametrize(("late_s", "sent"), [(LEASE_S - 0.001, 1), (LEASE_S, 0)])
def test_who_hears_late_of_a_claim_leaves_it(late_s: float, sent: int) -> None:
    """A process may have stood still meanwhile: another may send it by then, or before its attempt would end."""

    async def main() -> None:
        its = Telling()
        its.store.answers_after_s = late_s
        await its.loop.run_once()
        await asyncio.sleep(late_s + 0.1)
        assert len(its.sends.sent) == sent
        its.store.answers_after_s = 0.0
        await asyncio.sleep(TIMEOUT_S + LEASE_S)
        await its.loop.run_once()
        await its.attempt()
        assert len(its.sends.sent) == 1
        assert its.waiting == []

    run_virtual(main())


def test_that_events_were_dropped_is_told_once() -> None:
    """In the log and as a metric, beside how many wait; more are told of by how many they are."""

    async def main() -> list[list[int]]:
        its = Telling(failing=0)
        told = []
        for dropped in (0, 1, 1, 4):
            its.store.dropped = dropped
            with capture_logs() as log:
                await its.loop.run_once()
            told.append([line["events"] for line in log if line["event"] == "event.dropped"])
        assert its.counted("dropped") == 4
        return told

    assert run_virtual(main()) == [[], [1], [], [3]]


def test_the_loop_is_woken_once_there_is_room() -> None:
    """Else it waits for its round."""

    async def main() -> None:
        its = Telling()
        await its.loop.run_once()
        began = its.clock.monotonic()
        await its.loop.wait(60.0)
        assert 1 <= its.clock.monotonic() - began < 2
        began = its.clock.monotonic()
        await its.loop.wait(60.0)
        assert its.clock.monotonic() - began == 60

    run_virtual(main())
