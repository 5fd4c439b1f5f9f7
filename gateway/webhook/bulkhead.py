"""Who may have how many attempts in flight, so that bad receivers delay nobody else.

Owns the counts; pure: the time is handed in. A lane is one client's webhooks to one receiver. The deliverer says which
lanes have webhooks that are due, claims the shares that it is given, and says what becomes of each attempt.

- A lane gets a place while it holds fewer than are free in all (a dynamic threshold: Choudhury & Hahne 1998). One alone
  gets half of all places; however many hang, each further one finds half of the rest. One that failed ``_OPENS_AFTER``
  times in a row gets one place, as a probe, until an attempt succeeds: a circuit breaker, half-open.
- A client gets one while it holds fewer than three times as many as are free: one alone leaves a quarter to others.
- Lanes without an attempt yet, and those whose last one failed, are newcomers. They leave a quarter of the places to
  others, and one client's a quarter of the rest to another's. As any of them may hang, only one in eight of the places
  that newcomers have left (in four, while few of theirs take long) may be filled within a fifteenth of an attempt's
  time, a second by default: so there is one left for whoever comes next. In a fixed time it would not be: the longer
  an attempt may take, the more of them would hang before the first one ends.
- Retries leave a quarter of the places to first attempts, and each client's half of its own.
- A lane that is paused gets none, and comes back as a newcomer: what fell due meanwhile is sent few at a time.
- A receiver that has limits of its own (``limits``) gets no more; what waits for that holds up no other.
- A look-up of a name that takes a second gives its place back until it has an answer, however long an attempt may take.
- The client with the fewest places is next: ``waiting`` says which of several, and which of its lanes.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import TypeVar

import msgspec

from gateway.core.claims import DueCallback, Lane, Share
from gateway.core.pausing import holds_back
from gateway.webhook.limits import ReceiverLimits, Usage
from gateway.webhook.newcomers import Claim, Lately, Newcomers, counted, half, most
from gateway.webhook.waiting import Waiting

T = TypeVar("T")

_OPENS_AFTER = 5
_RETRY_SHARE = 0.75
_NEWCOMER_SHARE = 0.75
_LOOK_UP_S = 1.0
_YOUNG_PART = 1 / 15  # of an attempt's time: an eighth less each time leaves 21 of a client's 144 when the first end
_REMEMBERED = 10_000  # lanes that are known to be well, or to fail: of more, the longest unheard of are forgotten
_NONE: Counter[str | None] = Counter()


class Bulkhead:
    """``limit`` places for attempts; ``lent`` of them at most are lent to others meanwhile, as names are looked up."""

    def __init__(
        self, limit: int, lent: int = 0, attempt_s: float = 15.0, limits: ReceiverLimits | None = None
    ) -> None:
        """``attempt_s``: how long an attempt may take, but for those of the few receivers whose tables say otherwise.

        ``limits``: what some receivers' tables allow.
        """
        self._limit = limit
        self._limits = limits
        self._most_lent = lent
        self._now_s = 0.0
        # By their claims: one that has lapsed may be under way still while its webhook is claimed anew.
        self._attempts: dict[Claim, _UnderWay] = {}
        self._young = Lately(attempt_s * _YOUNG_PART)  # newcomers
        self._looking_up = Lately(_LOOK_UP_S)
        # Places, without those that are lent.
        self._total = 0
        self._retries: Counter[str | None] = Counter()  # a client's, and all of them
        self._of_client: Counter[str] = Counter()
        self._newcomers = Newcomers(int(limit * _NEWCOMER_SHARE))
        self._of_lane: Counter[Lane] = Counter()  # with those that are lent
        self._failures: OrderedDict[Lane, int] = OrderedDict()  # in a row
        self._well: OrderedDict[Lane, None] = OrderedDict()
        self._waiting = {newcomers: Waiting() for newcomers in (False, True)}
        self._full: set[Lane] = set()  # these wait until they may have more places, and hold some
        self._only_retries = Waiting()  # these until retries have a place: nothing else of them is due
        self._last_first = False
        self._paused: frozenset[Lane] = frozenset()
        self._held_back: set[Lane] = set()  # of these, the ones that have something due

    @property
    def free(self) -> int:
        """How many places are free."""
        return self._limit - self._total

    @property
    def waits(self) -> bool:
        """Whether a lane waits for a place."""
        return bool(self.in_line or self._full or self._only_retries.count)

    def lanes(self) -> Iterator[tuple[Lane, int, bool]]:
        """Yield each lane that is known of, how many attempts it has under way, and whether it gets one at a time."""
        for lane in {**self._failures, **self._well, **self._of_lane}:
            yield lane, self._of_lane.get(lane, 0), self._is_probed(lane)

    def probed(self) -> list[Lane]:
        """Return the lanes that get one attempt at a time: their circuit breakers are open."""
        return [lane for lane in self._failures if self._is_probed(lane)]

    @property
    def in_line(self) -> int:
        """How many lanes wait for their turn, and for nothing else."""
        return self._waiting[False].count + self._waiting[True].count

    @property
    def next_turn_s(self) -> float | None:
        """In how many seconds there may be a place for a lane that waits, though no attempt ends."""
        turn_s = self._turn_s
        if self._limits is None or not self._limits.any or not self._full:
            return turn_s
        allowed_s = self._limits.more_in_s
        return turn_s if allowed_s is None else allowed_s if turn_s is None else min(turn_s, allowed_s)

    @property
    def _turn_s(self) -> float | None:
        grown_s = self._young.next_s(self._now_s) if self.waits else None
        # Where all are taken lanes may wait that nobody has told of yet, and a look-up lends its place.
        lent_s = self._looking_up.next_s(self._now_s) if self.waits or not self.free else None
        return min((turn_s for turn_s in (grown_s, lent_s) if turn_s is not None), default=None)

    def at(self, now_s: float) -> None:
        """Hear what time it is (monotonic)."""
        self._now_s = now_s
        for claim in self._young.left(now_s):
            self._newcomers.grow(self._attempts[claim].lane, -1)
        for claim in self._looking_up.left(now_s):
            if len(self._attempts) - self._total < self._most_lent:
                attempt = self._attempts[claim]
                attempt.lent = True
                self._grown(claim)
                self._hold(attempt, -1)

    # Who waits, and whose turn it is

    def wait(self, lane: Lane) -> None:
        """Hear that a lane has webhooks that are due."""
        self._only_retries.remove(lane)
        if self._is_paused(lane):
            self._held_back.add(lane)
            return
        if lane not in self._full:
            waiting = self._waiting[lane not in self._well]
            waiting.add(lane, holds=lane in self._of_lane, fails=lane in self._failures)

    def wait_for_retries(self, lane: Lane) -> None:
        """Hear that nothing is due on a lane but retries, which had no place when it was asked for."""
        if self._room_for_retries(lane.client) > 0:
            self.wait(lane)  # one has ended since, and told nobody: the lane did not wait yet
        else:
            self._only_retries.add(lane)

    def pause(self, lanes: frozenset[Lane]) -> None:
        """Hear which lanes are paused from now on, all of them, and what lies under them: what is under way goes on."""
        if lanes is self._paused:
            return  # none is new or gone
        before, self._paused = self._paused, lanes
        waits = (*self._waiting.values(), self._only_retries)
        for lane in filter(self._is_paused, [*self._full, *chain.from_iterable(waits)]):
            for waiting in waits:
                waiting.remove(lane)
            self._full.discard(lane)
            self._held_back.add(lane)
        known = dict.fromkeys(chain(self._well, self._held_back))
        for lane in [one for one in known if holds_back(before, one) and not self._is_paused(one)]:
            self._well.pop(lane, None)
            if lane in self._held_back:
                self._held_back.remove(lane)
                self.wait(lane)

    def _is_paused(self, lane: Lane) -> bool:
        return bool(self._paused) and holds_back(self._paused, lane) is not None

    def shares(self, limit: int) -> list[Share]:
        """Return of whom how much is to be claimed now, ``limit`` places at most; these lanes wait no longer."""
        for lane in [lane for lane in self._full if self._room_of_lane(lane) > 0]:
            self._full.remove(lane)
            self.wait(lane)
        retries: Counter[str | None] = Counter()
        for client in self._only_retries.clients(last_first=self._last_first):
            while self._room_for_retries(client, retries) > 0 and (again := self._only_retries.pop(client)) is not None:
                self.wait(again)
                retries.update((None, client))
        shares: list[Share] = []
        limit = min(limit, self.free)
        retries.clear()
        for newcomers in (False, True):
            left = min(limit, self._newcomers.room) if newcomers else limit
            for lane, room in self._turns(newcomers, left):
                shares.append(Share(lane, room, self._room_for_retries(lane.client, retries) > 0))
                retries.update({None: room, lane.client: room})
                limit -= room
        self._last_first ^= bool(shares)
        return shares

    def _turns(self, newcomers: bool, left: int) -> Iterator[tuple[Lane, int]]:
        """Yield who is next, and how many of ``left`` places are for it: where many wait, one for each."""
        waiting = self._waiting[newcomers]
        clients = waiting.clients(last_first=self._last_first)
        clients.sort(key=lambda client: self._of_client.get(client, 0))
        for others, client in zip(range(len(clients) - 1, -1, -1), clients, strict=True):
            its = min(-(-left // (others + 1)), self._room_of_client(client, newcomers))
            while its > 0 and (lane := waiting.pop(client)) is not None:
                room = min(-(-its // (waiting.count_of(client) + 1)), self._room_of_lane(lane))
                if room > 0:
                    yield lane, room
                    its -= room
                    left -= room
                else:
                    self._full.add(lane)

    def _room_of_client(self, client: str, newcomers: bool) -> int:
        room = most(self.free, self._of_client.get(client, 0))
        return min(room, self._newcomers.room_of_client(client)) if newcomers else room

    def _room_for_retries(self, client: str, more: Counter[str | None] = _NONE) -> int:
        left = int(self._limit * _RETRY_SHARE) - self._retries[None] - more[None]
        return min(left, half(self.free - more[None], self._retries[client] + more[client]))

    def _room_of_lane(self, lane: Lane) -> int:
        held = self._of_lane.get(lane, 0)
        allowed = self.free if self._limits is None or not self._limits.any else self._limits.room(lane)
        if self._is_probed(lane):
            return min(1 - held, allowed)
        room = min(half(self.free, held), allowed)
        return room if lane in self._well else min(room, self._newcomers.room_of_lane(lane))

    def _is_probed(self, lane: Lane) -> bool:
        return self._failures.get(lane, 0) >= _OPENS_AFTER

    # What becomes of attempts

    def admit(self, callback: DueCallback) -> bool:
        """Take a place for an attempt, or say no: to its lane, its client, newcomers or retries."""
        lane, claim = callback.lane, callback.claim
        attempt = _UnderWay(lane, callback.retry, lane not in self._well)
        allowed, usage = (True, None) if self._limits is None else self._limits.begins(callback.url)
        if self._paused and holds_back(self._paused, lane, callback.url) != holds_back(self._paused, lane):
            return False  # by a pause of its path, which its lane is not called by: it is handed over
        if not allowed or self._room_of_lane(lane) <= 0 or not self._begins(claim, attempt):
            return False
        if usage is not None:
            usage.begin()
            attempt.usage = usage
        self._attempts[claim] = attempt
        self._of_lane[lane] += 1
        return True

    def misplaced(self, callback: DueCallback) -> str | None:
        """Return to which other receiver's lanes a webhook belongs: to a table's that came after it, or a pause's."""
        receiver, held = callback.receiver, holds_back(self._paused, callback.lane, callback.url)
        its = receiver if self._limits is None else self._limits.receiver_of(callback.url, receiver)
        its = its if held is None else max(its, held.receiver, key=len)
        return None if its == receiver else its

    def _begins(self, claim: Claim, attempt: "_UnderWay") -> bool:
        client, newcomer = attempt.lane.client, attempt.newcomer
        if self._room_of_client(client, newcomer) <= 0 or (attempt.retry and self._room_for_retries(client) <= 0):
            return False
        if newcomer:
            self._young.add(claim, self._now_s)
            self._newcomers.grow(attempt.lane, 1)
        self._hold(attempt, 1)
        return True

    def looks_up(self, callback: DueCallback) -> None:
        """Hear that an attempt has to look its receiver's name up."""
        self._looking_up.add(callback.claim, self._now_s)

    def found(self, callback: DueCallback) -> bool:
        """Hear that it has done so; return whether it has a place: its own may have gone to another meanwhile."""
        attempt = self._attempts[callback.claim]
        self._looking_up.remove(callback.claim)
        if attempt.lent:
            attempt.lent = not self._begins(callback.claim, attempt)
        return not attempt.lent

    def sends(self, callback: DueCallback) -> bool:
        """Hear that an attempt is sent now; return whether somebody waits who may know from that when there is room."""
        attempt = self._attempts[callback.claim]
        if attempt.usage is None or self._limits is None or attempt.sent:
            return False
        attempt.sent = True
        return attempt.usage.sends(self._limits.now_s()) and bool(self._full)

    def ended(self, callback: DueCallback, *, delivered: bool | None) -> None:
        """Give the place back; ``delivered`` is None for an attempt that says nothing about its receiver."""
        claim = callback.claim
        self._grown(claim)
        self._looking_up.remove(claim)
        attempt = self._attempts.pop(claim)
        lane = attempt.lane
        if attempt.usage is not None:
            attempt.usage.end(sent=attempt.sent)
        if not attempt.lent:
            self._hold(attempt, -1)
        counted(self._of_lane, lane, -1)
        waited = self._waiting[False].remove(lane) or self._waiting[True].remove(lane)
        if delivered:
            self._failures.pop(lane, None)
            _remember(self._well, lane, None)
        elif delivered is False:
            self._well.pop(lane, None)
            _remember(self._failures, lane, self._failures.get(lane, 0) + 1)
        if waited:
            self.wait(lane)  # with others, perhaps, than before

    def _grown(self, claim: Claim) -> None:
        if self._young.remove(claim):
            self._newcomers.grow(self._attempts[claim].lane, -1)

    def _hold(self, attempt: "_UnderWay", change: int) -> None:
        self._total += change
        client = attempt.lane.client
        counted(self._of_client, client, change)
        if attempt.retry:
            for whose in (None, client):
                counted(self._retries, whose, change)
        if attempt.newcomer:
            self._newcomers.hold(attempt.lane, change)


class _UnderWay(msgspec.Struct, eq=False):
    """An attempt that is under way; ``lent``: somebody else has its place."""

    lane: Lane
    retry: bool
    newcomer: bool
    lent: bool = False
    sent: bool = False
    usage: Usage | None = None


def _remember(lanes: OrderedDict[Lane, T], lane: Lane, what: T) -> None:
    lanes[lane] = what
    lanes.move_to_end(lane)
    if len(lanes) > _REMEMBERED:
        lanes.popitem(last=False)
