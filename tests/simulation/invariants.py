"""What must hold after every transaction, at every poll and attempt, and at the end of a simulated run.

Owns when which law is looked at; the laws themselves stand in ``callbacklaws``, ``tasklaws``, ``requestlaws``,
``readlaws`` and ``eventlaws``. They are read off the states' own comments in ``core.model`` and the manual, and look
at the database, the gateway's clock and the world, never at its memory; and at readiness' word on the key.
"""

import sqlite3
from collections.abc import Callable

import httpx

from gateway.core.clock import Clock
from gateway.core.model import CallbackState
from tests.attemptlog import stay
from tests.simulation.asks import Asks
from tests.simulation.callbacklaws import SCHEDULE_S, CallbackLaws
from tests.simulation.eventlaws import EventLaws
from tests.simulation.ledger import Ledger, Rows
from tests.simulation.readlaws import ReadLaws
from tests.simulation.requestlaws import RequestLaws
from tests.simulation.tasklaws import TaskLaws
from tests.simulation.telling import Look
from tests.simulation.world import Attempt, Poll, World

__all__ = ["Invariants"]

FOLLOWS_WITHIN_S = 90.0
"""So long it may take until the gateway notices that its clock was set: the disk fails, rounds have begun."""
UNNOTICED_MS = 10_500
"""By so much it may be set at once without that."""


class Invariants:
    """The laws over one run, across its kills and restarts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = Ledger()
        self.asks = Asks()
        self._callbacks = CallbackLaws(world, self._ledger, self.asks)
        self._tasks = TaskLaws(world, self._ledger)
        self._requests = RequestLaws(world, self._ledger)
        self.reads = ReadLaws(world, self._ledger)
        self._events = EventLaws(self._ledger)
        self._astray_since_s: float | None = None
        self.looks = 0
        self.broken: AssertionError | None = None
        """The first law that was broken: inside the gateway, where it shows, an exception is only one more fault."""
        world.at_attempt = self._attempted
        world.at_poll = self._polled
        world.at_answer = self._answered

    def watch(self, db: sqlite3.Connection, clock: Clock, began_s: float, key_refused: Callable[[], bool]) -> None:
        """Look at this life's connection, clock and readiness from now on; it began then, on the steady clock."""
        self._callbacks.began_s = self._tasks.began_s = began_s
        self._requests.begin_life(key_refused)
        self.asks.forget()
        self._ledger.watch(db, clock)
        if any(at_s > began_s - 90 for at_s in self._world.steps):
            self._requests.forget_before_s = began_s
        self.look()

    def look(self) -> None:
        """Compare the database with what it was before the last transaction."""
        self._hold(self._look)

    def clock_was_set(self) -> None:
        """Notice what the gateway's clock makes of it, before more happens."""
        self._hold(self._ledger.note_clock)

    @property
    def rows(self) -> Rows:
        """What stands in the database."""
        return self._ledger.rows

    def drain(self) -> None:
        """From now on nothing more may begin."""
        self._requests.draining_since_s = self._ledger.now_s

    def killed(self) -> None:
        """Look away: the process is gone."""
        self._ledger.close()

    def stopped(self, *, disk_was_well: bool) -> None:
        """Nothing is left behind by a gateway that was stopped: what it cut short is recorded as well."""
        self._ledger.close()
        for webhook_id, attempts in self._world.attempts.items():
            for one in attempts[-1:]:
                if one.life == self._world.life and disk_was_well:
                    assert one.ended_s is not None, (webhook_id, one, "still runs")
                    assert one.recorded or one.not_made, (webhook_id, one, "was not recorded at the end")

    def hold(self, held: bool, what: object) -> None:
        """Note whether a law that somebody else looks at was held."""

        def law() -> None:
            assert held, what

        self._hold(law)

    def _hold(self, law: Callable[[], None]) -> None:
        try:
            law()
        except AssertionError as error:
            self.broken = self.broken or error

    def _look(self) -> None:
        ledger = self._ledger
        if not ledger.read():
            return
        self.looks += 1
        ledger.note_clock()
        self._follows_the_wall_clock()
        if ledger.followed():
            return
        before, after = ledger.before, ledger.rows
        assert before.callbacks.keys() <= after.callbacks.keys(), "callbacks were forgotten"
        assert before.tasks.keys() <= after.tasks.keys(), "tasks were forgotten"
        for task_id, task in after.tasks.items():
            if task_id in self._world.read:
                self.reads.changed(before.tasks.get(task_id), task)
            elif task_id not in before.tasks:
                self._tasks.created(task)
            elif task != before.tasks[task_id]:
                self._tasks.changed(before.tasks[task_id], task)
        ledger.remember()
        for callback_id, row in after.callbacks.items():
            if callback_id not in before.callbacks:
                self._callbacks.created(row)
            elif row != before.callbacks[callback_id]:
                self._callbacks.changed(before.callbacks[callback_id], row)
        self._tasks.standing()
        self._requests.standing()
        self._events.look()

    def _follows_the_wall_clock(self) -> None:
        if abs(self._world.clock.now() - self._ledger.now) <= UNNOTICED_MS:
            self._astray_since_s = None
            return
        if self._astray_since_s is None:
            self._astray_since_s = self._ledger.now_s
        assert self._ledger.now_s < self._astray_since_s + FOLLOWS_WITHIN_S, "does not notice that the clock was set"

    def told(self, look: Look, response: httpx.Response) -> None:
        """Look at what a reader was told."""
        self._hold(lambda: self.reads.answer(look, response))

    def _attempted(self, webhook_id: str, attempt: Attempt, request: httpx.Request) -> None:
        def law() -> None:
            self._ledger.note_clock()
            self._requests.attempted(webhook_id, attempt, request)

        self._hold(law)

    def _polled(self, task_id: str, poll: Poll) -> None:
        def law() -> None:
            self._ledger.note_clock()
            self._requests.polled(task_id, poll)

        self._hold(law)

    def _answered(self, task_id: str, poll: Poll) -> None:
        if poll.life == self._world.life:
            self._hold(lambda: self._requests.key.answered(task_id, poll))

    def at_the_end(self, acknowledged: set[str]) -> None:
        """Nothing is lost: who got a 201 got its webhook, or it is dead for a reason, or was cancelled."""
        self.look()
        self._hold(self.reads.at_the_end)
        if self.broken is not None:
            raise self.broken
        rows = self._ledger.rows
        assert acknowledged <= rows.callbacks.keys(), "a 201 for what is not stored"
        for callback_id, row in rows.callbacks.items():
            kept, seen = self._ledger.all_attempts(callback_id), self._world.attempts[callback_id]
            came = self._ledger.attempts[callback_id]
            assert [one.number for one in came] == list(range(1, row.attempts + 1)), (row, came)
            left = stay([(one.number, one.result) for one in came])
            assert kept == [one for one in came if one.number in left], (callback_id, kept, "its attempts' log changed")
            assert sum(one.recorded for one in seen) == row.attempts, (row, seen, "attempts that nobody saw")
            if row.state == CallbackState.DELIVERED:
                assert any(one.said == 204 and one.recorded for one in seen), (row, "delivered to nobody")
            elif row.state == CallbackState.DEAD:
                last = [one for one in seen if one.recorded][-1]
                assert row.used == len(SCHEDULE_S) or last.status == 410, (row, last, "dead too early")
            else:
                assert row.state == CallbackState.CANCELLED, row
        assert self._ledger.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert self._ledger.db.execute("PRAGMA foreign_key_check").fetchall() == []
