"""What this process finds out that the operator is to be told: receivers that fail or have recovered, refused keys.

Owns when that counts as having happened; what is told of it, and how often, ``core.eventledger`` says. What dies is
noted where it is recorded, and not here. Called by ``operatorevents``, each second or so.

A receiver fails once its circuit breaker opens, and has recovered with the next webhook that it takes, whichever
replica sends it and whatever was restarted meanwhile. Of an upstream only the replica that polls it speaks.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from gateway.core.claims import Lane
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.eventledger import (
    RECEIVER_FAILING,
    RECEIVER_RECOVERED,
    UPSTREAM_RECOVERED,
    UPSTREAM_REFUSED,
    Ledger,
)
from gateway.loops.deliverer import Deliverer
from gateway.loops.failing import Failures
from gateway.store.eventport import Events
from gateway.upstream.key import UpstreamKey

_MOST_COUNTED = 10_000
"""Webhooks that are owed to a receiver, tasks that are polled: of more it is told that they are so many."""
_MOST_APART = 50
"""Of more that begin to fail within a moment none is told of by itself, so that nothing is counted for them."""
_SLOW_ANSWER_S = 30.0
"""An answer that was asked for so long before may be what has ended a refusal."""

_Note = tuple[dict[str, str], dict[str, Any]]
"""What it is about, and what is told of it."""


class PolledKey(NamedTuple):
    """An upstream's key, and whether this process polls with it."""

    upstream: str
    key: UpstreamKey
    polled_here: Callable[[], bool]


class Happenings:
    """Compares how things are with what is known to have been told."""

    def __init__(self, events: Events, deliverer: Deliverer, keys: Sequence[PolledKey], clock: Clock) -> None:
        self._events = events
        self._deliverer = deliverer
        self._keys = keys
        self._clock = clock
        # From the start on: what a gateway before this one has told of may be well before the first round.
        deliverer.failing.took = set()
        self._open: set[Lane] = set()  # circuits that were open the last time
        self._refused: set[str] = set()
        self._known_since: dict[str, float] = {}  # since when upstreams are known here to have been told of, steady

    async def note(self, ledger: Ledger) -> None:
        """Note what has happened since the last time; ``ledger``: what is known by now. Raises StoreError."""
        known = ledger.fail()
        await self._note_receivers({Lane(*names) for names in known if len(names) == len(Lane._fields)})
        await self._note_upstreams({names[0] for names in known if len(names) == 1})

    async def _note_receivers(self, known: set[Lane]) -> None:
        failing = self._deliverer.failing
        open_ = set(self._deliverer.open_circuits())
        opened = open_ - self._open
        # Who takes one while this is written is the next round's: else it would fail for ever, as far as is told.
        took, failing.took = failing.took or set(), set()
        well = [lane for lane in took if lane in known and lane not in open_]
        try:
            notes: list[_Note] = []
            for lane in opened:
                notes.append(await self._failing(lane, counts=len(notes) < _MOST_APART))
            await self._change(Ledger.fails, RECEIVER_FAILING, notes)
            self._open = open_
            await self._change(Ledger.recovers, RECEIVER_RECOVERED, [await self._receiver(lane) for lane in well])
        except StoreError:
            failing.took.update(well)
            raise

    async def _failing(self, lane: Lane, *, counts: bool) -> _Note:
        about, told = await self._receiver(lane) if counts else (lane._asdict(), {})
        failures = self._deliverer.failing.lanes.get(lane, Failures(0, None))
        return about, {"count": 1, "failures": failures.in_a_row, **told, "lastError": failures.error}

    async def _receiver(self, lane: Lane) -> _Note:
        return lane._asdict(), {"pending": await self._events.owed(lane, _MOST_COUNTED)}

    async def _note_upstreams(self, known: set[str]) -> None:
        steady = self._clock.monotonic()
        refused, accepted = [], []
        for name, key, polled_here in self._keys:
            if name not in known:
                self._known_since.pop(name, None)
            since = self._known_since.setdefault(name, steady) if name in known else steady
            if key.refusal is None or not polled_here():
                self._refused.discard(name)
                if name in known and polled_here() and key.accepted_since(since - _SLOW_ANSWER_S):
                    accepted.append(await self._upstream(name))
            elif name not in self._refused:
                refused.append(await self._upstream(name, lastError=key.refusal))
        await self._change(Ledger.fails, UPSTREAM_REFUSED, refused)
        self._refused.update(about["upstream"] for about, _ in refused)
        await self._change(Ledger.recovers, UPSTREAM_RECOVERED, accepted)

    async def _upstream(self, name: str, **told: Any) -> _Note:
        return {"upstream": name}, {"tasksWaiting": await self._events.watched(name, _MOST_COUNTED), **told}

    async def _change(self, change: Callable[..., None], type_: str, notes: Iterable[_Note]) -> None:
        if notes := list(notes):
            now = self._clock.now()

            def all_of_them(ledger: Ledger) -> None:
                for about, told in notes:
                    change(ledger, type_, about, told, now)

            await self._events.change(all_of_them)
