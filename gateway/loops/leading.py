"""Which upstreams' polls this replica leads: it takes them, renews, loses and resigns them.

Owns that decision, and how the upstreams are spread over the replicas; the store owns who leads, and what is written
under a leadership that has ended. Run by the supervisor; its pollers ask their ``Lease`` what they may do.

A lease is over by the steady clock some seconds before it is over for the others, whatever this process was doing: one
that stood still, or lost the database, begins nothing and stores nothing afterwards. That guards what was asked of the
upstream; writes are guarded in the database as well.

Each replica takes what is free up to its share. One above that lets others be first, and takes only what nobody has
taken for a second; where it leads more than its share for half a minute, it hands the rest over, and more seldom where
nobody wants that. What is handed over, and all at the end, is resigned once its polls are answered.

Only who leads learns that the upstream refuses the key. It tells so with each renewal, and the others hear it.

Where one process has the database to itself it leads for ever, and none of this runs.
"""

import asyncio
import math
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from gateway.core.clock import Clock, wait_for_event
from gateway.core.errors import StoreError
from gateway.core.telemetry import Metrics
from gateway.store import Housekeeping, Standing

if TYPE_CHECKING:  # which imports this
    from gateway.loops.poller import Poller

_log = structlog.get_logger()

LEASE_S = 10.0
_MARGIN_S = 3.0
_ROUND_S = 2.0
_RETRY_S = 0.5
_OTHERS_FIRST_S = 1.0
"""So long what is free is left to replicas that lead less than their share."""
_UNEVEN_S = (30.0, 3600.0)
"""So long it leads more than its share before it hands over; longer each time, as nobody else may know the upstream."""
_HANDED_OVER_S = 2.5 * _ROUND_S
"""So long what was handed over is not taken again: whoever leads less than its share has looked by then."""
_FINISH_S = 5.0
"""How long polls that are under way hold up a hand-over."""
_LEADERLESS_S = LEASE_S + 5.0


class Lease:
    """Whether this process leads one upstream's polls. A term is a span in which it does without a break."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._term = 0
        self._until = -math.inf
        self.epoch: int | None = None
        """The store's word for it; None where it is over, or has not begun."""
        self.closing = False
        """Whether nothing new is to be begun in this term."""

    @property
    def current(self) -> int | None:
        """The term in which polls may begin now; None: in none."""
        return self._term if not self.closing and self.holds(self._term) else None

    @property
    def lasts(self) -> bool:
        """Whether the term has not ended."""
        return self._clock.monotonic() < self._until

    def holds(self, term: int) -> bool:
        """Whether that term still lasts."""
        return term == self._term and self.lasts

    def begin(self, epoch: int, until: float) -> None:
        """Begin a term, which lasts until then by the steady clock, or longer."""
        self._term += 1
        self.epoch, self._until, self.closing = epoch, until, False

    def extend(self, until: float) -> None:
        self._until = until

    def end(self) -> None:
        self.epoch, self._until, self.closing = None, -math.inf, False


def always(clock: Clock) -> Lease:
    """Return the lease of who need share with nobody."""
    lease = Lease(clock)
    lease.begin(0, math.inf)
    return lease


class Leading:
    """The loop that leads."""

    name = "leadership"

    def __init__(
        self, housekeeping: Housekeeping, clock: Clock, metrics: Metrics, pollers: Mapping[str, "Poller"]
    ) -> None:
        """``pollers``: by upstream."""
        self._housekeeping = housekeeping
        self._clock = clock
        self._led = {name: _OneLead(name, poller, clock, metrics) for name, poller in pollers.items()}
        self._uneven_since: float | None = None
        self._replicas = 0
        self._patience_s = _UNEVEN_S[0]
        self._standing_at = -math.inf
        self._failing = False

    def leaderless(self) -> list[str]:
        """Return the upstreams that no replica polls, though there was time to take them over."""
        now = self._clock.monotonic()
        known = now - self._standing_at < _LEADERLESS_S  # else it is the database that is in trouble
        return [one.name for one in self._led.values() if known and now - one.led_at > _LEADERLESS_S]

    async def run_once(self) -> float:
        """Renew what is led, take what is free; return the seconds until it is time again."""
        try:
            await self._round()
        except StoreError as exc:
            if not self._failing:
                _log.warning("leading.store_failed", error=exc.message)
            self._failing = True
            return _RETRY_S
        self._failing = False
        return min([_ROUND_S, *(_OTHERS_FIRST_S for one in self._led.values() if one.free_since is not None)])

    async def wait(self, timeout_s: float) -> None:
        freed = self._housekeeping.freed
        await wait_for_event(freed, timeout_s)
        freed.clear()

    async def drain(self, timeout_s: float) -> None:
        """Resign each upstream once its polls are answered; renew it until then."""
        deadline = self._clock.monotonic() + timeout_s
        renew_at = self._clock.monotonic()
        for one in self._led.values():
            one.lease.closing = True
        while led := [one for one in self._led.values() if one.held]:
            now = self._clock.monotonic()
            try:
                for one in led:
                    if one.poller.idle or now >= deadline:
                        await one.resign(self._housekeeping)
                    elif now >= renew_at:
                        await one.lead(self._housekeeping)
            except StoreError:
                return  # it ends by itself
            if now >= renew_at:
                renew_at = now + _ROUND_S
            await asyncio.sleep(0.02)

    async def _round(self) -> None:
        for one in self._led.values():
            one.end_if_over()
        # Together: a slow database must not take a lease's time twice.
        renewed = (one.lead(self._housekeeping) for one in self._led.values() if one.leads)
        standing, *_ = await _all_of(self._housekeeping.standing(LEASE_S), *renewed)
        now = self._standing_at = self._clock.monotonic()
        share = math.ceil(len(self._led) / standing.replicas)
        if standing.replicas != self._replicas:
            self._replicas, self._patience_s = standing.replicas, _UNEVEN_S[0]
        room = share - sum(one.leads for one in self._led.values())
        free = []
        for one in self._led.values():
            one.see(standing, now)
            if one.is_free(now, above=room <= 0):
                room -= 1
                free.append(one)
        await _all_of(*(one.lead(self._housekeeping) for one in free))
        await self._hand_over(share, now)

    async def _hand_over(self, share: int, now: float) -> None:
        led = [one for one in self._led.values() if one.leads]
        for one in led:
            if one.lease.closing and (one.poller.idle or now >= one.closes_at):
                await one.resign(self._housekeeping)
        if len(led) <= share:
            self._uneven_since = None
        elif self._uneven_since is None:
            self._uneven_since = now
        elif now - self._uneven_since >= self._patience_s:
            self._uneven_since, self._patience_s = now, min(2 * self._patience_s, _UNEVEN_S[1])
            for one in led[share:]:
                one.close(now)


