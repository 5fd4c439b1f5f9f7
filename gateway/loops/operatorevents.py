"""Operator events: claim what is due → body → sign → send → record, one at a time and in their order.

Owns the life of an event's attempt, beside the deliverer and apart from it: a webhook never waits for an event, and an
event that cannot be delivered is no event. What is told, and how often, ``core.eventledger`` says; what has happened,
``happenings``. Run by the supervisor, where GATEWAY_EVENTS_URL is set.
"""

import asyncio
import random
from functools import partial

import structlog

from gateway.core.clock import Clock, wait_for_event
from gateway.core.errors import OutOfResources, StoreError
from gateway.core.eventledger import Ledger, WaitingEvent
from gateway.core.model import AttemptResult
from gateway.core.telemetry import Metrics
from gateway.loops.happenings import Happenings
from gateway.loops.inflight import InFlight
from gateway.store.eventport import Events
from gateway.webhook.eventbody import event_body, words_of
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import Sender

_log = structlog.get_logger()

_ROUND_S = 1.0
_LEASE_S = 15.0
"""So much longer than an attempt a claim lasts."""
_NOT_MADE_PAUSE_S = 5.0


class OperatorEvents:
    """The loop that tells the operator."""

    name = "events"

    def __init__(
        self,
        events: Events,
        happenings: Happenings,
        sender: Sender,
        headers: ClientHeaders,
        retry: RetryPolicy,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        *,
        url: str,
        manual: str,
    ) -> None:
        """``url``: where events go. ``manual``: where people find the manual, for the links in them."""
        events.kept = True
        self._events = events
        self._happenings = happenings
        self._sender = sender
        self._headers = headers
        self._retry = retry
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._url = url
        self._manual = manual
        self._wake = asyncio.Event()
        self._in_flight = InFlight(1, self._wake)
        self._draining = False
        self._dropped = 0
        for result in ("sent", "retry", "failed", "dropped"):
            metrics.events.labels(result)  # stands at 0 from the start
        self.error: str | None = None
        """Why what waits does not get through, on whichever replica; None where it does, or nothing waits."""

    async def run_once(self) -> float:
        """Note what has happened, begin to send what is due; return the seconds until it is time again."""
        ledger = await self._events.read()
        await self._happenings.note(ledger)
        self._show(ledger)
        due_at = ledger.next_due_at
        if due_at is not None and due_at <= self._clock.now() and self._in_flight.free:
            self._in_flight.start(self._send_due(), "operator-events")
        return _ROUND_S

    async def wait(self, timeout_s: float) -> None:
        await wait_for_event(self._wake, timeout_s)
        self._wake.clear()

    async def drain(self, timeout_s: float) -> None:
        self._draining = True
        await self._in_flight.drain(timeout_s)

    def _show(self, ledger: Ledger) -> None:
        self.error = ledger.held_up
        self._metrics.events_waiting.set(len(ledger.waiting))
        self._metrics.events_failing.set(self.error is not None)
        if (dropped := self._events.dropped - self._dropped) > 0:
            self._dropped += dropped
            self._metrics.events.labels("dropped").inc(dropped)
            _log.warning("event.dropped", events=dropped, waiting=len(ledger.waiting))

    async def _send_due(self) -> None:
        lease_ms = round((self._sender.limit_s(self._url) + _LEASE_S) * 1000)
        words = partial(words_of, manual=self._manual)
        try:
            while not self._draining:
                now = self._clock.now()
                event = await self._events.change(partial(Ledger.claim, now=now, lease_ms=lease_ms, words=words))
                if event is None:
                    return
                if self._clock.now() < now + _LEASE_S * 1000:  # else its lease may end before its attempt does
                    await self._send(event)
        except StoreError as exc:
            # What was claimed is sent once its claim has lapsed, perhaps once more: with the same id.
            _log.warning("event.not_recorded", error=exc.message)

    async def _send(self, event: WaitingEvent) -> None:
        body = event_body(event)
        headers = self._headers.of_event(event.id, body, self._clock.now() // 1000, self._url)
        try:
            sent = await self._sender.send(self._url, headers, body)
        except BaseException as exc:
            # Claims of what was cut short at the stop, or met a defect, are given back.
            pause_s = 0.0 if isinstance(exc, asyncio.CancelledError) else _NOT_MADE_PAUSE_S
            await self._again(event, pause_s, None, counts=False)
            if not isinstance(exc, OutOfResources):
                raise
            _log.warning("event.not_made", **_whose(event), error=exc.message, again_in_s=pause_s)
            return
        decision = self._retry.decide(
            event.attempts + 1,
            delivered=sent.reason is None,
            status_code=sent.status_code,
            retry_after_s=sent.retry_after_s,
            rng=self._rng,
            counts=sent.counts,
        )
        number = event.attempts + 1
        if decision.delay_s is not None:
            self._metrics.events.labels("retry").inc()
            _log.warning(
                "event.not_delivered",
                **_whose(event),
                number=number,
                error=sent.error,
                next_in_s=round(decision.delay_s, 3),
            )
            counts = decision.result is not AttemptResult.INTERRUPTED
            await self._again(event, decision.delay_s, sent.error, counts=counts)
            return
        if decision.result is AttemptResult.DELIVERED:
            self._metrics.events.labels("sent").inc()
            _log.info("event.delivered", **_whose(event), number=number)
        else:
            self._metrics.events.labels("failed").inc()
            _log.error("event.given_up", **_whose(event), number=number, error=sent.error)
        await self._events.change(partial(Ledger.ended, event_id=event.id, now=self._clock.now(), error=sent.error))

    async def _again(self, event: WaitingEvent, delay_s: float, error: str | None, *, counts: bool) -> None:
        due_at = self._clock.now() + round(delay_s * 1000)
        await self._events.change(partial(Ledger.failed, event_id=event.id, due_at=due_at, error=error, counts=counts))


def _whose(event: WaitingEvent) -> dict[str, str]:
    return {"event_id": event.id, "type": event.type}
