"""What a poll's answer leads to for its task: it is settled, given up, or asked about again, and when.

Owns that decision and the line of the log that tells of it; what is stored of an end is ``endings``' to know, and when
to ask again the timetable's. Asks nothing and claims nothing. Called by the poller with every answer.

A refused task of an accepted key is asked about ever more seldom, and nobody else waits for it. A task that the
upstream has never told of and does not know is given up, but only after a grace period: the family answers 404 and 422
for fresh ones too. One that it has told of is asked about ever more seldom.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from gateway.core import pollhistory
from gateway.core.claims import DueTask
from gateway.core.clock import Clock, Moment
from gateway.core.errors import StoreLocked
from gateway.core.memory import SMALL
from gateway.core.model import PollRecord, Settlement, TaskState
from gateway.core.pollhistory import Why
from gateway.core.telemetry import Metrics
from gateway.core.tracing import OFF, Tracing
from gateway.loops.endings import CALLBACKS_TOLD, Ending, ended, gave_up
from gateway.store import TaskQueue
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.api import Upstream
from gateway.upstream.timetable import Planned, Timetable, took_s
from gateway.upstream.troubled import Troubled

__all__ = ["Pause", "PollResults"]

R = TypeVar("R")
T = TypeVar("T")
Pause = Callable[[float], Awaitable[bool]]
"""Waits so many seconds, or less; returns whether to go on."""

_log = structlog.get_logger()

_LOCKED_PAUSES_S = tuple(StoreLocked.longest_pause_s / 2**number for number in reversed(range(6)))
"""So often, after these pauses, it is tried to store what a poll has brought while others have locked its task: a
minute. To ask the upstream anew costs a place in the key's limit, and would find the same."""