async def _all_of(*work: Awaitable[Any]) -> list[Any]:
    """Return what each returns, once all have ended. Raises what the first one has raised."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return done


class _OneLead:
    """One upstream, and how this replica stands to it."""

    def __init__(self, name: str, poller: "Poller", clock: Clock, metrics: Metrics) -> None:
        self.name = name
        self.poller = poller
        self.lease = poller.lease
        self._key = f"polls:{name}"
        self._clock = clock
        self._leading = metrics.leading.labels(name)
        self._changes = metrics.lead_changes.labels(name)
        self.led_at = clock.monotonic()
        """When somebody led it last."""
        self.free_since: float | None = None
        self.held = False
        """Whether others may take this replica for the one that leads it: it does, or may be about to."""
        self.closes_at = math.inf
        self._not_before = -math.inf

    @property
    def leads(self) -> bool:
        return self.lease.epoch is not None

    def see(self, standing: Standing, now: float) -> None:
        """Look whether anybody leads it."""
        if not self.leads and self._key in standing.led:  # else what the last one told holds on
            self.poller.hear(refused=self._key in standing.refused)
        if self.leads or (self._key in standing.led and not self.held):
            self.led_at, self.free_since = now, None
        elif self.free_since is None:
            self.free_since = now

    def is_free(self, now: float, *, above: bool) -> bool:
        """Whether it is free for this replica, whose share may be used up."""
        if self.free_since is None or now < self._not_before:
            return False
        return not above or self.held or now - self.free_since >= _OTHERS_FIRST_S

    async def lead(self, housekeeping: Housekeeping) -> None:
        """Lead it for a while longer, or from now on, where it is free. Raises StoreError."""
        asked_at = self._clock.monotonic()
        self.held = True  # perhaps, where no answer comes
        epoch = await housekeeping.lead(self._key, LEASE_S, refused=self.poller.refused)
        until = asked_at + LEASE_S - _MARGIN_S
        self.held = epoch is not None
        self.end_if_over()
        if epoch is not None and epoch == self.lease.epoch:
            self.lease.extend(until)
            return
        self._end()
        if epoch is None:
            return
        await self.poller.gained(epoch)
        self.lease.begin(epoch, until)
        self.led_at, self.free_since = self._clock.monotonic(), None
        self._leading.set(1)
        self._changes.inc()
        _log.info("polls.led", upstream=self.name, epoch=epoch)

    def close(self, now: float) -> None:
        """Begin nothing more: it is handed over."""
        self.lease.closing = True
        self.closes_at = now + _FINISH_S

    async def resign(self, housekeeping: Housekeeping) -> None:
        """Leave it to others. Raises StoreError: then it ends by itself."""
        self._end()
        self.held = False
        self._not_before = self._clock.monotonic() + _HANDED_OVER_S
        await housekeeping.resign(self._key)

    def end_if_over(self) -> None:
        """Notice that the time is over: it may have been so in the midst of anything."""
        if not self.lease.lasts:
            self._end()

    def _end(self) -> None:
        if not self.leads:
            return
        epoch = self.lease.epoch
        self.lease.end()
        self.poller.lost()
        self._leading.set(0)
        self._changes.inc()
        _log.info("polls.not_led", upstream=self.name, epoch=epoch)
