"""What was spent of one key, as it outlives a process: a small durable value, in which each replica has a part.

Owns its form, and what of a part counts and for how long; pure. Called by ``gateway.upstream.budget``.

A part says which of its replica's requests ended when, how many more are open (in flight, or reserved and still to be
sent), and until when its replica may send those. Whoever lives puts its part anew before then, so that open ones count
as in flight. Those of a replica that is gone, or paused, count as ended then. So a part ages out of each window by
itself, and is given up once nothing of it counts.

With one process there is one part, without a name, whose form is that of the gateways before there were replicas.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

ALONE = ""
"""The name of the only process there is: the part that it finds is its own from before."""
_SKEW_MS = 50
"""So far may two replicas' clocks be apart, though both show the database's time."""
_FRESH_MS = 3_000
"""For so long it holds that somebody waits: he tells it again every second."""
_SET_BACK_MS = 5_000
"""A part that was put down so much later than now was so before the clock was set back: it counts as put down now."""

_GONE = "gone"
_MOST_GONE = 8
_GONE_SLOTS = 60


class Spending(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one replica has put down. Instants are the database's."""

    ended: list[tuple[int, int]]
    """When how many of its requests ended."""
    open: int
    """How many more may have been sent since, or are in flight, or may be sent."""
    until: int = 0
    """When the last of the open ones is sent, unless the part is put anew before. 0: by the time it is read."""
    at: int = 0
    """When it was put down."""
    sent: int = 0
    """How many requests this replica has made in its life."""
    waiting: int = 0
    """How many clients' requests wait there for a place."""
    polls: bool = False
    """Whether more polls are due there than may be sent: what it sends are polls, for the most part."""
    paused_until: int = 0
    """Until when the upstream has asked to be left alone."""
    told: list[tuple[int, float, int]] = []
    """The limits that the upstream has named: so many in so many seconds, until then."""

    def counted(self) -> Iterator[tuple[int, int]]:
        """Return when how many ended, at the latest; that may lie ahead."""
        for at, count in self.ended:
            yield at + _SKEW_MS, count
        if self.open:
            yield self.until + _SKEW_MS, self.open

    def counts(self, now: int, longest_ms: int) -> bool:
        """Whether anything of it counts still; ``longest_ms``: the longest window."""
        last_at = max((at for at, _ in self.counted()), default=0) + longest_ms
        return now < max(last_at, self.paused_until, self.at + _FRESH_MS, *(until for _, _, until in self.told))

    def moved(self, step_ms: int) -> "Spending":
        """Return the same that much later."""
        return msgspec.structs.replace(
            self,
            ended=[(at + step_ms, count) for at, count in self.ended],
            until=self.until + step_ms,
            at=self.at and self.at + step_ms,
            paused_until=self.paused_until and self.paused_until + step_ms,
            told=[(limit, window_s, until + step_ms) for limit, window_s, until in self.told],
        )

    def is_open(self, now: int) -> bool:
        """Whether its replica may be sending."""
        return self.open > 0 and now < self.until + _SKEW_MS

    def is_fresh(self, now: int) -> bool:
        """Whether who waited when it was put down may be waiting still."""
        return now < self.at + _FRESH_MS


def folded(parts: Mapping[str, Spending], now: int, longest_ms: int) -> dict[str, Spending]:
    """Return the parts that count still, those of many replicas that are gone as one; ``longest_ms``: as above.

    Replicas that start again and again must not fill the value.
    """
    found = {name: part for name, part in parts.items() if part.counts(now, longest_ms)}
    gone = [name for name, part in found.items() if not (part.is_open(now) or part.is_fresh(now))]
    if len(gone) <= _MOST_GONE:
        return found
    slot_ms = max(longest_ms // _GONE_SLOTS, 1)
    ended: Counter[int] = Counter()
    them = [found.pop(name) for name in gone]
    for at, count in (one for part in them for one in part.counted()):
        ended[-(-at // slot_ms) * slot_ms] += count
    found[_GONE] = Spending(
        sorted(ended.items()),
        0,
        until=now,
        paused_until=max(part.paused_until for part in them),
        told=sorted({told for part in them for told in part.told}),
    )
    return found


class _EitherForm(msgspec.Struct, frozen=True):
    """Either form: the parts, or that of the only process."""

    parts: dict[str, Spending] = {}
    ended: list[tuple[int, int]] | None = None
    open: int = 0


def encode(parts: Mapping[str, Spending]) -> bytes:
    """Return the value."""
    if parts.keys() == {ALONE}:
        return msgspec.json.encode(parts[ALONE])
    return msgspec.json.encode({"parts": parts})


def decode(stored: bytes | None, now: int) -> dict[str, Spending]:
    """Return each replica's part."""
    if stored is None:
        return {}
    kept = msgspec.json.decode(stored, type=_EitherForm)
    parts = dict(kept.parts) if kept.ended is None else {ALONE: Spending(kept.ended, kept.open)}
    for name, part in parts.items():
        if not part.until:
            parts[name] = msgspec.structs.replace(part, until=now)
        elif (put_at := part.at or max((at for at, _ in part.ended), default=0)) > now + _SET_BACK_MS:
            parts[name] = part.moved(now - put_at)
    return parts
