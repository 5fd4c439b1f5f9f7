"""How long tasks take: learned per stream from those that ended and from those that still run.

Owns what is known of each stream; pure: the time is passed in. Must not decide when to poll
(``gateway.upstream.schedule``). Called by ``gateway.upstream.timetable``, which tells what each poll found, and asks
for the distribution of the next task.

A **stream** is a kind of task whose durations are counted together: those of one model, from when they began, or those
that one client registers, from when it did.

**Prior.** What was seen is mixed with ``PRIOR_TASKS`` made-up tasks: one half from what the upstream's models take
together, one half from a broad lognormal (median 30 s, a factor 3.3 up or down for one standard deviation). They are
all there is for a model never seen, and are outweighed after a handful of tasks.

**Cost.** To count what a poll found takes microseconds, however many tasks are watched. A distribution is some 150
points, made on demand in about 2 ms, and made anew only when a good part of what it rests on is new, and then not
within ``REBUILD_S`` where it is well known. Of more streams than ``KEPT_STREAMS`` those
longest unheard of are forgotten, the least known first.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from gateway.upstream.distribution import PRIOR, Distribution
from gateway.upstream.estimate import estimate
from gateway.upstream.sightings import LONGEST_S, Seen, Sightings, bin_of

Stream = str
"""The name of one, by which what was learned of it is kept."""

PRIOR_TASKS: Final = 2.0
REBUILD_S: Final = 10.0
_EAGER_TASKS: Final = 512
_EAGER_S: Final = 0.1
"""Up to this many tasks ended, every few change the picture: ``REBUILD_S`` does not apply, but only one stream's is
made anew within that time …"""
_EAGER_POLLS: Final = 64
"""… but for the first ones."""
_MODEL, _CLIENT, _NO_MODEL, _POOL = "model ", "client ", "no model", "all models"
KEPT_STREAMS: Final = 256
_LOOKED_AT: Final = 32
_NEW_POLLS: Final = 256
"""After so many polls, at the latest, the picture is another one."""


class Durations:
    """What is known of the durations of one upstream's tasks. Some 15 kB a stream, 40 at most."""

    def __init__(self) -> None:
        self._streams: OrderedDict[Stream, _Stream] = OrderedDict()
        self._pool = _Stream()
        self._unknown = _Stream()
        self._built_s = -math.inf
        self.told = 0
        """So often something was learned."""

    def alive(self, stream: Stream, from_s: float, to_s: float) -> None:
        """Learn from a task that was found running at the age ``to_s``; ``from_s`` is that of the poll before, or 0."""
        if to_s <= LONGEST_S:
            self._count(stream, from_s, bin_of(to_s), ended=False)

    def ended(self, stream: Stream, from_s: float, duration_s: float) -> None:
        """Learn from a task that has ended, at the age ``duration_s``; ``from_s`` as in ``alive``.

        What is longer than a callback may wait is a mistake of a clock, and teaches nothing.
        """
        if from_s <= LONGEST_S and duration_s <= LONGEST_S:
            self._count(stream, from_s, bin_of(max(from_s, duration_s)) + 1, ended=True)

    def _count(self, stream: Stream, from_s: float, stop: int, *, ended: bool) -> None:
        number, begun = bin_of(from_s), from_s <= 0
        for seen in self._seen_of(stream):
            seen.count(number, stop, begun=begun, ended=ended)

    def begun(self, stream: Stream) -> int:
        """Return how many tasks of a stream have been seen at all."""
        known = self._streams.get(stream)
        return 0 if known is None else known.seen.begun

    def known(self, stream: Stream) -> int:
        """Return how many tasks of a stream have been seen to their end."""
        known = self._streams.get(stream)
        return 0 if known is None else known.seen.ended

    def distribution(self, stream: Stream, now_s: float) -> Distribution:
        """Return the present estimate for a stream, known or not; ``now_s`` is any steady clock, in seconds."""
        known = self._streams.get(stream)
        if known is None:
            # Shared: asking must neither make a stream known nor push another one out; names come from outside.
            known = self._unknown
            known.seen.told = self._pool.seen.told
        eager = now_s - self._built_s >= _EAGER_S
        if not known.stale(now_s, eager=eager):
            return known.distribution
        self._built_s = now_s
        pool = self._pool
        if pool.stale(now_s, eager=eager):
            pool.rebuild([(PRIOR, PRIOR_TASKS)], now_s)
        known.rebuild([(pool.distribution, PRIOR_TASKS / 2), (PRIOR, PRIOR_TASKS / 2)], now_s)
        return known.distribution

    def each(self) -> Iterator[tuple[str, str, int, Stream]]:
        """Yield each stream's kind (``model`` or ``client``), its name, how many of it were seen to end, and itself."""
        for stream, known in self._streams.items():
            for kind in (_MODEL, _CLIENT):
                if stream.startswith(kind):
                    yield kind.strip(), stream.removeprefix(kind), known.seen.ended, stream

    def dump(self) -> dict[Stream, Seen]:
        """Return all that is known, in a form that can be kept."""
        return {stream: known.dump() for stream, known in self._each()}

    def restore(self, kept: dict[Stream, Seen]) -> None:
        """Begin with what was known before, or elsewhere; what is known here of the same streams goes."""
        for stream, seen in kept.items():
            known = self._pool if stream == _POOL else self._streams.setdefault(stream, _Stream())
            known.restore(seen)
        for stream in [*self._streams][:-KEPT_STREAMS]:
            del self._streams[stream]

    def _each(self) -> Iterator[tuple[Stream, "_Stream"]]:
        yield from self._streams.items()
        yield _POOL, self._pool

    def _seen_of(self, stream: Stream) -> list[Sightings]:
        self.told += 1
        known = self._streams.get(stream)
        if known is None:
            known = self._streams[stream] = _Stream()
            if len(self._streams) > KEPT_STREAMS:
                # Of the longest unheard of the least known: names that are made up push out one another.
                least = min(islice(self._streams, _LOOKED_AT), key=lambda name: self._streams[name].seen.ended)
                del self._streams[least]
        else:
            self._streams.move_to_end(stream)
        return [known.seen, self._pool.seen] if stream.startswith(_MODEL) else [known.seen]


