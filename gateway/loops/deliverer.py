"""Due callbacks → sign → send → record.

Owns the life of one attempt; who may have how many at once is for ``bulkhead`` to say. Run by the supervisor; talks to
the outbox and to the sender. A large webhook is read when its attempt starts, and waits for room before that: at the
stop it goes back, as an attempt that begins then may be cut short.

An attempt that has been made is recorded before its callback can be claimed again, however long the store takes, and
is counted and told of only afterwards: nothing else may come between a receiver's answer and its record.
"""

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import structlog

from gateway.core.claims import AttemptRecord, DueCallback, Lane
from gateway.core.clock import Clock, wait_for_event
from gateway.core.errors import OutOfResources, StoreError
from gateway.core.memory import SMALL, Memory
from gateway.core.model import Attempt, AttemptResult
from gateway.core.telemetry import Metrics
from gateway.core.tracing import Tracing
from gateway.loops.claiming import claim_due
from gateway.loops.failing import Failing
from gateway.loops.inflight import InFlight
from gateway.loops.pauses import Pauses
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import Outbox
from gateway.webhook import body as webhookbody
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.limits import ReceiverLimits
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import OF_PROXY, Found, Sender, SendResult

__all__ = ["Deliverer"]

_log = structlog.get_logger()

_CONCURRENCY = 256
_LOOK_UPS = 1024  # that take long, beside these
_FOUND_COUNTS_S = 60.0  # until its receiver's next turn; not for longer, as addresses change hands
_DEFECT_PAUSE_S, _NOT_MADE_PAUSE_S = 60.0, 5.0
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
        outbox: Outbox,
        sender: Sender,
        client_headers: ClientHeaders,
        retry: RetryPolicy,
        memory: Memory,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        pauses: Pauses | None = None,
        limits: ReceiverLimits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """``pauses``: which receivers are paused; ``limits``: what some allow; ``tracing`` makes spans. None: none."""
        self._outbox = outbox
        self._sender = sender
        self._client_headers = client_headers
        self._retry = retry
        self._memory = memory
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._pauses = pauses
        self._tracing = tracing
        self._attempts = {result: metrics.attempts.labels(result) for result in AttemptResult}
        self._in_flight = InFlight(_CONCURRENCY + _LOOK_UPS, outbox.due)
        self._bulkhead = Bulkhead(_CONCURRENCY, _LOOK_UPS, sender.timeout_s, limits)
        self.failing = Failing()
        self._found: dict[str, tuple[Found, float]] = {}  # of receivers that had no place by then; until when it counts
        self._wait_for_room: set[asyncio.Task[Any]] = set()
        self._drains = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """How many attempts are under way."""
        return self._in_flight.count

    def lanes(self) -> Iterator[tuple[Lane, int, bool]]:
        """Yield each lane that was sent on lately, how many attempts it has, and whether it gets but one."""
        return self._bulkhead.lanes()

    def open_circuits(self) -> list[Lane]:
        """Return the lanes that get one attempt at a time, as too many failed in a row."""
        return self._bulkhead.probed()

    async def run_once(self) -> float:
        """Start the attempts that are due; return the seconds until more will be."""
        bulkhead = self._bulkhead
        bulkhead.at(self._clock.monotonic())
        if self._pauses is not None:
            bulkhead.pause(await self._pauses.follow())
        wait_s = HEARTBEAT_S  # an attempt that ends wakes the loop
        if bulkhead.free:
            now = self._clock.now()
            claims, next_due_at = await claim_due(self._outbox, bulkhead, now, _CONCURRENCY)
            for claim in claims:
                self._in_flight.start(self._attempt(claim), f"attempt-{claim.id}")
            if next_due_at is not None and bulkhead.free:
                wait_s = max((next_due_at - now) / 1000, 0.001)
        turn_s = bulkhead.next_turn_s
        return wait_s if turn_s is None else min(wait_s, max(turn_s, 0.001))

    async def wait(self, timeout_s: float) -> None:
        await wait_for_event(self._outbox.due, timeout_s)
        self._outbox.due.clear()

    async def drain(self, timeout_s: float) -> None:
        self._drains.set()
        for task in self._wait_for_room:
            task.cancel()
        await self._in_flight.drain(timeout_s)

    async def _attempt(self, claim: DueCallback) -> None:
        delivered: bool | None = None
        try:
            made = await self._send(claim)
            if made is not None:
                delivered = _speaks_for_its_receiver(made.record.attempt, made.reason)
                try:
                    await self._record(made.record)
                finally:
                    self._tell(made)
        finally:
            # With no place at all nobody was asked whether there is more, and it waits for what came since as well.
            was_full = not self._bulkhead.free
            self._bulkhead.ended(claim, delivered=delivered)
            if was_full or self._bulkhead.waits:
                self._in_flight.wake_soon()  # somebody waits for this place

    async def _send(self, claim: DueCallback) -> _Made | None:
        began: tuple[int, float] | None = None
        try:
            found = None
            if self._sender.must_look_up(claim.url):
                # Before it has a place for good, or its body: thousands of names may have no answer.
                began = self._clock.now(), self._clock.monotonic()
                found = await self._find(claim)
                began = None
                if found is None:
                    await self._outbox.release([claim])
                    return None
            body = await self._body(claim)
            if body is None:
                await self._outbox.release([claim])
                return None
            started_at, started = self._clock.now(), self._clock.monotonic()
            headers = await self._headers(claim, body, started_at // 1000)
            if not self._outbox.holds(claim):  # another replica may be sending it
                await self._outbox.release([claim])
                return None
            began = started_at, started
            if self._bulkhead.sends(claim):
                self._in_flight.wake_soon()  # somebody waits for its receiver's rate
            self._metrics.delivery_lag_seconds.observe(max(0, started_at - claim.due_at) / 1000)
            if self._tracing is None:
                return self._judge(claim, await self._sender.send(claim.url, headers, body, found))
            return await self._traced(self._tracing, claim, headers, body, found)
        except asyncio.CancelledError:
            if began is None:
                await self._outbox.release([claim])
            else:
                await self._interrupted(claim, *began)
            raise
        except (OutOfResources, StoreError) as exc:
            await self._not_made(claim, exc.message)
        except MemoryError:
            await self._not_made(claim, f"There is no memory for its {claim.body_bytes} bytes.")
        except BaseException:
            # A defect: it must not knock at the receiver in a tight circle.
            try:
                await wait_for_event(self._drains, _DEFECT_PAUSE_S)
            finally:
                await self._outbox.release([claim])
            raise
        return None

    async def _find(self, claim: DueCallback) -> Found | None:
        """Look a receiver's name up; None where the place has gone to another meanwhile.

        What was found is kept for the receiver's next turn: else one whose name takes long never has a place. The time
        that it took is no part of that turn's attempt.
        """
        known = self._found.pop(claim.receiver, None)
        if known is not None and self._clock.monotonic() < known[1]:
            return known[0]
        self._bulkhead.looks_up(claim)
        found = await self._sender.find(claim.url)
        if found.failure is not None or self._bulkhead.found(claim):
            return found
        kept = msgspec.structs.replace(found, took_s=0.0)
        self._found[claim.receiver] = kept, self._clock.monotonic() + _FOUND_COUNTS_S
        if len(self._found) > _LOOK_UPS:
            del self._found[next(iter(self._found))]
        return None

    async def _body(self, claim: DueCallback) -> bytes | None:
        """Make a webhook's body, read first where it did not come with its claim, once there is room for it.

        None where it was cancelled, or the gateway stops.
        """
        body = claim.body
        if body is not None and webhookbody.is_light(body):
            return webhookbody.webhook_body(claim.id, body)
        if body is None:
            # Itself, and once more on its way: put together, signed, encrypted.
            if not await self._hold(claim, 2 * claim.body_bytes):
                return None
            body = await self._outbox.body(claim)
            if body is None:
                return None
        if (cost := await self._memory.work(webhookbody.cost, body)) and not await self._hold(
            claim, 2 * claim.body_bytes + cost
        ):
            return None
        made = await self._memory.work(webhookbody.webhook_body, claim.id, body)
        self._memory.keep(2 * claim.body_bytes)
        return made

    async def _hold(self, claim: DueCallback, size: int) -> bool:
        """Wait for room for a webhook; False where the gateway stops."""
        if self._drains.is_set():
            return False
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs this
        self._wait_for_room.add(task)
        try:
            await self._memory.hold(size, f"client {claim.client}", "webhooks", claim.receiver)
        finally:
            self._wait_for_room.discard(task)
        return True

    async def _headers(self, claim: DueCallback, body: bytes, timestamp_s: int) -> dict[str, str]:
        if len(body) <= SMALL:
            return self._client_headers.headers(claim, body, timestamp_s)
        return await self._memory.work(self._client_headers.headers, claim, body, timestamp_s)

    async def _traced(
        self, tracing: Tracing, claim: DueCallback, headers: dict[str, str], body: bytes, found: Found | None
    ) -> _Made:
        with tracing.attempt(claim, headers) as span:
            made = self._judge(claim, await self._sender.send(claim.url, headers, body, found))
            span.came_to(made.record.attempt, made.reason)
        return made

    def _judge(self, claim: DueCallback, sent: SendResult) -> _Made:
        # A receiver that took the webhook needs no explaining, and these are most rows.
        excerpt = b"" if sent.reason is None else self._client_headers.without_secrets(claim, sent.excerpt)
        decision = self._retry.decide(
            claim.budget_used + 1,
            delivered=sent.reason is None,
            status_code=sent.status_code,
            retry_after_s=sent.retry_after_s,
            rng=self._rng,
            counts=sent.counts,
        )
        attempt = Attempt(
            number=claim.attempts + 1,
            started_at=sent.started_at,
            duration_ms=sent.duration_ms,
            status_code=sent.status_code,
            error=sent.error,
            result=decision.result,
            excerpt=excerpt.decode(errors="replace") or None,
        )
        # From now, not from when the attempt began: the clock may have been set meanwhile.
        next_attempt_at = None if decision.delay_s is None else self._clock.now() + round(decision.delay_s * 1000)
        record = AttemptRecord(claim=claim, attempt=attempt, next_attempt_at=next_attempt_at)
        return _Made(record, sent.reason, decision.delay_s)

    def _tell(self, made: _Made) -> None:
        claim, attempt = made.record.claim, made.record.attempt
        if made.reason not in OF_PROXY:
            self.failing.hear(claim.lane, attempt)
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
                await self._outbox.record(record)
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
            await self._outbox.record(AttemptRecord(claim=claim, attempt=attempt, next_attempt_at=self._clock.now()))
        except StoreError as exc:
            # It is still pending, and due: nothing but the line in its log is missing.
            _log.warning("attempt.not_recorded", **_whose(claim), error=exc.message)
        finally:
            self._attempts[attempt.result].inc()
            _log.info("attempt.interrupted", **_whose(claim), number=attempt.number)

    async def _not_made(self, claim: DueCallback, error: str) -> None:
        """Give the claim back after a pause: this machine's trouble is not recorded, or counted, as its receiver's."""
        try:
            self._metrics.attempts.labels("not_made").inc()
            _log.warning("attempt.not_made", **_whose(claim), error=error, again_in_s=_NOT_MADE_PAUSE_S)
            await wait_for_event(self._drains, _NOT_MADE_PAUSE_S)
        finally:
            await self._outbox.release([claim])


def _whose(claim: DueCallback) -> dict[str, str]:
    """Return the fields that join the lines of a callback with one another and with its task's."""
    return {
        "callback_id": claim.id,
        "task_id": claim.task_id,
        "client": claim.client,
        "receiver": claim.receiver,
    }


def _speaks_for_its_receiver(attempt: Attempt, reason: str | None = None) -> bool | None:
    """Return whether the receiver is well.

    None where it answered, and only this webhook was wrong for it; or where a proxy did, and nobody can tell.
    """
    if reason in OF_PROXY:
        return None
    if attempt.result is AttemptResult.DELIVERED:
        return True
    status_code = attempt.status_code
    answered = status_code is not None and 300 <= status_code < 500 and status_code not in (408, 429)
    return None if answered else False
