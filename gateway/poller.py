"""Due tasks → poll → settle or reschedule.

Owns the decision what a poll's result means for its task and for the key. Run by the supervisor; talks to the store
and to one upstream.

A refused key pauses the key, never its tasks: one poll at a time probes it, with growing pauses, until it is accepted.
A callback whose time has passed gets ``task.abandoned`` after one last poll, so that a result which came while the
gateway was down is not thrown away.
"""

import asyncio
import random

import structlog

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.inflight import Agenda, InFlight
from gateway.model import DueTask, ExpiredTask, PollRecord, Settlement
from gateway.outcome import PollKind, PollResult, abandoned
from gateway.ratelimit import RateLimiter
from gateway.schedule import PollSchedule
from gateway.store import Store
from gateway.supervisor import HEARTBEAT_S
from gateway.telemetry import Metrics
from gateway.upstream import Upstream

__all__ = ["Poller"]

_log = structlog.get_logger()

_CONCURRENCY = 64
_EXPIRY_BATCH = 500
_LAST_POLL_GRACE_MS = 30_000
"""How long a passed callback waits for its last poll, where the key or the rate limit does not allow it."""
_PROBE_S = (30.0, 60.0, 120.0, 300.0)
"""Pauses between probes of a refused key."""
_STORE_RETRY_S = 1.0
_THROTTLED_S = 5.0
"""The pause after a 429 that does not say how long."""


