"""Due tasks → poll → settle or reschedule.

Owns which polls begin, and what an answer means for the key; what it leads to for its task is ``pollresults``' to say,
and what becomes of callbacks whose time has passed ``expiry``'s. Run by the supervisor; talks to the store and to one
upstream.

It polls only while it leads (``leading``). What its polls bring after that is stored by nobody: another replica has
asked anew by then, or will. Meanwhile it takes over what the one that leads has learned.

A refused key pauses the key, never its tasks: one poll at a time probes it, after each pause, until it is accepted.
A task that nobody has asked about yet need not wait for the pause's end: it may be the first that the key is good for.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog

from gateway.core.claims import DueTask
from gateway.core.clock import Clock, Moment, wait_for_event
from gateway.core.errors import StoreError
from gateway.core.telemetry import Metrics
from gateway.core.tracing import SpanOfPoll, Tracing
from gateway.loops.expiry import Expiry
from gateway.loops.inflight import InFlight
from gateway.loops.leading import Lease, always
from gateway.loops.pollresults import PollResults
from gateway.loops.pollshares import PollShares, least_failed
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import TaskQueue
from gateway.upstream.answer import UNREADABLE, PollKind, PollResult
from gateway.upstream.api import Upstream
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable
from gateway.upstream.troubled import Troubled

_log = structlog.get_logger()

MOST_POLLS = 128
"""Polls of one upstream that are under way at once; of one client's tasks, half of that."""
_FAILED_PAUSE_S = 1.0
"""How long a task stays claimed whose poll could not be stored, or met a defect."""
_NEW_PAUSE_S = 5.0
"""So long after its last answer a refused key's new task is asked about: it may be the first that is the key's own …"""
_NEW_LOOK_S = 1.0
"""… and so long after the last look another one is made: when the loop is woken, or else with its heartbeat."""


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
        lease: Lease | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """``lease``: when it leads; None: always. ``tracing``: makes spans; None: nothing does."""
        self.name = f"poller-{upstream.name}"
        self.lease = always(clock) if lease is None else lease
        self._tasks = tasks
        self._upstream = upstream
        self._key = key
        self._timetable = timetable
        self._clock = clock
        self._tracing = tracing
        self._polls = {kind: metrics.polls.labels(upstream.name, kind) for kind in (*PollKind, UNREADABLE)}
        self._poll_seconds = metrics.poll_seconds.labels(upstream.name)
        self._shares = PollShares(tasks, upstream.name)
        self._wake = tasks.due(upstream.name)
        self._in_flight = InFlight(MOST_POLLS, self._wake)
        self._troubled = Troubled(key)
        self._results = PollResults(tasks, upstream, timetable, self._troubled, clock, metrics, tracing)
        self._expiry = Expiry(tasks, upstream, self._troubled, clock, self.lease, metrics, tracing)
        self._term = 0  # the one of this round
        self._probing = False
        self._drains = asyncio.Event()
        self._new_from = clock.monotonic()  # when to look for a new task in a refused key's pause

    @property
    def in_flight(self) -> int:
        """How many polls are under way."""
        return self._in_flight.count

    @property
    def refused(self) -> bool:
        """Whether the upstream refuses the key, as has been found out here, or was heard."""
        return self._key.refused

    def hear(self, *, refused: bool) -> None:
        """Hear whether the upstream refuses the key, as the replica that leads has found out; not while this does."""
        self._key.hear(refused=refused)

    @property
    def refuses_tasks(self) -> bool:
        """Whether the upstream refuses tasks, and not the key."""
        return self._troubled.refuses_tasks(self._clock.monotonic())

    @property
    def makes_no_sense(self) -> bool:
        """Whether what answers for the upstream is not its API, or denies tasks that it has told of."""
        return self._troubled.makes_no_sense(self._clock.monotonic())

    @property
    def gives_no_answer(self) -> bool:
        """Whether the upstream cannot be reached, is closed, or answers nothing but errors of its own."""
        return self._troubled.gives_no_answer(self._clock.monotonic())

    async def prepare(self) -> None:
        """Take up what an earlier process learned and spent. Raises StoreError."""
        await self._key.restore()
        await self._timetable.restore()

    async def gained(self, epoch: int) -> None:
        """Take up what the replica that led before has learned, and all that is due. Raises StoreError."""
        await self._timetable.restore()
        await self._tasks.gained(self._upstream.name, epoch)
        self._key.take_over(self._clock.monotonic())
        self._expiry.begin()
        self._wake.set()

    def lost(self) -> None:
        """Leave all of it to the replica that leads from now on."""
        self._tasks.lost(self._upstream.name)
        self._key.left()
        self._troubled.clear()

    @property
    def idle(self) -> bool:
        """Whether no poll is under way or to be stored, and nothing is to be kept of those that were."""
        return self._in_flight.idle and not self._drains.is_set()

    async def run_once(self) -> float:
        """Abandon what has expired and start the polls that are due; return the seconds until more will be."""
        term = self.lease.current
        if term is None:
            self._key.queries.polls_waiting = False
            await self._timetable.follow()
            return HEARTBEAT_S
        self._term = term
        await self._timetable.save()
        now = self._clock.now()
        queries = self._key.queries
        wait_s = min(await self._expiry.run(now, term), max((await self._tasks.unwatch(now) - now) / 1000, 0.001))
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
            await queries.look()
            if refused:
                wait_s = min(wait_s, await self._ask_about_new(now))
            wait_s = min(wait_s, queries.looks_in_s)
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
        self._drains.set()
        try:
            await self._in_flight.drain(timeout_s)
            if self.lease.holds(self._term):
                with suppress(StoreError):  # the store tells of itself; what is not kept is learned anew
                    await self._timetable.save(now=True)
        finally:
            self._drains.clear()

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
        return _NEW_LOOK_S if claims else HEARTBEAT_S  # whoever registers one wakes the loop

    async def _start_polls(self, claims: Sequence[DueTask], now: int) -> int:
        """Ask about these tasks, in places taken; return how many that took. Raises StoreError."""
        granted = 0
        try:
            granted = await self._key.queries.reserve(len(claims))
            if not self.lease.holds(self._term):
                granted = 0  # they may have been claimed in the next term, of which their polls would know nothing
        finally:
            await self._tasks.release(claims[granted:])
        for claim in claims[:granted]:
            self._timetable.polled(claim, now)
            self._in_flight.start(self._poll(claim, self._term), f"poll-{claim.task_id}")
        return granted

    async def _poll(self, claim: DueTask, term: int) -> None:
        if not self.lease.holds(term):
            self._key.queries.give_back(1)
            return
        try:
            try:
                asked = Moment.of(self._clock)
                result = await self._query(claim.task_id, claim, again=self._troubled.is_refused(claim.seq))
                if not self.lease.holds(term):
                    return  # another asks about it by now
                next_poll_at = await self._results.store(claim, result, asked, partial(self._pause, claim, term))
                if next_poll_at is not None and self._shares.is_news(next_poll_at):
                    self._wake.set()
            except StoreError as exc:
                # Nothing is lost: the task stays due and is polled again.
                _log.warning("poll.not_stored", upstream=self._upstream.name, task_id=claim.task_id, error=exc.message)
                await wait_for_event(self._drains, _FAILED_PAUSE_S)
                await self._release(claim, term)
            except Exception:
                # A defect: it must not use up the key's budget in a tight circle.
                await wait_for_event(self._drains, _FAILED_PAUSE_S)
                raise
        except BaseException:
            await self._release(claim, term)
            raise
        finally:
            self._shares.aside.pop(claim.seq, None)
            if self._in_flight.count >= self._in_flight.free or self._key.refusal is not None:
                self._in_flight.wake_soon()  # somebody may wait for this place; of a refused key, for this poll's end

    async def _pause(self, claim: DueTask, term: int, pause_s: float) -> bool:
        """Leave alone for so long what others have locked; return whether to try again then.

        Its place is another poll's meanwhile, and the stop does not wait for it.
        """
        if self._in_flight.step_aside():
            self._shares.aside[claim.seq] = claim.watchers
        await wait_for_event(self._drains, pause_s)
        return self.lease.holds(term) and not self._drains.is_set()

    async def _release(self, claim: DueTask, term: int) -> None:
        if self.lease.holds(term):  # else it has ended, and the task may have been claimed again
            await self._tasks.release([claim])

    async def _start_probe(self) -> int:
        """Ask about the key itself, in one of the places taken; return how many that took. Raises StoreError."""
        if not await self._key.queries.reserve(1):
            return 0
        self._probing = True
        self._in_flight.start(self._probe(self._key.to_ask), "poll-probe")
        return 1

    async def _probe(self, task_id: str) -> None:
        try:
            await self._query(task_id, probe=True)
        except Exception:
            await wait_for_event(self._drains, _FAILED_PAUSE_S)  # as with a task's poll
            raise
        finally:
            self._probing = False

    async def _query(
        self, task_id: str, claim: DueTask | None = None, *, again: bool = False, probe: bool = False
    ) -> PollResult:
        watchers = "" if claim is None else claim.watchers
        # The next place may have its time once it is free.
        with self._key.queries.sending(freed=self._in_flight.wake_soon) as answered:
            span = None if self._tracing is None else await self._span(self._tracing, task_id, claim)
            started = self._clock.monotonic()
            if span is None:
                result = await self._upstream.poll(task_id, watchers, answered=answered)
            else:
                with span:
                    result = await self._upstream.poll(task_id, watchers, span, answered)
                    span.came_to(result.label, failed=result.error is not None)
        ended = self._clock.monotonic()
        self._new_from = ended + _NEW_PAUSE_S
        self._poll_seconds.observe(ended - started)
        self._polls[result.label].inc()
        self._key.judge(task_id, started, result, again=again, probe=probe)
        self._timetable.limit_budget(self._key.queries.rate_per_s)
        return result

    async def _span(self, tracing: Tracing, task_id: str, claim: DueTask | None) -> SpanOfPoll:
        traces: Sequence[str] = ()
        if claim is not None:
            with suppress(StoreError):  # of which its result tells
                traces = await self._tasks.traces(claim.seq)
        return tracing.poll(self._upstream.poll_call(task_id), self._upstream.name, task_id, traces)
