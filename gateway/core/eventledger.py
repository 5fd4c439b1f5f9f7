"""Operator events that wait to be sent, and what has been told: which are new, which are gathered, which are let go.

Owns these decisions. Pure: the store keeps a ``Ledger`` as one small value and changes it within its transactions; so
whatever happens is noted once, whichever replica notes it, and in the transaction that makes it happen where it is in
the database. Called by ``gateway.store.events`` and the loop that sends.

Nobody wants to be called a thousand times for one thing:

- Callbacks that die at one receiver are one event: the first ones within 2 s, then those of 5 minutes each.
- Of 20 receivers at most such an event is made in 5 minutes, and of 20 that one fails: those of all others are one.
- That something fails and has recovered is told at most once a minute: what has changed back by then is not told.
- Of what is about one thing, nothing is sent before what happened there earlier: else an incident stays open for ever.
- 200 events wait at most. What would be one more is not told, but counted, and the next event says how many they were.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.claims import Lane
from gateway.core.clock import to_iso
from gateway.core.ids import new_event_id

CALLBACK_DEAD = "callback.dead"
RECEIVER_FAILING, RECEIVER_RECOVERED = "receiver.failing", "receiver.recovered"
UPSTREAM_REFUSED, UPSTREAM_RECOVERED = "upstream.refused", "upstream.recovered"
EVENT_TYPES = frozenset((CALLBACK_DEAD, RECEIVER_FAILING, RECEIVER_RECOVERED, UPSTREAM_REFUSED, UPSTREAM_RECOVERED))

_MOST_WAITING = 200
_MOST_APART = 20
_MOST_CONDITIONS = 1000
_MOST_IDS = 10
_MOST_ERROR = 500
_FIRST_MS = 2_000
_GATHER_MS = 300_000
_SETTLE_MS = 60_000
_FORGET_MS = 90 * 86_400_000
"""What has failed for so long, and nothing was heard of since, may be gone for good."""


class Died(msgspec.Struct, frozen=True):
    """A callback that has died, and of what."""

    callback_id: str
    lane: Lane
    error: str | None
    at: int


class WaitingEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One event; what it says is fixed once it is claimed for the first time."""

    id: str
    type: str
    key: str
    """What it is about."""
    at: int
    """When it, or the first of what it tells, happened."""
    due_at: int
    data: dict[str, Any]
    attempts: int = 0
    fixed: bool = False


class _Condition(msgspec.Struct, omit_defaults=True):
    """Something that fails, or did a moment ago."""

    since: int
    fails: bool = True
    dead: int = 0
    """Callbacks that have died since."""
    told_at: int | None = None
    """When an event about it was claimed last."""


