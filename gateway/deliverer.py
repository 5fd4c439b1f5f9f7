"""Due callbacks → sign → send → record.

Owns the life of one attempt; who may have how many at once is for ``bulkhead`` to say. Run by the supervisor; talks to
the store and to the sender.

An attempt that has been made is recorded before its callback can be claimed again, however long the store takes: a
webhook must not be sent twice because a disk was full for a moment. It is counted and told of only afterwards: nothing
that happens to a log or a metric may come between a receiver's answer and its record.
"""

import asyncio
import logging
import random
from typing import NamedTuple

import msgspec
import structlog

from gateway.bulkhead import Bulkhead
from gateway.clientheaders import ClientHeaders
from gateway.clock import Clock, wait_for_event
from gateway.errors import OutOfResources, StoreError
from gateway.inflight import InFlight
from gateway.model import Attempt, AttemptRecord, AttemptResult, DueCallback
from gateway.retry import RetryPolicy
from gateway.sender import Sender, SendResult
from gateway.store import Store
from gateway.supervisor import HEARTBEAT_S
from gateway.telemetry import Metrics

__all__ = ["Deliverer"]

_log = structlog.get_logger()

_CONCURRENCY = 256
_LOOK_UPS = 1024  # that take long, beside these
_DEFECT_PAUSE_S = 60.0
_NOT_MADE_PAUSE_S = 5.0
_STORE_RETRY_S = (0.1, 0.5, 1.0, 5.0)


class _Made(NamedTuple):
    """An attempt that was made, and what else is told of it."""

    record: AttemptRecord
    reason: str | None
    delay_s: float | None


