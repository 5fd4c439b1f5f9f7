"""What must hold after every transaction, at every attempt, and at the end of a simulated run.

Owns the laws, read off the states' own comments in ``gateway.model``; looks at the database and the world, and never at
the gateway's memory.
"""

import sqlite3
from collections import Counter
from typing import Any

from gateway.model import CallbackState, TaskState
from tests.simulation.world import World, told

__all__ = ["Invariants"]

MOVES = {
    CallbackState.WAITING: {CallbackState.PENDING, CallbackState.CANCELLED},
    CallbackState.PENDING: {CallbackState.DELIVERED, CallbackState.DEAD, CallbackState.CANCELLED},
    CallbackState.DELIVERED: {CallbackState.PENDING},
    CallbackState.DEAD: {CallbackState.PENDING},
    CallbackState.CANCELLED: set(),
}
TASK_MOVES = {
    TaskState.WAITING: {TaskState.SUCCESS, TaskState.FAIL, TaskState.ABANDONED},
    TaskState.SUCCESS: set(),
    TaskState.FAIL: set(),
    TaskState.ABANDONED: {TaskState.WAITING},
}
CALLBACKS = """
SELECT c.id, c.state, c.body, c.attempts, c.budget_used, c.redeliveries, c.next_attempt_at, c.expires_at, t.task_id
FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq
"""


class Invariants:
    """The laws over one run, across its kills and restarts."""

    def __init__(self, world: World, budget: int) -> None:
        self._world = world
        self._budget = budget
        self._db: sqlite3.Connection | None = None
        self._changes = -1
        self._callbacks: dict[str, Any] = {}
        self._tasks: dict[str, tuple[Any, ...]] = {}
        self.looks = 0
        self.excused: Counter[str] = Counter()
        """How often each webhook may have been taken once more: a kill came between its 2xx and the record."""
        self.broken: AssertionError | None = None
        """The first law that was broken: inside the gateway, where it shows, an exception is only one more fault."""
        world.at_attempt = self._attempted

    def watch(self, db: sqlite3.Connection) -> None:
        """Look at this connection from now on."""
        self._db, self._changes = db, -1
        self.look()

    def look(self) -> None:
        """Compare the database with what it was after the transaction before."""
        if self._db is None or self._db.total_changes == self._changes:
            return
        self._changes = self._db.total_changes
        self.looks += 1
        try:
            self._look(self._db)
        except AssertionError as error:
            self.broken = self.broken or error

    def _attempted(self, webhook_id: str, body: bytes) -> None:
        try:
            self._at_attempt(webhook_id, body)
        except AssertionError as error:
            self.broken = self.broken or error

    def _look(self, db: sqlite3.Connection) -> None:
        for row in db.execute(CALLBACKS).fetchall():
            self._look_at(row)
        for task_id, state, outcome, polls in db.execute("SELECT task_id, state, outcome, polls FROM tasks"):
            before = self._tasks.get(task_id)
            if before is not None:
                assert state == before[0] or state in TASK_MOVES[TaskState(before[0])], (task_id, before[0], state)
                assert state != before[0] or outcome == before[1], (task_id, "its outcome changed")
                assert polls >= before[2], (task_id, "polls were forgotten")
            self._tasks[task_id] = state, outcome, polls

    def _look_at(self, row: Any) -> None:
        callback_id, state, body, attempts, used, redeliveries, *_ = row
        before = self._callbacks.get(callback_id)
        self._callbacks[callback_id] = row
        assert used <= self._budget, (callback_id, "more attempts than the schedule has")
        if before is None:
            assert state in (CallbackState.WAITING, CallbackState.PENDING), (callback_id, state)
            return
        assert state == before[1] or state in MOVES[CallbackState(before[1])], (callback_id, before[1], state)
        assert before[2] is None or body == before[2], (callback_id, "its body changed")
        assert attempts >= before[3], (callback_id, "attempts were forgotten")
        assert redeliveries - before[5] in (0, 1), (callback_id, "redelivered more than once at a time")
        if before[1] in (CallbackState.DELIVERED, CallbackState.DEAD) and state == CallbackState.PENDING:
            assert redeliveries == before[5] + 1, (callback_id, "came back to life by itself")

    def _at_attempt(self, webhook_id: str, body: bytes) -> None:
        assert webhook_id not in self._world.running, (webhook_id, "two attempts at once")
        assert self._db is not None
        found = self._db.execute(f"{CALLBACKS} WHERE c.id = ?", (webhook_id,)).fetchone()
        assert found is not None, (webhook_id, "an attempt for what is not stored")
        _, state, stored, *_, task_id = found
        # Cancelled: after it was claimed.
        assert state in (CallbackState.PENDING, CallbackState.CANCELLED), (webhook_id, state, "attempted")
        assert body == stored, (webhook_id, "sent another body than the one that is stored")
        said_of, said, reason = told(body)
        assert said_of == task_id
        if said in (TaskState.SUCCESS, TaskState.FAIL):
            assert said == self._world.truth(task_id), (task_id, said, self._world.truth(task_id))
        else:
            assert reason in ("timeout", "not_found"), reason

    def killed(self) -> None:
        """Note what a kill excuses: attempts under way, and those answered and not recorded yet."""
        for callback_id, row in self._callbacks.items():
            if row[1] == CallbackState.PENDING and self._world.attempts[callback_id]:
                self.excused[callback_id] += 1
        self._db = None

    def at_the_end(self, acknowledged: set[str]) -> None:
        """Nothing is lost: who got a 201 got its webhook, or it is dead for a reason, or was cancelled."""
        assert self._db is not None
        self.look()
        if self.broken is not None:
            raise self.broken
        assert acknowledged <= self._callbacks.keys(), "a 201 for what is not stored"
        for callback_id, row in self._callbacks.items():
            _, state, body, attempts, used, redeliveries, *_ = row
            assert state in (CallbackState.DELIVERED, CallbackState.DEAD, CallbackState.CANCELLED), (callback_id, state)
            assert self._world.bodies[callback_id] <= {body}, (callback_id, "different bodies")
            taken = self._world.taken[callback_id]
            assert taken <= 1 + redeliveries + self.excused[callback_id], (callback_id, taken, "delivered again")
            if state == CallbackState.DELIVERED:
                assert taken, (callback_id, "delivered to nobody")
            if state == CallbackState.DEAD:
                assert used == self._budget or callback_id in self._world.final, (callback_id, used, "dead too early")
            numbers = [
                number
                for (number,) in self._db.execute(
                    "SELECT number FROM attempts JOIN callbacks ON seq = callback_seq WHERE id = ? ORDER BY number",
                    (callback_id,),
                )
            ]
            assert numbers == list(range(1, attempts + 1)), (callback_id, numbers, attempts)
            assert attempts <= self._world.attempts[callback_id], (callback_id, "attempts that nobody saw")
        assert self._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert self._db.execute("PRAGMA foreign_key_check").fetchall() == []
