"""What was learned of durations outlives the process: it is kept as one small durable value.

Owns when it is written and in which form. Called by ``gateway.upstream.timetable``.
"""

import asyncio
import math

import msgspec

from gateway.upstream.durations import Durations, of_model
from gateway.upstream.reservations import Load, Swap
from gateway.upstream.sightings import Seen

_SAVE_S = 10.0
_FOLLOW_S = 30.0
_BYTES_PER_S = 20_000
"""So much of what was learned may be lost to a crash; more where there is much of it, as to encode it takes time."""


class _Kept(msgspec.Struct, omit_defaults=True):
    """``durations_ms``: of each model's tasks, as an earlier gateway has kept them."""

    streams: dict[str, Seen] = {}
    durations_ms: dict[str, list[int]] = {}


class Learned:
    """The durations of one upstream's tasks; ``swap`` keeps what must outlive the process, ``load`` has it."""

    def __init__(self, load: Load, swap: Swap) -> None:
        self.durations = Durations()
        self._load = load
        self._swap = swap
        self._stored: bytes | None = None
        self._stored_told = 0
        self._save_at = self._follow_at = -math.inf

    async def restore(self) -> None:
        """Begin with what an earlier process learned, or another one since, where it can be read. Raises StoreError."""
        found = await self._load()
        if found is None or found == self._stored:
            return
        self._stored = found
        try:
            kept = msgspec.json.decode(self._stored, type=_Kept)
        except msgspec.MsgspecError:
            return  # another version's: what was learned is learned anew
        self.durations.restore(kept.streams)
        for model, durations_ms in kept.durations_ms.items():
            for duration_ms in durations_ms:
                self.durations.ended(of_model(model), 0.0, duration_ms / 1000)
        self._stored_told = self.durations.told

    async def follow(self, steady: float) -> None:
        """Take over what another process has kept since, where the last time was ``_FOLLOW_S`` ago. Raises StoreError.

        What was learned here counts no longer: most of it was told to both.
        """
        if steady >= self._follow_at:
            self._follow_at = steady + _FOLLOW_S
            await self.restore()
            self._follow_at = steady + max(_FOLLOW_S, len(self._stored or b"") / _BYTES_PER_S)

    async def save(self, steady: float, *, now: bool = False) -> None:
        """Keep what was learned since the last time, if that was ``_SAVE_S`` ago or ``now``. Raises StoreError."""
        if self.durations.told == self._stored_told or (steady < self._save_at and not now):
            return
        told = self.durations.told
        new = msgspec.json.encode(_Kept(self.durations.dump()))
        self._save_at = steady + max(_SAVE_S, len(new) / _BYTES_PER_S)
        for _ in range(2):
            try:
                swapped = await self._swap(self._stored, new)
            except asyncio.CancelledError:
                self._stored = new  # what was asked for is done all the same
                raise
            if swapped:
                self._stored, self._stored_told = new, told
                return
            self._stored = await self._load()  # another process has kept its own meanwhile, or a write had been lost