class Deliverer:
    """The loop that sends what is owed."""

    name = "deliverer"

    def __init__(
        self,
        store: Store,
        sender: Sender,
        client_headers: ClientHeaders,
        retry: RetryPolicy,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._sender = sender
        self._client_headers = client_headers
        self._retry = retry
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._attempts = {result: metrics.attempts.labels(result) for result in AttemptResult}
        self._in_flight = InFlight(_CONCURRENCY + _LOOK_UPS, store.callbacks_due)
        self._bulkhead = Bulkhead(_CONCURRENCY, _LOOK_UPS, sender.timeout_s)

    async def run_once(self) -> float:
        """Start the attempts that are due; return the seconds until more will be."""
        bulkhead = self._bulkhead
        bulkhead.at(self._clock.monotonic())
        wait_s = HEARTBEAT_S  # an attempt that ends wakes the loop
        if bulkhead.free:
            now = self._clock.now()
            claims, next_due_at = await self._store.claim_callbacks(now, bulkhead.free, bulkhead)
            for claim in claims:
                self._in_flight.start(self._attempt(claim), f"attempt-{claim.id}")
            if next_due_at is not None and bulkhead.free:
                wait_s = max((next_due_at - now) / 1000, 0.001)
        next_turn_s = bulkhead.next_turn_s
        return wait_s if next_turn_s is None else min(wait_s, max(next_turn_s, 0.001))

    async def wait(self, timeout_s: float) -> None:
        await wait_for_event(self._store.callbacks_due, timeout_s)
        self._store.callbacks_due.clear()

    async def drain(self, timeout_s: float) -> None:
        await self._in_flight.drain(timeout_s)

    async def _attempt(self, claim: DueCallback) -> None:
        delivered: bool | None = None
        try:
            made = await self._send(claim)
            if made is not None:
                delivered = _speaks_for_its_receiver(made.record.attempt)
                try:
                    await self._record(made.record)
                finally:
                    self._tell(made)
        finally:
            self._bulkhead.ended(claim, delivered=delivered)
            if self._bulkhead.waits:
                self._in_flight.wake_soon()  # somebody waits for this place

    async def _send(self, claim: DueCallback) -> _Made | None:
        started_at = self._clock.now()
        started = self._clock.monotonic()
        try:
            found = None
            if self._sender.must_look_up(claim.url):
                self._bulkhead.looks_up(claim)
                found = await self._sender.find(claim.url)
                if not self._bulkhead.found(claim):
                    self._store.release_callback(claim)
                    return None
            self._metrics.delivery_lag_seconds.observe(max(0, started_at - claim.due_at) / 1000)
            headers = self._client_headers.headers(claim, self._clock.now() // 1000)
            return self._judge(claim, await self._sender.send(claim.url, headers, claim.body, found))
        except asyncio.CancelledError:
            await self._interrupted(claim, started_at, started)
            raise
        except OutOfResources as exc:
            await self._not_made(claim, exc)
            return None
        except BaseException:
            # A defect: it must not knock at the receiver in a tight circle.
            try:
                await asyncio.sleep(_DEFECT_PAUSE_S)
            finally:
                self._store.release_callback(claim)
            raise

    def _judge(self, claim: DueCallback, sent: SendResult) -> _Made:
        if self._client_headers.adds(claim):
            # An answer may repeat them in more spellings than could be masked.
            sent = msgspec.structs.replace(sent, excerpt=b"")
        decision = self._retry.decide(
            claim.budget_used + 1,
            delivered=sent.reason is None,
            status_code=sent.status_code,
            retry_after_s=sent.retry_after_s,
            rng=self._rng,
        )
        attempt = Attempt(
            number=claim.attempts + 1,
            started_at=sent.started_at,
            duration_ms=sent.duration_ms,
            status_code=sent.status_code,
            error=sent.error,
            result=decision.result,
            # A receiver that took the webhook needs no explaining, and these are most rows.
            excerpt=None if sent.reason is None else sent.excerpt.decode(errors="replace") or None,
        )
        # From now, not from when the attempt began: the clock may have been set meanwhile.
        next_attempt_at = None if decision.delay_s is None else self._clock.now() + round(decision.delay_s * 1000)
        record = AttemptRecord(claim=claim, attempt=attempt, next_attempt_at=next_attempt_at)
        return _Made(record, sent.reason, decision.delay_s)

    def _tell(self, made: _Made) -> None:
        claim, attempt = made.record.claim, made.record.attempt
        self._attempts[attempt.result].inc()
        self._metrics.attempt_seconds.observe(attempt.duration_ms / 1000)
        _log.log(
            logging.WARNING if attempt.result is AttemptResult.DEAD else logging.INFO,
            "attempt.finished",
            **_whose(claim),
            number=attempt.number,
            result=attempt.result.value,
            status_code=attempt.status_code,
            reason=made.reason,
            error=attempt.error,
            duration_ms=attempt.duration_ms,
            next_in_s=None if made.delay_s is None else round(made.delay_s, 3),
        )

    async def _record(self, record: AttemptRecord) -> None:
        due_s: float | None = None
        if record.next_attempt_at is not None:
            due_s = self._clock.monotonic() + (record.next_attempt_at - self._clock.now()) / 1000
        failures = 0
        while True:
            try:
                await self._store.record_attempt(record)
            except StoreError as exc:
                pause_s = _STORE_RETRY_S[min(failures, len(_STORE_RETRY_S) - 1)]
                failures += 1
                _log.warning("attempt.not_recorded", **_whose(record.claim), error=exc.message, retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
                if due_s is not None:
                    # What is stored has followed a clock that was set meanwhile; this is not stored yet.
                    next_attempt_at = self._clock.now() + round((due_s - self._clock.monotonic()) * 1000)
                    record = msgspec.structs.replace(record, next_attempt_at=next_attempt_at)
            else:
                return

    async def _interrupted(self, claim: DueCallback, started_at: int, started: float) -> None:
        """Record an attempt that the shutdown cut short; it does not count against the schedule."""
        attempt = Attempt(
            number=claim.attempts + 1,
            started_at=started_at,
            duration_ms=round((self._clock.monotonic() - started) * 1000),
            status_code=None,
            error="The gateway shut down during this attempt; it is made again after the next start.",
            result=AttemptResult.INTERRUPTED,
        )
        try:
            await self._store.record_attempt(
                AttemptRecord(claim=claim, attempt=attempt, next_attempt_at=self._clock.now())
            )
        except StoreError as exc:
            # It is still pending, and due: nothing but the line in its log is missing.
            _log.warning("attempt.not_recorded", **_whose(claim), error=exc.message)
        finally:
            self._attempts[attempt.result].inc()
            _log.info("attempt.interrupted", **_whose(claim), number=attempt.number)

    async def _not_made(self, claim: DueCallback, exc: OutOfResources) -> None:
        """Give the claim back after a pause: this machine's trouble is not recorded, or counted, as its receiver's."""
        try:
            self._metrics.attempts.labels("not_made").inc()
            _log.warning("attempt.not_made", **_whose(claim), error=exc.message, again_in_s=_NOT_MADE_PAUSE_S)
            await asyncio.sleep(_NOT_MADE_PAUSE_S)
        finally:
            self._store.release_callback(claim)


def _whose(claim: DueCallback) -> dict[str, str]:
    """Return the fields that join the lines of a callback with one another and with its task's."""
    return {
        "callback_id": claim.id,
        "task_id": claim.task_id,
        "client": claim.client,
        "receiver": claim.receiver,
    }


def _speaks_for_its_receiver(attempt: Attempt) -> bool | None:
    """Return whether the receiver is well; None where it answered, and only this webhook was wrong for it."""
    if attempt.result is AttemptResult.DELIVERED:
        return True
    status_code = attempt.status_code
    answered = status_code is not None and 300 <= status_code < 500 and status_code not in (408, 429)
    return None if answered else False
