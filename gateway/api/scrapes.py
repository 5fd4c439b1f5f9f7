"""The text of ``/metrics``, made once for all who ask at the same time, and with a pause before the next time.

Owns how often it is made: nobody needs a token to ask, and to write out every metric takes milliseconds in which the
gateway does nothing else. Called by ``operations``.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

from gateway.core.clock import Clock

__all__ = ["Scrapes"]

_PAUSE = 20
"""For so many times as long as the last text took, no other is made: whoever asks meanwhile waits for the next."""
_MAX_PAUSE_S = 1.0


class Scrapes:
    """Makes the text: ``refresh`` brings the metrics up to date, ``render`` writes them out."""

    def __init__(self, clock: Clock, refresh: Callable[[], Awaitable[None]], render: Callable[[], bytes]) -> None:
        self._clock = clock
        self._refresh = refresh
        self._render = render
        self._next: asyncio.Task[bytes] | None = None
        self._not_before = -math.inf

    async def text(self) -> bytes:
        """Return a text that was made after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._make(), name="metrics")
        return await asyncio.shield(self._next)

    async def _make(self) -> bytes:
        try:
            pause_s = self._not_before - self._clock.monotonic()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            await self._refresh()
        finally:
            self._next = None  # who asks from here on gets the next one
        began = self._clock.monotonic()
        text = self._render()
        ended = self._clock.monotonic()
        self._not_before = ended + min(_PAUSE * (ended - began), _MAX_PAUSE_S)
        return text
