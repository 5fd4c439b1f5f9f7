"""What may leave the gateway, and when: the laws of a poll's and of an attempt's beginning.

Looks at what is stored, and at what the world has answered so far.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable

import httpx

from gateway.core.model import CallbackState, TaskState
from tests.life import SECRET
from tests.simulation.callbacklaws import SCHEDULE_S
from tests.simulation.keylaws import KeyLaws
from tests.simulation.ledger import Ledger
from tests.simulation.world import Attempt, Poll, World

__all__ = ["RequestLaws"]

WINDOWS = ((2, 1.0), (60, 60.0))
TOLD = (20, 60.0)
"""The limit that a throttling upstream names."""
LATE_MS = 20_000
"""A task is polled within so long after it is due, where nothing stands in the way …"""
QUIET_S = 120.0
"""… and has not stood there for so long."""
OPENS_AFTER = 5
NOT_MADE_PAUSE_S = 5.0
NEVER_S = -1e9
SKEW_S = 0.002


class RequestLaws:
    """The laws, over one run."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world = world
        self._ledger = ledger
        self._polls: list[Poll] = []
        self.key = KeyLaws()
        self.forget_before_s = NEVER_S
        """What was spent before this is not known any more: the clock was set while the gateway was down."""
        self.draining_since_s: float | None = None

    def begin_life(self, key_refused: Callable[[], bool]) -> None:
        """Know that another gateway asks from now on, which has yet to learn of the key."""
        self.draining_since_s, self.key = None, KeyLaws(key_refused)

    # Polls

    def polled(self, task_id: str, poll: Poll) -> None:
        """Look at a poll that begins."""
        if not poll.forwarded:
            self._not_draining(poll.begun_s)
        mine = [one for one in self._polls if one.life == self._world.life]
        if not poll.probes and not poll.forwarded:
            poll.failures = self._due(task_id)
        self._within_limits(poll, mine)
        self.key.asked(task_id, poll)
        self._polls.append(poll)

    def _due(self, task_id: str) -> set[int]:
        """Return the failures in a row that the task may have been claimed with."""
        under_way = [one for one in self._world.polls[task_id] if one.ended_s is None and one.life == self._world.life]
        assert not under_way, (task_id, under_way, "is polled twice at once")
        now = self._ledger.now
        versions = self._ledger.task_versions(task_id)
        due = [
            row for row in versions if row.next_poll_at is not None and self._ledger.within(row.next_poll_at, 0, now)
        ]
        assert any(row.state == TaskState.WAITING for row in due), (task_id, versions, now, "is not to be polled now")
        return {row.failures for row in due}

    def _within_limits(self, poll: Poll, mine: list[Poll]) -> None:
        windows = list(WINDOWS)
        if any(one.kind == "throttled" and one.ended_s is not None for one in mine):
            windows.append(TOLD)
        for limit, length_s in windows:
            # One counts from when it was sent until a window's length after its answer.
            counts = [
                one
                for one in self._polls
                if one.begun_s >= self.forget_before_s
                and (one.ended_s is None or one.ended_s + length_s > poll.begun_s + SKEW_S)
                and (one.ended_s is not None or one.life == self._world.life)
            ]
            assert len(counts) < limit, (poll, limit, length_s, len(counts), "exceeds the key's limit")

    def standing(self) -> None:
        """Whatever is due is polled, however many others are refused: unless the key is, or the budget is used up."""
        now, now_s = self._ledger.now, self._ledger.now_s
        self.key.look(now_s)
        recent = [one for one in self._polls if one.begun_s > now_s - QUIET_S and one.life == self._world.life]
        at_pace = all(one.ended_s is not None and one.ended_s - one.begun_s <= 1.0 for one in recent)
        quiet_since_s = max(self.key.fine_since_s, self._world.disk_broken_until_s, *self._world.steps, NEVER_S)
        minute = sum(one.begun_s > now_s - 60 for one in recent)
        told = any(one.kind == "throttled" for one in self._polls if one.life == self._world.life)
        undisturbed = not self._ledger.lag_ms and self.draining_since_s is None
        self.key.standing(now_s, quiet=undisturbed and at_pace and now_s >= quiet_since_s + QUIET_S)
        if self.key.refused_s is not None or not undisturbed:
            return
        if not at_pace or now_s < quiet_since_s + QUIET_S or minute > (10 if told else 40):
            return
        began_s = min((one.begun_s for one in recent), default=now_s)
        if began_s > now_s - 60:
            return
        for task in self._ledger.rows.tasks.values():
            due_at = task.next_poll_at
            assert due_at is None or due_at > now - LATE_MS, (task, now, "is due, and nobody asks about it")

    # Attempts

    def attempted(self, webhook_id: str, attempt: Attempt, request: httpx.Request) -> None:
        """Look at an attempt that begins, and note what it may have been claimed with."""
        self._not_draining(attempt.begun_s)
        self._follows_the_one_before(webhook_id, attempt)
        now = self._ledger.now
        # A claim and its attempt share an instant: another write may come between.
        versions = self._ledger.callback_versions(webhook_id, moment_s=0.0)
        assert versions, (webhook_id, "an attempt for what is not stored")
        due = [
            row
            for row in versions
            if row.state == CallbackState.PENDING
            and row.next_attempt_at is not None
            and self._ledger.within(row.next_attempt_at, 0, now)
        ]
        assert due, (webhook_id, versions, now, "is not to be attempted now")
        attempt.client = due[-1].client
        attempt.claims = {(row.redeliveries, row.used) for row in due}
        assert all(row.used < len(SCHEDULE_S) for row in due), (due, "its budget is spent")
        assert request.content == due[-1].body, (webhook_id, "sent another body than the one that is stored")
        self._is_signed(request, now)
        self._leaves_the_unwell_alone(attempt)

    def _follows_the_one_before(self, webhook_id: str, attempt: Attempt) -> None:
        before = self._world.attempts[webhook_id][-1:]
        for one in before:
            if one.life != attempt.life:
                continue
            assert one.ended_s is not None, (webhook_id, "two attempts at once")
            assert one.recorded or one.not_made, (webhook_id, one, "sent again before it was recorded")
            pause_s = NOT_MADE_PAUSE_S if one.not_made else 0.0
            assert attempt.begun_s >= one.ended_s + pause_s - SKEW_S, (webhook_id, one, "sent again at once")

    def _is_signed(self, request: httpx.Request, now: int) -> None:
        webhook_id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        assert int(timestamp) in (now // 1000, (now - 1) // 1000), (webhook_id, timestamp, now)
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signed = f"{webhook_id}.{timestamp}.".encode() + request.content
        signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert request.headers["webhook-signature"] == f"v1,{signature}", (webhook_id, "its signature is wrong")

    def _leaves_the_unwell_alone(self, attempt: Attempt) -> None:
        """A receiver that failed five times in a row gets one attempt at a time, of each client's webhooks."""
        to_it = [
            one
            for attempts in self._world.attempts.values()
            for one in attempts
            if (one.receiver, one.client, one.life) == (attempt.receiver, attempt.client, attempt.life)
        ]
        under_way = [one for one in to_it if one.ended_s is None]
        ended = sorted((one for one in to_it if one.ended_s is not None), key=lambda one: one.ended_s or 0.0)
        failures = 0
        for one in reversed(ended):
            if one.failed is False:
                break
            settled = one.recorded and (one.ended_s or 0.0) < attempt.begun_s - 1.0
            failures += one.failed is True and not one.not_made and settled
        assert failures < OPENS_AFTER or not under_way, (
            attempt,
            under_way,
            "knocks at an unwell receiver's door twice",
        )

    def _not_draining(self, begun_s: float) -> None:
        # What had been claimed by then begins in the same instant.
        assert self.draining_since_s is None or begun_s <= self.draining_since_s, "begins more while it is to end"
