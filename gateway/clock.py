"""The only reader of the machine's clocks.

Instants are whole milliseconds since the Unix epoch (UTC) and their names end in ``_at``; spans are seconds and
their names end in ``_s``. Everything that needs the time is handed a ``Clock``, so that tests can own it.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

__all__ = ["Clock", "SystemClock", "from_iso", "to_iso", "wait_for_event"]


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> int:
        """Return the wall clock in milliseconds since the epoch; it may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never runs backwards."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


def to_iso(at: int) -> str:
    """Format an instant as RFC 3339 in UTC with milliseconds: ``2026-11-23T10:00:00.000Z``."""
    seconds, millis = divmod(at, 1000)
    return f"{_to_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=1024)  # most instants that are shown lie within a few seconds
def _to_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def from_iso(text: str) -> int:
    """Parse an ISO 8601 instant with a zone, RFC 3339's form included, to milliseconds since the epoch.

    Raises ValueError for anything else, a missing zone included: a guess would be wrong by hours.
    """
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError("needs a zone, for example 2026-11-23T10:00:00Z")
    return round(parsed.timestamp() * 1000)


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set or ``timeout_s`` seconds have passed, whichever is first."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(timeout_s, 0)):
            await event.wait()