class Ledger(msgspec.Struct, omit_defaults=True):
    """What waits, and what has been told. Where a method finds no room for an event, it counts that in ``dropped``."""

    waiting: list[WaitingEvent] = []
    conditions: dict[str, _Condition] = {}
    told: dict[str, int] = {}
    """When an event was made or claimed lately, by its type and what it is about."""
    dropped: int = 0
    """Events that there was no room for."""
    dropped_told: int = 0
    """Of these, those that a later event has told of."""
    error: str | None = None
    """Why the last attempt at any event failed; None where it did not, or nothing has waited since."""

    # What happens.

    def died(self, died: Sequence[Died], now: int) -> None:
        """Note callbacks that have died."""
        self._prune(now)
        by_lane: dict[Lane, list[Died]] = {}
        for one in died:
            by_lane.setdefault(one.lane, []).append(one)
        for lane, its in by_lane.items():
            self._died_at(lane, its, now)

    def _died_at(self, lane: Lane, died: Sequence[Died], now: int) -> None:
        if (condition := self.conditions.get(_key(lane))) is not None:
            condition.dead += len(died)
        key = f"{CALLBACK_DEAD} {_key(lane)}"
        about: dict[str, Any] = {"client": lane.client, "receiver": lane.receiver}
        if key not in self.told and self._open(key) is None and self._apart(CALLBACK_DEAD) >= _MOST_APART:
            key, about = CALLBACK_DEAD, dict.fromkeys(about)
        event = self._gathering(CALLBACK_DEAD, key, about | {"count": 0, "callbackIds": []}, died[0].at, now)
        if event is None:
            return
        event.data["count"] += len(died)
        ids = event.data["callbackIds"]
        ids += [one.callback_id for one in died[: _MOST_IDS - len(ids)]]
        event.data["lastError"] = _short(died[-1].error)

    def fails(self, type_: str, about: Mapping[str, str], told: Mapping[str, Any], now: int) -> None:
        """Note that something fails: ``about`` names it, ``told`` says more. Nothing where that is known.

        Of one thing one condition is known, whatever its type: each type's ``about`` has to be its own.
        """
        self._prune(now)
        key = _key(about.values())
        condition = self.conditions.get(key)
        if condition is not None:
            if not condition.fails:  # nobody has been told otherwise yet
                condition.fails = self._take_back(key)
            if condition.fails:
                return
        if len(self.conditions) >= _MOST_CONDITIONS or self._apart(type_) >= _MOST_APART:
            self._one_of_many(type_, about, told, now)
        elif (
            self._add(
                type_, key, {**about, **told, "lastError": _short(told["lastError"])}, now, self._settled_at(key, now)
            )
            is not None
        ):
            self.conditions[key] = _Condition(now, told_at=None if condition is None else condition.told_at)
            self.told[f"{type_} {key}"] = now

    def recovers(self, type_: str, about: Mapping[str, str], told: Mapping[str, Any], now: int) -> None:
        """Note that something does not fail any more. Nothing where it was not known to fail."""
        self._prune(now)
        key = _key(about.values())
        condition = self.conditions.get(key)
        if condition is None or not condition.fails:
            return
        condition.fails = False
        if not self._take_back(key):
            data = {**about, **told, "failedSince": to_iso(condition.since)}
            if type_ == RECEIVER_RECOVERED:
                data["dead"] = condition.dead
            self._add(type_, key, data, now, self._settled_at(key, now))

    def fail(self) -> list[tuple[str, ...]]:
        """Return the names of all that is known to fail: of receivers client and receiver, of upstreams their own."""
        return [tuple(key.split(" ")) for key, condition in self.conditions.items() if condition.fails]

    # What is sent.

    @property
    def held_up(self) -> str | None:
        """Why what waits does not get through; None where it does, or nothing waits."""
        return self.error if self.waiting else None

    @property
    def next_due_at(self) -> int | None:
        return min((event.due_at for event in self._first()), default=None)

    def claim(
        self, now: int, lease_ms: int, words: Callable[[str], Mapping[str, str]] = lambda _: {}
    ) -> WaitingEvent | None:
        """Return the event that has been due the longest, which is nobody else's for so long.

        ``words``: what else an event of a type says. It stays as it was the first time: whoever sends the event again
        may have other words by then, and its bytes are to be the same.
        """
        event = min(self._first(), key=lambda one: one.due_at, default=None)
        if event is None or event.due_at > now:
            return None
        if not event.fixed:
            event.fixed = True
            if (condition := self.conditions.get(event.key)) is not None:
                condition.told_at = now
            else:
                self.told[event.key] = now
            if self.dropped > self.dropped_told:
                event.data["dropped"], self.dropped_told = self.dropped - self.dropped_told, self.dropped
        for name, text in words(event.type).items():
            event.data.setdefault(name, text)
        event.due_at = now + lease_ms
        return event

    def ended(self, event_id: str, now: int, error: str | None) -> None:
        """Let an event go: it was taken or, with an error, is given up.

        Who was given up last says nothing of who comes next: by then it may have been mended.
        """
        self.waiting = [event for event in self.waiting if event.id != event_id]
        self.error = error if self.waiting else None
        self._prune(now)

    def failed(self, event_id: str, due_at: int, error: str | None, *, counts: bool = True) -> None:
        """Have an event sent again then; ``error``: why an attempt failed, None: none was made. ``counts``: it was one
        of those that an event has.
        """
        if error is not None:
            self.error = error
        for event in self.waiting:
            if event.id == event_id:
                event.due_at, event.attempts = due_at, event.attempts + counts

    def move(self, step_ms: int) -> None:
        """Move what is still to happen, as the wall clock was set."""
        for event in self.waiting:
            event.due_at += step_ms
        self.told = {key: at + step_ms for key, at in self.told.items()}
        for condition in self.conditions.values():
            if condition.told_at is not None:
                condition.told_at += step_ms

    def _one_of_many(self, type_: str, about: Mapping[str, str], told: Mapping[str, Any], now: int) -> None:
        """Note that one more fails than are told of one by one."""
        event = self._gathering(type_, type_, {**dict.fromkeys(about), "count": 0}, now, now)
        if event is not None:
            event.data["count"] += 1
            event.data["lastError"] = _short(told["lastError"])

    def _gathering(self, type_: str, key: str, data: dict[str, Any], at: int, now: int) -> WaitingEvent | None:
        """Return the event that gathers what happens there: the one that is not fixed yet, or a new one, if any."""
        if (open_ := self._open(key)) is not None:
            return open_
        due_at = max(now + _FIRST_MS, self.told.get(key, -_GATHER_MS) + _GATHER_MS)
        event = self._add(type_, key, data, at, due_at)
        if event is not None:
            self.told.setdefault(key, now)
        return event

    def _add(self, type_: str, key: str, data: dict[str, Any], at: int, due_at: int) -> WaitingEvent | None:
        """Have an event sent then; None where there is no room for it."""
        if len(self.waiting) >= _MOST_WAITING:
            self.dropped += 1
            return None
        event = WaitingEvent(id=new_event_id(at), type=type_, key=key, at=at, due_at=due_at, data=data)
        self.waiting.append(event)
        return event

    def _first(self) -> list[WaitingEvent]:
        """Return of all that is about one thing what happened first."""
        first: dict[str, WaitingEvent] = {}
        for event in self.waiting:
            first.setdefault(event.key, event)
        return list(first.values())

    def _open(self, key: str) -> WaitingEvent | None:
        return next((event for event in self.waiting if event.key == key and not event.fixed), None)

    def _take_back(self, key: str) -> bool:
        """Take back the event about something that nobody has been told of; return whether there was one."""
        open_ = self._open(key)
        if open_ is not None:
            self.waiting.remove(open_)
        return open_ is not None

    def _settled_at(self, key: str, now: int) -> int:
        condition = self.conditions.get(key)
        return now if condition is None or condition.told_at is None else max(now, condition.told_at + _SETTLE_MS)

    def _apart(self, type_: str) -> int:
        """Return of how many there was an event of their own lately."""
        return sum(key.startswith(f"{type_} ") for key in self.told)

    def _prune(self, now: int) -> None:
        self.told = {key: at for key, at in self.told.items() if at > now - _GATHER_MS}
        waited_for = {event.key for event in self.waiting}

        def counts(key: str, condition: _Condition) -> bool:
            if condition.fails:
                return condition.since > now - _FORGET_MS
            return key in waited_for or (condition.told_at is not None and condition.told_at > now - _SETTLE_MS)

        self.conditions = {key: one for key, one in self.conditions.items() if counts(key, one)}


def _short(error: str | None) -> str | None:
    """Return an error of which the others' words do not fill the value."""
    return error if error is None or len(error) <= _MOST_ERROR else f"{error[:_MOST_ERROR]}…"


def _key(names: Iterable[str]) -> str:
    return " ".join(names)
