"""What was seen of one model's tasks: how many reached each age, and how many of them ended there.

Owns the counts; pure, and knows no task: each poll tells of one stretch of one task's life. Kept by
``gateway.upstream.durations``, read by ``gateway.upstream.estimate``.

A task that is found running at some age has lasted so long: it is counted among those at risk up to there, as one
that ended is, so that the living say as much as the dead (right-censoring; the counts are those of Kaplan & Meier
1958). A stretch counts when its end is known, whatever it is, so nothing is learned from who ended first: the weights,
which grow meanwhile, do not depend on it either (predictable ones, as of Andersen, Borgan, Gill & Keiding, Statistical
Models Based on Counting Processes, 1993). A task counts from its beginning, also where it was registered late: whoever
registers late does so whatever has become of it.

Ages are divided logarithmically into bins of 1 %, and these into bands of nearly a factor of two. A band forgets by
itself: a task counts half as much there as the ``HALF_LIFE``-th one after it to come through. Thus drift is followed,
and however many short tasks end, what is known of long ones stays until long ones say otherwise.
"""

import math
from array import array
from collections.abc import Mapping
from typing import Final

import msgspec

HALF_LIFE: Final = 96
_GROWTH: Final = 2 ** (1 / HALF_LIFE)
_FIRST_S: Final = 0.25
RATIO: Final = 0.01
"""The first bin's end, and the logarithm of by how much each later one's is greater."""
BINS: Final = 64
_HEAVY: Final = 1e9
_DIGITS: Final = 6
LONGEST_S: Final = 2_592_000.0
"""The longest a callback may wait."""


class Seen(msgspec.Struct, array_like=True):
    """The counts of one model as they are kept: of each band, those that are not 0."""

    begun: int
    ended: int
    bands: list[tuple[dict[int, float], dict[int, float]]]


class _Band:
    """``reached[i]``: how many more are at risk in the i-th bin than in the one before; ``ended[i]``: end in it."""

    __slots__ = ("ended", "reached", "weight")

    def __init__(self, reached: Mapping[int, float] = {}, ended: Mapping[int, float] = {}) -> None:
        self.reached = array("d", (reached.get(i, 0.0) for i in range(BINS + 1)))
        self.ended = array("d", (ended.get(i, 0.0) for i in range(BINS)))
        self.weight = 1.0
        """What the next task counts; older ones count less, as this grows."""

    def counts(self) -> tuple[dict[int, float], dict[int, float]]:
        """Return both where they are not 0, in tasks that count 1 each."""
        return _present(self.reached, self.weight), _present(self.ended, self.weight)


class Sightings:
    """The counts of one model, a kilobyte for each band that was reached."""

    __slots__ = ("_bands", "begun", "ended", "told")

    def __init__(self) -> None:
        self._bands: list[_Band] = []
        self.begun = self.ended = 0
        """So many tasks were seen at all, and so many to their end."""
        self.told = 0
        """So many polls have told of one."""

    @classmethod
    def restored(cls, seen: Seen) -> "Sightings":
        """Return what was dumped."""
        self = cls()
        self.begun, self.ended, self.told = seen.begun, seen.ended, seen.begun
        self._bands = [_Band(*band) for band in seen.bands]
        return self

    def dump(self) -> Seen:
        """Return what there is."""
        return Seen(self.begun, self.ended, [band.counts() for band in self._bands])

    def counts(self) -> tuple[list[float], list[float]]:
        """Return how many were at risk in each bin, and how many ended in it, in tasks that count 1 each."""
        at_risk: list[float] = []
        ended: list[float] = []
        for band in self._bands:
            here = 0.0
            for more, ends in zip(band.reached, band.ended, strict=False):
                here += more / band.weight
                at_risk.append(max(here, 0.0))
                ended.append(ends / band.weight)
        return at_risk, ended

    def count(self, number: int, stop: int, *, begun: bool, ended: bool) -> None:
        """Count a task as alive from the bin in which it was last seen up to ``stop``: O(1).

        ``begun``: it was not seen before; ``ended``: in the last of these bins.
        """
        self.told += 1
        self.begun += begun
        self.ended += ended
        while len(self._bands) * BINS < stop:
            self._bands.append(_Band())
        last_band = (stop - 1) // BINS
        if number >= stop:
            return
        first = number % BINS
        for at in range(number // BINS, last_band + 1):
            band = self._bands[at]
            last = stop - at * BINS if at == last_band else BINS
            band.reached[first] += band.weight
            band.reached[last] -= band.weight
            if ended and at == last_band:
                band.ended[last - 1] += band.weight
            band.weight *= _GROWTH ** ((last - first) / BINS)
            if band.weight > _HEAVY:
                self._bands[at] = _Band(*band.counts())
            first = 0


def _present(counts: "array[float]", weight: float) -> dict[int, float]:
    if counts.count(0.0) == len(counts):
        return {}  # as of most bands
    return {i: round(count / weight, _DIGITS) for i, count in enumerate(counts) if count}


def bin_of(age_s: float) -> int:
    """Return the bin in which an age lies; what is no credible age lies in the first or the last."""
    if not age_s >= _FIRST_S:
        return 0
    return 1 + int(math.log(min(age_s, LONGEST_S) / _FIRST_S) / RATIO)


def bin_end_s(number: int) -> float:
    """Return the age at which a bin ends."""
    return _FIRST_S * math.exp(number * RATIO)
