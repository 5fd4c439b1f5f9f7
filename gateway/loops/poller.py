"""Due tasks → poll → settle or reschedule.

Owns the decision what a poll's result means for its task and for the key. Run by the supervisor; talks to the store
and to one upstream.

A refused key pauses the key, never its tasks: one poll at a time probes it, after each pause, until it is accepted.
A task that nobody has asked about yet need not wait for the pause's end: it may be the first that the key is good for.
A refused task of an accepted key is asked about ever more seldom, and nobody else waits for it.
A task that the upstream has never told of and does not know is given up, but only after a grace period: the family
answers 404 and 422 for fresh ones too. One that it has told of is asked about ever more seldom.
A callback whose time has passed gets ``task.abandoned`` after one last poll, so that a result which came while the
gateway was down is not thrown away.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import structlog

from gateway.core.clock import Clock, wait_for_event
from gateway.core.errors import StoreError
from gateway.core.model import DueTask, ExpiredTask, PollRecord, Settlement, TaskState
from gateway.core.telemetry import Metrics
from gateway.loops.endings import Ending, ended, gave_up
from gateway.loops.inflight import InFlight
from gateway.loops.pollshares import PollShares, least_failed
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import TaskQueue
from gateway.upstream.answer import UNREADABLE, AbandonReason, PollKind, PollResult
from gateway.upstream.api import Upstream
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable, took_s
from gateway.upstream.troubled import Troubled

__all__ = ["MOST_POLLS", "Poller"]

_log = structlog.get_logger()

MOST_POLLS = 128
"""Polls of one upstream that are under way at once; of one client's tasks, half of that."""
_EXPIRY_BATCH = 1000
_GRACE_MS = 30_000
"""How long a passed callback waits for a usable answer to its last poll …"""
_QUEUE_GRACE_MS = 60_000
"""… for the poll itself, where the key or its budget did not allow it yet …"""
_RESTART_GRACE_MS = 600_000
"""… and, from the start, where it passed before that."""
_FAILED_PAUSE_S = 1.0
"""How long a task stays claimed whose poll could not be stored, or met a defect."""
_NEW_PAUSE_S = 5.0
"""So long after its last answer a refused key's new task is asked about: it may be the first that is the key's own …"""
_NEW_LOOK_S = 1.0
"""… and looked for so often."""
_CALLBACKS_TOLD = 20
"""So many of a task's callbacks are named in its line of the log."""


