"""What must hold after each kill and at the end: nothing lost, nothing corrupted, nothing repeated without a reason.

Owns the ledger of promises and every judgement. Reads copies of the database's files, made while no process has them
open, and what the receiver remembers. Each violation is one sentence, counted as lost or as corrupted.

How a repetition is judged: within one life of the process all of a callback's arrivals must be found in its attempt
rows, but for the last one, and that only where the process was killed, while the callback still owed its webhook: then
the attempt was in flight. After a clean shutdown there is no such exception.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.attemptlog import is_whole, stay
from tests.crash.scenario import Item
from tests.crash.sides import Arrival, Sides
from tests.crash.snapshot import Snapshot, copy_of, of_file

__all__ = ["Checker"]

_ENDED = ("delivered", "dead")


class Checker:
    """Keeps what was promised, and judges the database and the receiver by it."""

    def __init__(self, sides: Sides, scratch: Path | None = None) -> None:
        """``scratch``: a folder for copies of the database, where that is a file."""
        self._sides = sides
        self._scratch = scratch
        self._last = Snapshot()
        self._arrived: Counter[str] = Counter()  # up to the last snapshot, by webhook-id
        self.promised: dict[str, Item] = {}
        """What was answered 201 or 200, by the callback's id."""
        self.ids: dict[int, str] = {}
        """The same by the item's key."""
        self.sent: dict[int, Item] = {}
        """All that the gateway was ever asked for."""
        self.created = 0
        """How many were answered 201."""
        self.lost: list[str] = []
        self.corrupted: list[str] = []

    @property
    def ok(self) -> bool:
        return not self.lost and not self.corrupted

    @property
    def duplicates(self) -> int:
        """How many webhooks arrived again after they had been answered 2xx."""
        return sum(len(list(_after_taken(arrivals))) for arrivals in self._sides.arrivals.values())

    def answered(self, item: Item, status: int, callback: dict[str, Any]) -> None:
        """Take down the answer to one registration."""
        known = self.ids.get(item.key)
        if known is None:
            self.ids[item.key] = callback["id"]
            self.promised[callback["id"]] = item
        elif status == 201:
            self.lost.append(f"{known} was answered, and registering it again made {callback['id']}")
        elif known != callback["id"]:
            self.corrupted.append(f"{known} was answered, and registering it again found {callback['id']}")
        self.created += status == 201

    def after_end(self, database: Path, *, clean: bool) -> None:
        """Judge the files of a process that has ended; ``clean``: by itself, after a shutdown."""
        assert self._scratch is not None
        try:
            now = of_file(copy_of(database, self._scratch))
        except sqlite3.DatabaseError as exc:
            self.corrupted.append(f"the database cannot be read: {exc}")
            return
        for callback_id in now.callbacks:
            self._check_arrivals(callback_id, now, clean=clean)
        for webhook_id in self._sides.arrivals.keys() - now.callbacks.keys():
            self.corrupted.append(f"{webhook_id} was sent and is not in the database")
        self.judge(now, self.promised)
        self._arrived = Counter({webhook_id: len(found) for webhook_id, found in self._sides.arrivals.items()})

    def judge(self, now: Snapshot, promised: Iterable[str]) -> None:
        """Judge what a database holds; ``promised``: what was before the moment it shows."""
        for callback_id in promised:
            if callback_id not in now.callbacks:
                self.lost.append(f"{callback_id} was answered, and is not in the database")
        for callback_id, row in self._last.callbacks.items():
            if callback_id not in now.callbacks:
                self.corrupted.append(f"{callback_id} was {row['state']} and has vanished")
        for callback_id, callback in now.callbacks.items():
            self._check_row(callback, now.attempts.get(callback_id, []))
            self._check_history(callback_id, now)
        self.corrupted += now.wrong + self._sides.bad
        self._sides.bad.clear()
        self._last = now

    def at_the_end(self) -> None:
        """Judge how everything ended; after the last ``after_end``."""
        for callback_id, callback in self._last.callbacks.items():
            key = int(callback["url"].rpartition("/")[2])
            item = self.sent[key]
            if callback["state"] != item.ends:
                self.lost.append(f"{callback_id} ({item.path}) ended {callback['state']}, not {item.ends}")
            arrivals = self._sides.arrivals.get(callback_id, [])
            if not arrivals:
                self.lost.append(f"{callback_id} ({item.path}) never arrived")
                continue
            if item.ends == "delivered" and not any(_taken(arrival) for arrival in arrivals):
                self.lost.append(f"{callback_id} ({item.path}) is delivered, but its receiver never said so")
            self._check_event(callback_id, item)

    def _check_row(self, row: Any, attempts: Sequence[Any]) -> None:
        """Judge a callback with its task and its attempts: all of a transaction is there, or nothing of it."""
        callback_id, state = row["id"], row["state"]
        item = self.sent[int(row["url"].rpartition("/")[2])]
        wrong = []
        if row["url"] != self._sides.url_of(item) or row["task_id"] != item.task_id:
            wrong.append("is not what was asked for")
        if state == "waiting" and (row["task_state"] != "waiting" or row["next_poll_at"] is None):
            wrong.append(f"waits for a task that is {row['task_state']} and polled at {row['next_poll_at']}")
        if state == "waiting" and attempts:
            wrong.append("waits, and has attempts")
        if not is_whole([(attempt["number"], attempt["result"]) for attempt in attempts], row["attempts"]):
            wrong.append(f"counts {row['attempts']} attempts, and has {[attempt['number'] for attempt in attempts]}")
        if row["budget_used"] != sum(attempt["result"] != "interrupted" for attempt in attempts):
            wrong.append(f"counts {row['budget_used']} against its schedule of {[a['result'] for a in attempts]}")
        ends = [attempt["result"] for attempt in attempts if attempt["result"] in _ENDED]
        if ends != ([state] if state in _ENDED else []) or (ends and attempts[-1]["result"] != state):
            wrong.append(f"is {state} after {[attempt['result'] for attempt in attempts]}")
        self.corrupted += [f"{callback_id} ({item.path}, {state}) {what}" for what in wrong]

    def _check_history(self, callback_id: str, now: Snapshot) -> None:
        """Judge what changed since the last snapshot: ends are ends, records stay, bytes are fixed."""
        before = self._last.callbacks.get(callback_id)
        if before is None:
            return
        state = now.callbacks[callback_id]["state"]
        if before["state"] in _ENDED and state != before["state"]:
            self.corrupted.append(f"{callback_id} was {before['state']} and is {state}")
        came = [*self._last.attempts.get(callback_id, []), *self._new_attempts(callback_id, now)]
        left = stay([(row["number"], row["result"]) for row in came])
        expected = [tuple(row) for row in came if row["number"] in left]
        if [tuple(row) for row in now.attempts.get(callback_id, [])] != expected:
            self.corrupted.append(f"{callback_id} has lost or changed an attempt")
        body = self._last.bodies.get(callback_id)
        if body is not None and now.bodies.get(callback_id) != body:
            self.corrupted.append(f"{callback_id} has other bytes than before")

    def _new_attempts(self, callback_id: str, now: Snapshot) -> list[Any]:
        """Return those that were recorded since the last snapshot."""
        known = max((row["number"] for row in self._last.attempts.get(callback_id, [])), default=0)
        return [row for row in now.attempts.get(callback_id, []) if row["number"] > known]

    def _check_arrivals(self, callback_id: str, now: Snapshot, *, clean: bool) -> None:
        arrivals = self._sides.arrivals.get(callback_id, [])
        if any(arrival.digest != now.bodies.get(callback_id) for arrival in arrivals):
            self.corrupted.append(f"{callback_id} arrived with other bytes than are in the database")
        recorded = self._new_attempts(callback_id, now)
        came = arrivals[self._arrived[callback_id] :]
        state = now.callbacks[callback_id]["state"]
        answered = [row["status_code"] for row in recorded if row["status_code"] is not None]
        said = [arrival.status for arrival in came if arrival.status is not None]
        if said[: len(answered)] != answered:
            self.corrupted.append(f"{callback_id} was answered {said}, recorded is {answered}")
        if cut := [row["result"] for row in recorded if row["status_code"] is None and row["result"] != "interrupted"]:
            self.corrupted.append(f"{callback_id} has {cut} without an answer: these receivers always give one")
        if not clean and any(row["result"] == "interrupted" for row in recorded):
            self.corrupted.append(f"{callback_id} was interrupted without a shutdown")
        missing = len(came) - len(recorded)
        if missing > (0 if clean else 1):
            self.corrupted.append(f"{callback_id} arrived {len(came)} times, {len(recorded)} are recorded")
        elif missing == 1 and state != "pending":
            self.corrupted.append(f"{callback_id} arrived once more than is recorded, and is {state}")

    def _check_event(self, callback_id: str, item: Item) -> None:
        event = self._sides.events[callback_id]
        data = event["data"]
        type_, code = "task.abandoned", 408
        if item.timeout_s is None:
            succeeds = item.task_id.startswith("sim-success")
            type_, code = ("task.succeeded", 200) if succeeds else ("task.failed", 501)
        if item.is_record:
            told, asked = (event["code"], data["taskId"]), (code, item.task_id)
        else:
            told = event["type"], data["callbackId"], data["taskId"], data["metadata"]
            asked = type_, callback_id, item.task_id, item.metadata or {}
        if told != asked:
            self.corrupted.append(f"{callback_id} says {told}, asked for was {item}")


def _taken(arrival: Arrival) -> bool:
    return arrival.status is not None and 200 <= arrival.status < 300


def _after_taken(arrivals: list[Arrival]) -> list[Arrival]:
    taken = next((number for number, arrival in enumerate(arrivals) if _taken(arrival)), len(arrivals))
    return arrivals[taken + 1 :]
