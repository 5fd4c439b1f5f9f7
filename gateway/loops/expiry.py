"""Callbacks whose time has passed: each gets ``task.abandoned`` after one last poll of its task.

Owns when that poll is asked for, and for how long it is waited for; so that a result which came while the gateway was
down is not thrown away. Asks nothing itself. Called by the poller in each of its rounds.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from itertools import compress

import structlog

from gateway.core.clock import Clock
from gateway.core.errors import StoreLocked
from gateway.core.model import ExpiredTask, Settlement
from gateway.core.telemetry import Metrics
from gateway.core.tracing import OFF, Tracing
from gateway.loops.endings import CALLBACKS_TOLD, gave_up
from gateway.loops.leading import Lease
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import TaskQueue
from gateway.upstream.answer import UNREADABLE, AbandonReason
from gateway.upstream.api import Upstream
from gateway.upstream.troubled import Troubled

_log = structlog.get_logger()

_BATCH = 1000
_GRACE_MS = 30_000
"""How long a passed callback waits for a usable answer to its last poll …"""
_QUEUE_GRACE_MS = 60_000
"""… for the poll itself, where the key or its budget did not allow it yet …"""
_RESTART_GRACE_MS = 600_000
"""… and, from the start, where it passed before that."""
_LOCKED_PAUSE_S = StoreLocked.longest_pause_s / 4


class Expiry:
    """The passed callbacks of one upstream's tasks."""

    def __init__(
        self,
        tasks: TaskQueue,
        upstream: Upstream,
        troubled: Troubled,
        clock: Clock,
        lease: Lease,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._tasks = tasks
        self._upstream = upstream
        self._troubled = troubled
        self._clock = clock
        self._tracing = tracing
        self._lease = lease
        self._abandoned = metrics.abandoned.labels(upstream.name)
        self._started = clock.monotonic()
        self._last_polls: set[tuple[int, int]] = set()  # the task, and whose time had passed
        self._locked: dict[int, float] = {}  # tasks that others have locked, and until when each is left alone

    def begin(self) -> None:
        """Hear that from now on this process polls them."""
        self._started = self._clock.monotonic()
        self._last_polls.clear()

    async def run(self, now: int, term: int) -> float:
        """Abandon the callbacks whose time has passed; return the seconds until the next one's will.

        ``term``: the one in which this is done; once it is over nothing is.
        """
        expired, next_expiry_at = await self._tasks.expired(self._upstream.name, now, _BATCH)
        if not self._lease.holds(term):
            return HEARTBEAT_S
        self._last_polls.intersection_update((task.seq, task.expires_at) for task in expired)
        steady = self._clock.monotonic()
        self._locked = {seq: until for seq, until in self._locked.items() if until > steady}
        found = [(task, self._expired_by(task, now)) for task in expired if task.seq not in self._locked]
        over = [(task, expired_by) for task, expired_by in found if expired_by is not None]
        # Together, so that they share a transaction.
        await asyncio.gather(
            *(self._unless_locked(task.seq, self._abandon(task, expired_by, now)) for task, expired_by in over)
        )
        wait = {(task.seq, task.expires_at) for task, expired_by in found if expired_by is None}
        ask_again = list(wait - self._last_polls)
        poll_now = partial(self._tasks.poll_now, self._upstream.name)
        asked = await asyncio.gather(*(self._unless_locked(seq, poll_now([seq], now)) for seq, _ in ask_again))
        self._last_polls.update(compress(ask_again, asked))
        wait_s = HEARTBEAT_S if next_expiry_at is None else (next_expiry_at - now) / 1000
        # Those that wait for their last poll wake the loop when it ends; their grace is checked every second.
        return min(wait_s, 1.0) if expired else wait_s

    async def _unless_locked(self, seq: int, write: Awaitable[None]) -> bool:
        """Write, or leave a task that others have locked alone for a while: no poll of another waits for that."""
        try:
            await write
        except StoreLocked:
            self._locked[seq] = self._clock.monotonic() + _LOCKED_PAUSE_S
            return False
        return True

    def _expired_by(self, task: ExpiredTask, now: int) -> int | None:
        """Return up to which ``expires_at`` this task's callbacks are abandoned; None: the last poll comes first.

        Only an answer that says "still running" is that: an outage at the wrong moment must not cost a result. Whose
        time passed later than that of the task's first has a grace of its own.
        """
        asked_at = task.last_polled_at
        if asked_at is not None and asked_at < task.expires_at:
            asked_at = None
        if asked_at is not None and task.failures == 0:
            return asked_at
        started_at = now - round((self._clock.monotonic() - self._started) * 1000)
        if task.expires_at < started_at:
            # What passed meanwhile may be a long queue for a short budget.
            return started_at if now >= started_at + _RESTART_GRACE_MS else None
        expired_by = now - _QUEUE_GRACE_MS if asked_at is None else min(now - _GRACE_MS, asked_at)
        return expired_by if expired_by >= task.expires_at else None

    async def _abandon(self, task: ExpiredTask, expired_by: int, now: int) -> None:
        reason: AbandonReason = "timeout"
        if task.failures:  # else it was revived since, and begins anew
            reason = UNREADABLE if self._troubled.is_unreadable(task.seq) else reason
            reason = "refused" if self._troubled.is_refused(task.seq) else reason
        ending = gave_up(self._upstream.profile, task.task_id, reason, now)
        settlement = Settlement(
            seq=task.seq,
            upstream=self._upstream.name,
            settled_at=now,
            **ending._asdict(),
            polls=0,
            expired_by=expired_by,
        )
        tracing = self._tracing
        traces = () if tracing is None else await self._tasks.traces(task.seq)
        with (
            OFF
            if tracing is None
            else tracing.settlement(settlement.upstream, task.task_id, ending.outcome.state, traces)
        ) as span:
            owed = await self._tasks.settle(settlement)
            if span is not None:
                span.owed(owed)
        if owed is None:
            return  # it is another replica's to give up
        self._troubled.forget(task.seq)
        self._abandoned.inc(len(owed))
        _log.warning(
            "callbacks.expired",
            upstream=self._upstream.name,
            task_id=task.task_id,
            reason=reason,
            callbacks=len(owed),
            callback_ids=owed[:CALLBACKS_TOLD],
        )