class PollResults:
    """What becomes of the tasks of one upstream that were polled."""

    def __init__(
        self,
        tasks: TaskQueue,
        upstream: Upstream,
        timetable: Timetable,
        troubled: Troubled,
        clock: Clock,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._tasks = tasks
        self._upstream = upstream
        self._timetable = timetable
        self._troubled = troubled
        self._clock = clock
        self._abandoned = metrics.abandoned.labels(upstream.name)
        self._tracing = tracing
        self._settled = {state: metrics.settled.labels(upstream.name, state) for state in TaskState}

    async def store(self, claim: DueTask, result: PollResult, asked: Moment, pause: Pause) -> int | None:
        """Store what a poll found that was ``asked`` then, which ends its claim. Raises StoreError.

        ``pause``: waits so many seconds for what others have locked, and says whether to try again then: not once the
        term is over in which it was asked, or at the stop.
        Return when the next one is due, but for who wishes that it be sooner; None: there is none.
        """
        now, steady = self._clock.now(), self._clock.monotonic()
        if result.task_created_at is not None:
            self._timetable.created(result.task_created_at, claim.created_at)
        self._troubled.note(claim, result, steady)
        if result.outcome is not None:
            ending = ended(self._upstream.profile, result, result.outcome)
            await self._settle(claim, result, ending, now, _told(claim, result, asked, None), pause)
            self._upstream.last_answers.forget_running(claim.task_id)
        elif self._troubled.is_unknown(claim, now, steady):
            ending = gave_up(self._upstream.profile, claim.task_id, "not_found", now)
            await self._settle(claim, result, ending, now, _told(claim, result, asked, None), pause)
            self._troubled.forget(claim.seq)
        else:
            newest = self._upstream.last_answers.keep(claim.task_id, result.record, asked.steady)
            planned = self._planned(claim, result, now)
            record = PollRecord(
                seq=claim.seq,
                upstream=claim.upstream,
                polled_at=now,
                next_poll_at=planned.at,
                error=result.error,
                born_at=_born_at(claim, result),
                model=result.model,
                record=result.record if newest else None,
                asked_at=asked.at,
                denied=self._troubled.is_denied(claim.seq),
                told=_told(claim, result, asked, planned),
            )
            await _once_free(self._tasks.reschedule, record, record.record, pause)
            return planned.at
        return None

    async def _settle(
        self,
        claim: DueTask,
        result: PollResult,
        ending: Ending,
        now: int,
        told: bytes,
        pause: Pause,
    ) -> None:
        outcome = ending.outcome
        model = result.model or claim.model
        began_at = self._began_at(claim, result)
        duration_s = took_s(claim, result, began_at, now) if outcome.state.terminal else None
        settlement = Settlement(
            seq=claim.seq,
            upstream=self._upstream.name,
            settled_at=now,
            **ending._asdict(),
            read=claim.read_until is not None,
            keeps_record=not result.faithful,
            polls=1,
            model=model,
            told=told,
        )
        tracing = self._tracing
        with OFF if tracing is None else tracing.settlement(settlement.upstream, claim.task_id, outcome.state) as span:
            owed = await _once_free(self._tasks.settle, settlement, settlement.outcome.data, pause)
            if span is not None:
                span.owed(owed)
        if owed is None:
            return  # it is another replica's to settle
        if duration_s is not None:
            self._timetable.ended(claim, model, began_at, duration_s, told=result.duration_s is not None)
        self._settled[outcome.state].inc()
        if outcome.state is TaskState.ABANDONED:
            self._abandoned.inc(len(owed))
        _log.log(
            logging.WARNING if outcome.state is TaskState.ABANDONED else logging.INFO,
            "task.settled",
            upstream=self._upstream.name,
            task_id=claim.task_id,
            callbacks=len(owed),
            callback_ids=owed[:CALLBACKS_TOLD],
            state=outcome.state.value,
            model=model,
            polls=claim.polls + 1,
            duration_s=duration_s and round(duration_s, 3),
        )

    def _planned(self, claim: DueTask, result: PollResult, now: int) -> Planned:
        if result.kind is PollKind.RUNNING:
            planned = self._timetable.running(
                claim, result.model or claim.model, self._began_at(claim, result), now
            ).not_before(now + round((result.retry_after_s or 0.0) * 1000))
            _log.debug(
                "task.running",
                upstream=self._upstream.name,
                task_id=claim.task_id,
                polls=claim.polls + 1,
                next_in_s=(planned.at - now) / 1000,
            )
        else:
            planned = self._timetable.failed_poll_at(
                claim.failures + 1,
                result.retry_after_s,
                now,
                costly=result.oversized,
                seldom=self._troubled.seldom(claim.seq),
            )
            _log.info(
                "poll.failed",
                upstream=self._upstream.name,
                task_id=claim.task_id,
                kind=result.label,
                error=result.logged or result.error,
                next_in_s=(planned.at - now) / 1000,
            )
        return planned

    def _began_at(self, claim: DueTask, result: PollResult) -> int:
        """Return when a task began to run, as far as that is known."""
        told_at = claim.born_at if result.task_created_at is None else result.task_created_at
        return self._timetable.began_at(told_at, claim.created_at)


async def _once_free(write: Callable[[R], Awaitable[T]], record: R, what: bytes | None, pause: Pause) -> T:
    """Write once nobody else has locked it, or raise StoreLocked; of ``what`` is large nothing waits for that."""
    for pause_s in () if what is not None and len(what) > SMALL else _LOCKED_PAUSES_S:
        try:
            return await write(record)
        except StoreLocked:
            if not await pause(pause_s):
                raise
    return await write(record)


def _born_at(claim: DueTask, result: PollResult) -> int | None:
    told_at = result.task_created_at
    if told_at is None and claim.born_at is None and result.kind is PollKind.RUNNING:
        return claim.created_at  # from now on the task is one that the upstream has told of
    return told_at


def _told(claim: DueTask, result: PollResult, asked: Moment, planned: Planned | None) -> bytes:
    """Return what is kept of a poll, and when and why the next one is; None: there is none."""
    since = claim.created_at
    next_ms, why = (0, Why.ENDED) if planned is None else (planned.at - asked.at, planned.why)
    one = pollhistory.written(asked.at - since, result.label, next_ms, why)
    if claim.last_polled_at is None or claim.last_polled_at < since:  # the first since it is watched
        return pollhistory.written(0, "registered", claim.due_at - since, Why.FIRST) + one
    return one