def of_model(model: str | None) -> Stream:
    """Return the stream of a model's tasks, by their age; None: of those whose model is not known."""
    return f"{_MODEL}{model}" if model is not None else _NO_MODEL


def of_client(client: str) -> Stream:
    """Return the stream of what a client has watched, by how long it was."""
    return f"{_CLIENT}{client}"


class _Stream:
    """What was seen of one stream, and the distribution that was made of it."""

    __slots__ = ("_built_ended", "_built_s", "_built_told", "_dumped", "distribution", "seen")

    def __init__(self) -> None:
        self.seen = Sightings()
        self._built_told = -1
        self._built_ended = 0
        self._built_s = 0.0
        self._dumped: tuple[int, Seen] | None = None
        self.distribution = PRIOR

    def restore(self, seen: Seen) -> None:
        self.seen = Sightings.restored(seen)
        self._built_told, self._dumped = -1, None

    def dump(self) -> Seen:
        """Return the counts; those of before where nothing is new, as there may be many streams."""
        if self._dumped is None or self._dumped[0] != self.seen.told:
            self._dumped = self.seen.told, self.seen.dump()
        return self._dumped[1]

    def stale(self, now_s: float, *, eager: bool) -> bool:
        if self._built_told < 0:
            return True
        if self.seen.told - self._built_told <= min(self._built_told // 8, _NEW_POLLS):
            return False
        eager = (eager and self._built_ended < _EAGER_TASKS) or self._built_told < _EAGER_POLLS
        return eager or now_s - self._built_s >= REBUILD_S

    def rebuild(self, bases: Sequence[tuple[Distribution, float]], now_s: float) -> None:
        self.distribution = estimate(self.seen, bases)
        self._built_told, self._built_ended, self._built_s = self.seen.told, self.seen.ended, now_s
