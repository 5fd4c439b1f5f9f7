"""What one transaction may make of a task: the laws of its states, its polls and its outcome.

As with callbacks, each change is worked out anew from what the upstream truly answered.
"""

import json

from gateway.core.model import CallbackState, TaskState
from tests.simulation.callbacklaws import OUT_OF_TIME, QUEUE_GRACE_MS, RESTART_GRACE_MS, told_in
from tests.simulation.ledger import TOLERANCE_MS, CallbackRow, Ledger, TaskRow
from tests.simulation.world import Poll, World

__all__ = ["POLL_MAX_S", "POLL_MIN_S", "TaskLaws"]

POLL_MIN_S, POLL_MAX_S = 1.0, 30.0
SELDOM_MAX_S = 300.0
JITTER = 1.1
NOT_FOUND_AFTER_S, NOT_FOUND_AFTER_POLLS = 120.0, 5
ASKED_WITHIN_MS = 15_000
LATE_MS = 60_000
"""So much later than it should a callback may be given up: the disk fails, loops pause."""


class TaskLaws:
    """The laws, over one run."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world = world
        self._ledger = ledger
        self.began_s = 0.0
        """When this life did, on the steady clock."""

    def created(self, row: TaskRow) -> None:
        """Look at a task that was not there before."""
        assert (row.state, row.polls, row.failures, row.last_polled_at) == (TaskState.WAITING, 0, 0, None), row
        assert row.next_poll_at is None or row.next_poll_at >= row.created_at, row

    def changed(self, before: TaskRow, after: TaskRow) -> None:
        """Compare what a transaction made of a task with what it was to be."""
        polls = after.polls - before.polls
        assert polls in (0, 1), (before, after, "counted other polls than were made")
        poll = self._recorded(after.task_id, before) if polls else None
        if after.created_at != before.created_at:
            self._revived(before, after)
            return
        assert before.state == TaskState.WAITING, (before, after, "has its last word")
        if after.state != TaskState.WAITING:
            self._settled(before, after, poll)
        elif poll is not None:
            self._rescheduled(before, after, poll)
        else:
            changed = {name for name in TaskRow._fields if getattr(before, name) != getattr(after, name)}
            assert changed <= {"next_poll_at"}, (before, after, "changed by itself")
            if after.next_poll_at is not None:
                self._asked_now(before, after)

    def _recorded(self, task_id: str, before: TaskRow) -> Poll:
        ended = [poll for poll in self._world.polls[task_id] if poll.ended_s is not None]
        assert ended, (before, "was polled, and nobody saw it")
        poll = ended[-1]
        assert not poll.recorded, (before, poll, "was recorded twice")
        assert poll.life == self._world.life, (before, poll, "was made by an earlier life")
        poll.recorded = True
        return poll

    def _revived(self, before: TaskRow, after: TaskRow) -> None:
        new = self._ledger.rows.callbacks.keys() - self._ledger.before.callbacks.keys()
        callbacks = [self._ledger.rows.callbacks[key] for key in new]
        joined = [c for c in callbacks if c.task_id == after.task_id]
        assert joined, (before, after, "came back to life by itself")
        assert before.state in (TaskState.WAITING, TaskState.ABANDONED), (before, after, "has its last word")
        assert (after.state, after.failures) == (TaskState.WAITING, 0), (before, after)
        assert after.created_at in {c.created_at for c in joined}, (after, joined)

    def _settled(self, before: TaskRow, after: TaskRow, poll: Poll | None) -> None:
        assert after.outcome is not None
        assert after.settled_at is not None
        assert after.failures == 0, after
        told = json.loads(after.outcome)
        assert (told["taskId"], told["state"]) == (after.task_id, after.state), (after, told)
        if after.state == TaskState.ABANDONED:
            self._given_up(before, after, poll, told["reason"])
            return
        assert poll is not None, (after, "ended, and the upstream has not said so")
        assert (poll.kind, poll.state) == ("ended", after.state), (after, poll)
        truth = self._world.told(after.task_id, after.state)
        result = None if truth["resultJson"] is None else json.loads(truth["resultJson"])
        assert told["result"] == result, (after, told)
        assert told["param"] == json.loads(truth["param"]), (after, told)
        assert told["failMsg"] == truth.get("failMsg"), (after, told)
        assert self._ledger.same(after.last_polled_at, poll.ended_at), (after, poll)
        assert self._ledger.same(after.settled_at, poll.ended_at), (after, poll)
        assert after.last_error is None, after

    def _given_up(self, before: TaskRow, after: TaskRow, poll: Poll | None, reason: str) -> None:
        if reason in OUT_OF_TIME:
            answered = [one for one in self._world.polls[after.task_id] if one.ended_s is not None]
            refused = bool(answered) and answered[-1].kind == "refused" and answered[-1].life == self._world.life
            assert refused or reason != "refused", (after, answered[-1:], "was not refused")
            garbage = any(one.kind == "nothing" for one in answered)
            assert garbage or reason != "unreadable", (before, after, "could be read")
            # Of which callbacks, and when, is for their own laws.
            assert poll is None, (before, after, poll)
            waited = self._ledger.before.waiting(after.task_id)
            now = [self._ledger.rows.callbacks[c.id] for c in waited]
            assert any(c.body is not None for c in now), (before, after, "was given up for nobody")
            assert after.last_polled_at == before.last_polled_at, (before, after)
            return
        assert reason == "not_found", (after, reason)
        assert poll is not None, (after, "is unknown, and nobody has asked")
        assert not self._told_of(after.task_id), (before, after, "is unknown, and was told of")
        since_s, polls = self._not_known(after.task_id)
        assert polls >= NOT_FOUND_AFTER_POLLS, (after, polls, "was given up after a few polls")
        assert self._ledger.now_s - since_s >= NOT_FOUND_AFTER_S, (after, since_s, "was given up soon")
        assert after.settled_at is not None
        assert after.settled_at - before.created_at >= NOT_FOUND_AFTER_S * 1000 - TOLERANCE_MS, (before, after)

    def _not_known(self, task_id: str) -> tuple[float, int]:
        """Return since when, and how often in a row, the upstream has said in this life that it knows no such task."""
        since_s, count = self._ledger.now_s, 0
        for poll in reversed(self._world.polls[task_id]):
            if poll.life != self._world.life or (poll.ended_s is not None and poll.kind != "not known"):
                break
            if poll.ended_s is not None:
                since_s, count = poll.ended_s, count + 1
        return since_s, count

    def _timed_out(self, task_id: str) -> bool:
        """Whether it was given up for one of its callbacks: then it is counted anew how often it is not known."""
        its = [c for c in self._ledger.rows.callbacks.values() if c.task_id == task_id]
        return any(c.body is not None and told_in(c)[1] in OUT_OF_TIME for c in its)

    def _rescheduled(self, before: TaskRow, after: TaskRow, poll: Poll) -> None:
        assert poll.kind != "ended", (before, after, poll, "has ended, and is asked about again")
        running = poll.kind == "running"
        assert after.failures == (0 if running else before.failures + 1), (before, after, poll)
        assert (after.last_error is None) == running, (before, after, poll)
        assert self._ledger.same(after.last_polled_at, poll.ended_at), (after, poll)
        new = not self._told_of(after.task_id) and not self._nonsense()
        if poll.kind == "not known" and new and not poll.saw_a_step and not self._timed_out(after.task_id):
            since_s, polls = self._not_known(after.task_id)
            for_ms = min((self._ledger.now_s - since_s) * 1000, poll.ended_at - before.created_at)
            late = polls > NOT_FOUND_AFTER_POLLS and for_ms > NOT_FOUND_AFTER_S * 1000 + 6_000
            assert not late, (after, since_s, polls, "is unknown, and is not given up")
        if after.next_poll_at is None or before.next_poll_at is None:
            assert after.next_poll_at is None, (before, after, "is polled for nobody")
            return
        low_s, high_s = POLL_MIN_S, POLL_MAX_S
        if not running:
            # As it was claimed: it may have been given up and begun anew meanwhile.
            low_s, high_s = (min(POLL_MIN_S * 2 ** (of(poll.failures) + 1), POLL_MAX_S) for of in (min, max))
            low_s = max(low_s, poll.retry_after_s)
            high_s = max(min(high_s * JITTER, POLL_MAX_S), poll.retry_after_s)
            if self._refused_before(after.task_id, poll) or self._denied(after.task_id):
                high_s = max(high_s, min(POLL_MIN_S * 2 ** (max(poll.failures) + 1) * JITTER, SELDOM_MAX_S))
        if not self._ledger.within(after.next_poll_at, poll.ended_at + low_s * 1000, poll.ended_at + high_s * 1000):
            self._asked_now(before, after)

    def _refused_before(self, task_id: str, poll: Poll) -> bool:
        """Whether this poll is refused, and one before it was: then its task is asked about ever more seldom."""
        polls = [one for one in self._world.polls[task_id] if one.life == poll.life and one.kind == "refused"]
        return poll.kind == "refused" and len(polls) > 1

    def _told_of(self, task_id: str) -> bool:
        """Whether the upstream has once said that it runs, in whichever life, and the store has that."""
        if task_id in self._world.read:  # what becomes of its polls is not looked at
            return any(one.kind == "running" for one in (*self._world.polls[task_id], *self._world.forwarded[task_id]))
        return any(poll.kind == "running" and poll.recorded for poll in self._world.polls[task_id])

    def _denied(self, task_id: str) -> bool:
        """Whether the upstream has said in this life that it knows no such task, after it had told of it."""
        polls = [poll for poll in self._world.polls[task_id] if poll.life == self._world.life]
        return self._told_of(task_id) and any(poll.kind == "not known" for poll in polls)

    def _nonsense(self) -> bool:
        """Whether in this life there were answers that made no sense: then no task need be given up as unknown."""
        polls = [poll for polls in self._world.polls.values() for poll in polls if poll.life == self._world.life]
        return any(poll.kind == "nothing" for poll in polls) or any(map(self._denied, [*self._world.polls]))

    def _asked_now(self, before: TaskRow, after: TaskRow) -> None:
        """Somebody's time has passed: a last poll is made at once."""
        assert before.next_poll_at is not None, (before, after, "is polled again for nobody")
        assert after.next_poll_at is not None
        assert after.next_poll_at <= max(before.next_poll_at, self._ledger.now), (before, after, "is put off")
        if after.next_poll_at == before.next_poll_at >= self._world.polls[after.task_id][-1].begun_at:
            return  # somebody had it polled at once while that poll was under way
        waiting = self._ledger.before.waiting(after.task_id)
        passed = [c for c in waiting if self._ledger.within(c.expires_at, 0, self._ledger.now)]
        assert passed, (before, after, "is polled earlier for nobody")
        assert self._ledger.within(after.next_poll_at, self._ledger.now - 2_000, self._ledger.now), (before, after)

    def standing(self) -> None:
        """Look at what holds after every transaction: who waits for a task, and whether it is asked about."""
        waiting: dict[str, list[CallbackRow]] = {}
        for row in self._ledger.rows.callbacks.values():
            if row.state == CallbackState.WAITING:
                waiting.setdefault(row.task_id, []).append(row)
        for task in self._ledger.rows.tasks.values():
            if task.task_id in self._world.read:
                continue
            waits = waiting.get(task.task_id, [])
            assert not waits or task.state == TaskState.WAITING, (task, waits, "waits for what has ended")
            assert bool(waits) == (task.next_poll_at is not None), (task, waits, "is polled for nobody, or not at all")
            if waits and not self._ledger.lag_ms:
                self._given_up_in_time(waits)
                self._asked_once_more(task, waits)

    def _given_up_in_time(self, waits: list[CallbackRow]) -> None:
        started_at = self._ledger.now - (self._ledger.now_s - self.began_s) * 1000
        task_id = waits[0].task_id
        siblings = [c.expires_at for c in self._ledger.rows.callbacks.values() if c.task_id == task_id]
        expires_at = min(c.expires_at for c in waits)
        until = max(expires_at, started_at) + QUEUE_GRACE_MS
        if min(siblings) <= started_at + TOLERANCE_MS:
            # The others wait with those that passed while nothing ran.
            until = max(until, started_at + RESTART_GRACE_MS)
        assert self._ledger.now < until + LATE_MS, (waits, "is never given up")

    def _asked_once_more(self, task: TaskRow, waits: list[CallbackRow]) -> None:
        """Once the time of the only callback has passed, its task is asked about at once."""
        now, now_s = self._ledger.now, self._ledger.now_s
        alone = sum(c.task_id == task.task_id for c in self._ledger.rows.callbacks.values()) == 1
        if not alone or not self._world.disk_is_well or now_s < self.began_s + ASKED_WITHIN_MS / 1000:
            return
        (row,) = waits
        assert task.next_poll_at is not None
        late = min(now, task.next_poll_at) > row.expires_at + ASKED_WITHIN_MS
        asked = task.last_polled_at is not None and task.last_polled_at >= row.expires_at
        asking = any(poll.ended_s is None and poll.life == self._world.life for poll in self._world.polls[task.task_id])
        assert asked or asking or not late, (task, row, now, "is not asked about a last time")