class Poller:
    """The loop that watches the tasks of one upstream."""

    def __init__(
        self,
        tasks: TaskQueue,
        upstream: Upstream,
        key: UpstreamKey,
        timetable: Timetable,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.name = f"poller-{upstream.name}"
        self._tasks = tasks
        self._upstream = upstream
        self._key = key
        self._timetable = timetable
        self._clock = clock
        self._polls = {kind: metrics.polls.labels(upstream.name, kind) for kind in (*PollKind, UNREADABLE)}
        self._poll_seconds = metrics.poll_seconds.labels(upstream.name)
        self._settled = {state: metrics.settled.labels(upstream.name, state) for state in TaskState}
        self._shares = PollShares(tasks, upstream.name)
        self._wake = tasks.due(upstream.name)
        self._in_flight = InFlight(MOST_POLLS, self._wake)
        self._started = clock.monotonic()
        self._last_polls: set[tuple[int, int]] = set()  # the task, and whose time had passed
        self._troubled = Troubled(key)
        self._probing = False
        self._new_from = clock.monotonic()  # when to look for a new task in a refused key's pause

    @property
    def refuses_tasks(self) -> bool:
        """Whether the upstream refuses tasks, and not the key."""
        return self._troubled.refuses_tasks(self._clock.monotonic())

    @property
    def makes_no_sense(self) -> bool:
        """Whether what answers for the upstream is not its API, or denies tasks that it has told of."""
        return self._troubled.makes_no_sense(self._clock.monotonic())

    async def prepare(self) -> None:
        """Take up what an earlier process learned and spent. Raises StoreError."""
        await self._key.restore()
        await self._timetable.restore()

    async def run_once(self) -> float:
        """Abandon what has expired and start the polls that are due; return the seconds until more will be."""
        await self._timetable.save()
        now = self._clock.now()
        queries = self._key.queries
        wait_s = min(await self._expire(now), max((await self._tasks.unwatch(now) - now) / 1000, 0.001))
        queries.polls_waiting = False
        room = self._in_flight.free
        # As it is now: a refusal that comes in the middle of this round begins a pause.
        refused = self._key.refusal is not None
        if refused:
            room = 0 if self._in_flight.count else 1  # one probe at a time
        if room == 0:
            return wait_s  # the end of a poll wakes the loop, or the heartbeat does
        available = queries.available_for_polls()
        free = min(room, available)
        if free <= 0:
            queries.polls_waiting = True  # perhaps: the next round with a place to give puts it right
            if refused:
                wait_s = min(wait_s, await self._ask_about_new(now))
            available_s = queries.next_available_s()
            return wait_s if available_s is None else min(wait_s, max(available_s, 0.001))
        queries.take(free)
        started = 0
        try:
            if self._key.doubted and not self._probing:
                started = await self._start_probe()
            wanted = 0 if self._key.neutral_next else free - started
            # Clients take turns. Of one's tasks, where it is not the budget that is short, who waited longest is next.
            rank = None
            if wanted and (refused or available < room):
                rank = least_failed if refused else self._timetable.urgency
            claims, next_due_at = await self._shares.claim(now, wanted, self._in_flight.free, rank)
            started += await self._start_polls(claims, now)
            if refused and not claims:
                if not self._key.refused_by_tasks:
                    started += await self._start_probe()
                elif next_due_at is None:
                    self._key.no_task_left()
        finally:
            queries.give_back(free - started)
            queries.polls_sent(started)
        if next_due_at is None:
            return wait_s
        queries.polls_waiting = next_due_at <= now and self._in_flight.free > 0
        # More is due than may start now: the end of a poll, or the next round, brings its turn.
        return min(wait_s, max((next_due_at - now) / 1000, 0.001 if self._in_flight.free else HEARTBEAT_S))

    async def wait(self, timeout_s: float) -> None:
        await wait_for_event(self._wake, timeout_s)
        self._wake.clear()

    async def drain(self, timeout_s: float) -> None:
        await self._in_flight.drain(timeout_s)
        with suppress(StoreError):  # the store tells of itself; what is not kept is learned anew
            await self._timetable.save(now=True)

    async def _ask_about_new(self, now: int) -> float:
        """In a pause, ask about a task that nobody has asked about; return in how many seconds to look again."""
        queries = self._key.queries
        steady = self._clock.monotonic()
        if steady < self._new_from:
            return self._new_from - steady
        self._new_from = steady + _NEW_LOOK_S
        if not queries.available_in_pause():
            return _NEW_LOOK_S
        queries.take(1)
        started = 0
        try:
            since = now - round((steady - self._key.refused_at) * 1000)
            claims = await self._shares.claim_new(since, now)
            started = await self._start_polls(claims, now)
        finally:
            queries.give_back(1 - started)
        return _NEW_LOOK_S

    async def _start_polls(self, claims: Sequence[DueTask], now: int) -> int:
        """Ask about these tasks, in places taken; return how many that took. Raises StoreError."""
        try:
            await self._key.queries.reserve(len(claims))
        except BaseException:
            await self._tasks.release(claims)
            raise
        for claim in claims:
            self._timetable.polled(claim, now)
            self._in_flight.start(self._poll(claim), f"poll-{claim.task_id}")
        return len(claims)

    async def _poll(self, claim: DueTask) -> None:
        try:
            try:
                result = await self._query(claim.task_id, claim.watchers, again=self._troubled.is_refused(claim.seq))
                await self._store_result(claim, result)
            except StoreError as exc:
                # Nothing is lost: the task stays due and is polled again.
                _log.warning("poll.not_stored", upstream=self._upstream.name, task_id=claim.task_id, error=exc.message)
                await asyncio.sleep(_FAILED_PAUSE_S)
                await self._tasks.release([claim])
            except Exception:
                # A defect: it must not use up the key's budget in a tight circle.
                await asyncio.sleep(_FAILED_PAUSE_S)
                raise
        except BaseException:
            await self._tasks.release([claim])
            raise
        finally:
            if self._in_flight.count >= self._in_flight.free:
                self._in_flight.wake_soon()  # from here on somebody may wait for this place

    async def _start_probe(self) -> int:
        """Ask about the key itself, in one of the places taken; return how many that took. Raises StoreError."""
        await self._key.queries.reserve(1)
        self._probing = True
        self._in_flight.start(self._probe(self._key.to_ask), "poll-probe")
        return 1

    async def _probe(self, task_id: str) -> None:
        try:
            await self._query(task_id, probe=True)
        except Exception:
            await asyncio.sleep(_FAILED_PAUSE_S)  # as with a task's poll
            raise
        finally:
            self._probing = False

    async def _query(self, task_id: str, watchers: str = "", *, again: bool = False, probe: bool = False) -> PollResult:
        started = self._clock.monotonic()
        try:
            result = await self._upstream.poll(task_id, watchers)
        finally:
            self._key.queries.end()
            self._in_flight.wake_soon()  # a place in the rate limit may have its time now
        ended = self._clock.monotonic()
        self._new_from = ended + _NEW_PAUSE_S
        self._poll_seconds.observe(ended - started)
        self._polls[result.label].inc()
        self._key.judge(task_id, started, result, again=again, probe=probe)
        self._timetable.limit_budget(self._key.queries.rate_per_s)
        return result

    async def _store_result(self, claim: DueTask, result: PollResult) -> None:
        now, steady = self._clock.now(), self._clock.monotonic()
        if result.task_created_at is not None:
            self._timetable.created(result.task_created_at, claim.created_at)
        self._troubled.note(claim, result, steady)
        if result.outcome is not None:
            await self._settle(claim, result, ended(self._upstream.profile, result, result.outcome), now)
        elif result.kind is PollKind.NOT_KNOWN and self._troubled.is_unknown(claim, now, steady):
            await self._settle(claim, result, gave_up(self._upstream.profile, claim.task_id, "not_found", now), now)
            self._troubled.forget(claim.seq)
        else:
            record = self._rescheduled(claim, result, now)
            self._upstream.last_answers.keep(claim.task_id, result.record)
            await self._tasks.reschedule(record)
            if self._shares.is_news(record.next_poll_at):
                self._wake.set()

    async def _settle(self, claim: DueTask, result: PollResult, ending: Ending, now: int) -> None:
        outcome = ending.outcome
        model = result.model or claim.model
        began_at = self._began_at(claim, result)
        duration_s = took_s(claim, result, began_at, now) if outcome.state.terminal else None
        owed = await self._tasks.settle(
            Settlement(
                seq=claim.seq,
                upstream=self._upstream.name,
                settled_at=now,
                **ending._asdict(),
                read=claim.read_until is not None,
                polls=1,
                model=model,
            )
        )
        if duration_s is not None:
            self._timetable.ended(claim, model, began_at, duration_s, told=result.duration_s is not None)
        self._settled[outcome.state].inc()
        _log.log(
            logging.WARNING if outcome.state is TaskState.ABANDONED else logging.INFO,
            "task.settled",
            upstream=self._upstream.name,
            task_id=claim.task_id,
            callbacks=len(owed),
            callback_ids=owed[:_CALLBACKS_TOLD],
            state=outcome.state.value,
            model=model,
            polls=claim.polls + 1,
            duration_s=duration_s and round(duration_s, 3),
        )

    def _rescheduled(self, claim: DueTask, result: PollResult, now: int) -> PollRecord:
        born_at = result.task_created_at
        if result.kind is PollKind.RUNNING:
            if born_at is None and claim.born_at is None:
                born_at = claim.created_at  # from now on the task is one that the upstream has told of
            began_at = self._began_at(claim, result)
            next_poll_at = self._timetable.running(claim, result.model or claim.model, began_at, now)
            if result.retry_after_s is not None:
                next_poll_at = max(next_poll_at, now + round(result.retry_after_s * 1000))
            _log.debug(
                "task.running",
                upstream=self._upstream.name,
                task_id=claim.task_id,
                polls=claim.polls + 1,
                next_in_s=(next_poll_at - now) / 1000,
            )
        else:
            next_poll_at = self._timetable.failed_poll_at(
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
                error=result.error,
                next_in_s=(next_poll_at - now) / 1000,
            )
        return PollRecord(
            seq=claim.seq,
            upstream=claim.upstream,
            polled_at=now,
            next_poll_at=next_poll_at,
            error=result.error,
            born_at=born_at,
            model=result.model,
            record=None if claim.read_until is None else result.record,
        )

    def _began_at(self, claim: DueTask, result: PollResult) -> int:
        """Return when a task began to run, as far as that is known."""
        told_at = claim.born_at if result.task_created_at is None else result.task_created_at
        return self._timetable.began_at(told_at, claim.created_at)

    async def _expire(self, now: int) -> float:
        """Abandon the callbacks whose time has passed; return the seconds until the next one's will."""
        expired, next_expiry_at = await self._tasks.expired(self._upstream.name, now, _EXPIRY_BATCH)
        self._last_polls.intersection_update((task.seq, task.expires_at) for task in expired)
        over = [(task, expired_by) for task in expired if (expired_by := self._expired_by(task, now)) is not None]
        # Together, so that they share a transaction.
        await asyncio.gather(*(self._abandon(task, expired_by, now) for task, expired_by in over))
        given_up = {task.seq for task, _ in over}
        ask_again = {(task.seq, task.expires_at) for task in expired if task.seq not in given_up} - self._last_polls
        if ask_again:
            await self._tasks.poll_now(self._upstream.name, [seq for seq, _ in ask_again], now)
            self._last_polls |= ask_again
        wait_s = HEARTBEAT_S if next_expiry_at is None else (next_expiry_at - now) / 1000
        # Those that wait for their last poll wake the loop when it ends; their grace is checked every second.
        return min(wait_s, 1.0) if expired else wait_s

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
        owed = await self._tasks.settle(
            Settlement(
                seq=task.seq,
                upstream=self._upstream.name,
                settled_at=now,
                **ending._asdict(),
                polls=0,
                expired_by=expired_by,
            )
        )
        self._troubled.forget(task.seq)
        _log.warning(
            "callbacks.expired",
            upstream=self._upstream.name,
            task_id=task.task_id,
            reason=reason,
            callbacks=len(owed),
            callback_ids=owed[:_CALLBACKS_TOLD],
        )