class Poller:
    """The loop that watches the tasks of one upstream."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        schedule: PollSchedule,
        limiter: RateLimiter,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.name = f"poller-{upstream.name}"
        self._store = store
        self._upstream = upstream
        self._schedule = schedule
        self._limiter = limiter
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        wake = store.tasks_due(upstream.name)
        self._agenda = Agenda(wake, clock)
        self._in_flight = InFlight(_CONCURRENCY, wake)
        self._started_at = clock.now()
        self._last_polls: set[int] = set()
        self._probes = 0
        self._refusal: str | None = None

    @property
    def refusal(self) -> str | None:
        """Why the upstream refuses the key; None while it does not."""
        return self._refusal

    async def run_once(self) -> float:
        """Abandon what has expired and start the polls that are due; return the seconds until more will be."""
        now = self._clock.now()
        steady = self._clock.monotonic()
        wait_s = await self._expire(now)
        free = min(self._in_flight.free, self._limiter.available(steady))
        if self._refusal is not None:
            free = min(free, 1)
        if free <= 0:
            # A free slot wakes the loop; a free place in the rate limit has its time.
            available_at = self._limiter.next_available(steady)
            return wait_s if available_at is None else min(wait_s, max(available_at - steady, 0.001))
        claims, next_due_at = await self._store.claim_tasks(self._upstream.name, now, free)
        for claim in claims:
            self._limiter.start()
            self._in_flight.start(self._poll(claim), f"poll-{claim.task_id}")
        if next_due_at is None:
            return wait_s
        # More is due than may start now: the end of a poll, or the next round, brings its turn.
        return min(wait_s, max((next_due_at - now) / 1000, 0.001 if self._in_flight.free else HEARTBEAT_S))

    async def wait(self, timeout_s: float) -> None:
        await self._agenda.wait(timeout_s)

    async def drain(self, timeout_s: float) -> None:
        await self._in_flight.drain(timeout_s)

    async def _poll(self, claim: DueTask) -> None:
        started = self._clock.monotonic()
        try:
            result = await self._upstream.poll(claim.task_id)
        except BaseException:
            self._store.release_task(claim)
            raise
        finally:
            self._limiter.end(self._clock.monotonic())
        self._metrics.poll_seconds.labels(self._upstream.name).observe(self._clock.monotonic() - started)
        self._metrics.polls.labels(self._upstream.name, result.kind).inc()
        self._judge_key(result)
        try:
            await self._store_result(claim, result)
        except StoreError as exc:
            # Nothing is lost: the task stays due and is polled again.
            _log.warning("poll.not_stored", task_id=claim.task_id, error=exc.message)
            await asyncio.sleep(_STORE_RETRY_S)
            self._store.release_task(claim)
        except asyncio.CancelledError:
            self._store.release_task(claim)
            raise

    async def _store_result(self, claim: DueTask, result: PollResult) -> None:
        now = self._clock.now()
        if result.outcome is not None:
            await self._store.settle(Settlement(seq=claim.seq, outcome=result.outcome, settled_at=now, polls=1))
            self._metrics.settled.labels(self._upstream.name, result.outcome.state).inc()
            _log.info(
                "task.settled",
                upstream=self._upstream.name,
                task_id=claim.task_id,
                state=result.outcome.state.value,
                polls=claim.polls + 1,
                age_s=round((now - (result.task_created_at or claim.created_at)) / 1000, 3),
            )
            return
        if result.kind is PollKind.RUNNING:
            age_s = (now - (result.task_created_at or claim.created_at)) / 1000
            delay_s = self._schedule.running_delay_s(age_s, self._rng)
        else:
            delay_s = self._schedule.failed_delay_s(claim.failures + 1, self._rng)
            if result.retry_after_s is not None:
                delay_s = max(delay_s, result.retry_after_s)
            _log.info(
                "poll.failed",
                upstream=self._upstream.name,
                task_id=claim.task_id,
                kind=result.kind.value,
                error=result.error,
                next_in_s=round(delay_s, 3),
            )
        next_poll_at = now + round(delay_s * 1000)
        await self._store.reschedule(
            PollRecord(seq=claim.seq, polled_at=now, next_poll_at=next_poll_at, error=result.error)
        )
        self._agenda.due_at(next_poll_at)

    def _judge_key(self, result: PollResult) -> None:
        steady = self._clock.monotonic()
        if result.kind is PollKind.KEY_REFUSED:
            pause_s = _PROBE_S[min(self._probes, len(_PROBE_S) - 1)]
            self._probes += 1
            self._limiter.block(steady + pause_s)
            if self._refusal is None:
                _log.error("upstream.key_refused", upstream=self._upstream.name, error=result.error)
            self._refusal = result.error
            return
        if result.kind is PollKind.THROTTLED:
            self._limiter.block(steady + (result.retry_after_s or _THROTTLED_S))
        if result.kind is not PollKind.UNREACHABLE and self._refusal is not None:
            _log.info("upstream.key_accepted", upstream=self._upstream.name)
            self._refusal = None
            self._probes = 0

    async def _expire(self, now: int) -> float:
        """Abandon the callbacks whose time has passed; return the seconds until the next one's will."""
        expired, next_expiry_at = await self._store.expired_tasks(self._upstream.name, now, _EXPIRY_BATCH)
        ask_again: list[int] = []
        for task in expired:
            settle_up_to = self._settle_up_to(task, now)
            if settle_up_to is not None:
                self._last_polls.discard(task.seq)
                outcome = abandoned(task.task_id, "timeout")
                await self._store.settle(
                    Settlement(seq=task.seq, outcome=outcome, settled_at=now, polls=0, expired_by=settle_up_to)
                )
                self._metrics.settled.labels(self._upstream.name, outcome.state).inc()
                _log.info("task.abandoned", upstream=self._upstream.name, task_id=task.task_id, reason="timeout")
            elif task.seq not in self._last_polls:
                ask_again.append(task.seq)
        if ask_again:
            await self._store.poll_now(ask_again, now)
            self._last_polls.update(ask_again)
        wait_s = HEARTBEAT_S if next_expiry_at is None else (next_expiry_at - now) / 1000
        # Those that wait for their last poll wake the loop when it ends; their grace is checked every second.
        return min(wait_s, 1.0) if expired else wait_s

    def _settle_up_to(self, task: ExpiredTask, now: int) -> int | None:
        """Return up to which ``expires_at`` this task's callbacks are to be abandoned; None: the last poll is due."""
        if task.last_polled_at is not None and task.last_polled_at >= task.expires_at:
            return task.last_polled_at
        if now >= max(task.expires_at, self._started_at) + _LAST_POLL_GRACE_MS:
            return now
        return None
