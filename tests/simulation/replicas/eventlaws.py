"""What the operator must have been told in every world of replicas: all that happened, and each thing once.

Owns the laws on operator events: at each attempt at one, and at the end over every change of what waits to be told.
They look at what was sent, and at the rows, never at a gateway's memory.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core.eventledger import CALLBACK_DEAD, RECEIVER_FAILING, RECEIVER_RECOVERED, Ledger, WaitingEvent
from tests.simulation.replicas.cluster import Change
from tests.simulation.replicas.world import Attempt, World
from tests.virtualtime import EPOCH

__all__ = ["EventLaws"]

ATTEMPTS = 4
OPENS_AFTER = 5
"""So many failures in a row, and a receiver fails."""
NAMED = 10
"""So many of the callbacks that have died are named in one event."""
NOTED_S = 5.0
"""So soon is noted what a process has found out that is well."""


class EventLaws:
    """The laws over one run. ``excused``: whether a life has had trouble since then."""

    def __init__(self, world: World, excused: Callable[[str, float], bool]) -> None:
        self._world = world
        self._excused = excused
        self._events: dict[str, WaitingEvent] = {}
        """All that were to be told, as they stood last."""
        self._claimed: defaultdict[str, set[str]] = defaultdict(set)
        """By event, the lives that have claimed it."""
        self._taken_back: set[str] = set()

    def attempted(self, attempt: Attempt) -> None:
        """It is the same each time, and sent by one at a time; again after it was taken only for a reason."""
        for other in self._world.events[attempt.webhook_id]:
            excused = self._excused(other.life, other.begun_s)
            assert other.body == attempt.body, (attempt, other, "is another event under the same id")
            assert other.ended_s is not None or excused, (attempt, other, "is told twice at once")
            assert other.said != 204 or excused, (attempt, other, "is told again for no reason")

    def at_the_end(self, changes: list[Change], rows: dict[str, Any]) -> None:
        """Each death was told by one event, or waits in one; what was sent had been claimed; news come in turn."""
        dead: Counter[str] = Counter()
        died: set[str] = set()
        ledger = Ledger()
        for change in changes:
            before, after = change.before, change.after
            if change.relation == "callbacks" and before is not None and before["state"] != after["state"] == "dead":
                dead[after["receiver"]] += 1
                died.add(after["id"])
            elif change.relation == "meta":
                ledger = self._changed(change)
        self._told_once(dead, died)
        for event_id, attempts in self._world.events.items():
            self._was_to_be_told(event_id, attempts)
        to = {webhook_id: row["receiver"] for webhook_id, row in rows.items()}
        made: defaultdict[str, list[Attempt]] = defaultdict(list)
        for webhook_id, ones in self._world.attempts.items():
            made[to[webhook_id]] += ones
        self._in_turn(made)
        self._recovered(ledger, made)

    def _changed(self, change: Change) -> Ledger:
        """Look at what one transaction has made of what waits."""
        ledger = _ledger(change.after)
        before = {} if change.before is None else {one.id: one for one in _ledger(change.before).waiting}
        after = {one.id: one for one in ledger.waiting}
        assert ledger.dropped == 0, (change, "there was room for all of these")
        for event_id, one in after.items():
            was = before.get(event_id)
            if was is None:
                assert event_id not in self._events, (change, one, "comes again")
            elif was.fixed:
                assert (one.fixed, one.type, one.data) == (True, was.type, was.data), (change, was, one, "was told")
            if one.fixed and was is not None and one.due_at > was.due_at and one.attempts == was.attempts:
                self._claimed[event_id].add(change.replica)
        for event_id in before.keys() - after.keys():
            self._let_go(change, before[event_id])
        self._events |= after
        return ledger

    def _let_go(self, change: Change, event: WaitingEvent) -> None:
        if not event.fixed:
            assert event.type != CALLBACK_DEAD, (change, event, "is forgotten")
            self._taken_back.add(event.id)
            return
        # As the database's clock has it, in whole milliseconds.
        made = [one for one in self._world.events[event.id] if EPOCH + int(one.begun_s * 1000) <= change.at]
        taken = any(one.said == 204 or one.status == 410 for one in made)
        assert taken or event.attempts >= ATTEMPTS - 1, (change, event, made, "was told to nobody")

    def _told_once(self, dead: Counter[str], died: set[str]) -> None:
        counted: Counter[str] = Counter()
        named: list[str] = []
        for one in self._events.values():
            if one.type == CALLBACK_DEAD:
                counted[one.data["receiver"]] += one.data["count"]
                named += one.data["callbackIds"]
                assert len(one.data["callbackIds"]) == min(one.data["count"], NAMED), one
        assert counted == dead, (counted, dead, "deaths are not what is told")
        assert len(named) == len(set(named)), (named, "died twice, as is told")
        assert set(named) <= died, (named, died, "has not died")

    def _was_to_be_told(self, event_id: str, attempts: list[Attempt]) -> None:
        event = self._events.get(event_id)
        assert event is not None, (event_id, attempts, "was never to be told")
        for one in attempts:
            told = json.loads(one.body)
            assert told["type"] == event.type, (event, told)
            assert event.data.items() <= told["data"].items(), (event, told, "is told otherwise")
            assert one.life in self._claimed[event_id], (event, one, "is told by who has not claimed it")

    def _in_turn(self, made: dict[str, list[Attempt]]) -> None:
        """A receiver fails, recovers, and fails again: and each time it has."""
        last: dict[str, WaitingEvent] = {}
        for event in self._events.values():
            if event.type not in (RECEIVER_FAILING, RECEIVER_RECOVERED) or event.id in self._taken_back:
                continue
            before = last.get(event.key)
            known = RECEIVER_RECOVERED if before is None else before.type
            assert event.type != known, (event, before, "is told twice")
            last[event.key] = event
            since_s = 0.0 if before is None else (before.at - EPOCH) / 1000 - NOTED_S
            until_s = (event.at - EPOCH) / 1000 + NOTED_S
            its = [one for one in made[event.data["receiver"]] if since_s <= one.begun_s <= until_s]
            if event.type == RECEIVER_RECOVERED:
                assert any(one.status == 204 for one in its), (event, its, "has not recovered")
            else:
                failed = sum(one.status is None or one.status >= 500 for one in its)
                assert failed >= OPENS_AFTER, (event, its, "does not fail")

    def _recovered(self, ledger: Ledger, made: dict[str, list[Attempt]]) -> None:
        """What has taken a webhook since it was told to fail is not told to fail for ever."""
        now_s = self._world.time.now_s
        failing = {names[-1] for names in ledger.fail()}
        for event in self._events.values():
            if event.type != RECEIVER_FAILING or event.data["receiver"] not in failing:
                continue
            noted_s = (event.at - EPOCH) / 1000 + NOTED_S
            for one in made[event.data["receiver"]]:
                well = one.status == 204 and one.ended_s is not None and noted_s < one.ended_s < now_s - NOTED_S
                assert not well or self._excused(one.life, one.begun_s), (event, one, "is never told to have recovered")


def _ledger(row: dict[str, Any]) -> Ledger:
    return msgspec.json.decode(bytes.fromhex(row["value"].removeprefix("\\x")), type=Ledger)
