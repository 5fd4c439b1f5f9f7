"""Waiting for what tells nobody that it has come about: it is looked for again and again, within a limit of time.

Where something tells, wait for that: an event, a line of a log, an end. In virtual time ``tests.life.until`` waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["LIMIT_S", "a_moment", "until"]

LIMIT_S = 20


async def a_moment() -> None:
    """Wait between two questions: each costs what is waited for as much time as the test."""
    await asyncio.sleep(0.02)


async def until(condition: Callable[[], Any], within_s: float = LIMIT_S) -> Any:
    """Return what a condition does once it holds; one that asks another process, or over HTTP, is awaited.

    TimeoutError where it does not hold within so many seconds.
    """
    async with asyncio.timeout(within_s):
        while True:
            held = condition()
            asked = isinstance(held, Awaitable)
            if found := await held if asked else held:
                return found
            await (a_moment() if asked else asyncio.sleep(0.002))
