"""Work that goes on without its client, and how soon who waits for it goes on."""

import asyncio
import warnings
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.api.forwarding import Forwarding
from gateway.api.proxied import Proxied


@pytest.fixture
def forwarding() -> Forwarding:
    return Forwarding(cast("Proxied", SimpleNamespace(key=None, metrics=None)))


async def test_who_waits_for_it_goes_on_before_who_waits_for_the_task(forwarding: Forwarding) -> None:
    """Each turn of a busy event loop takes milliseconds; with ``shield`` it would be one more."""
    go_on = asyncio.Event()
    order: list[str] = []

    async def work() -> None:
        await go_on.wait()

    async def wait(name: str, what: Awaitable[object]) -> None:
        await what
        order.append(name)

    begun = forwarding.begin(work(), "work")
    waiting = [
        asyncio.create_task(wait(name, what))
        for name, what in (
            ("shielded", asyncio.shield(begun.task)),
            ("the task's", begun.task),
            ("the waiter", begun.result()),
        )
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait(waiting)
    assert order == ["the waiter", "the task's", "shielded"]


async def test_its_failure_is_its_waiters(forwarding: Forwarding) -> None:
    """What it raises is raised where it is waited for."""

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await forwarding.begin(work(), "work").result()


async def test_it_goes_on_without_who_waited(forwarding: Forwarding) -> None:
    """A client that goes away ends its own wait, and neither the work nor anybody else's."""
    go_on = asyncio.Event()

    async def work() -> int:
        await go_on.wait()
        return 1

    begun = forwarding.begin(work(), "work")
    waiting = asyncio.create_task(begun.result())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    go_on.set()
    assert (await begun.task, waiting.cancelled()) == (1, True)


@pytest.mark.parametrize("turns", [0, 1])
async def test_its_waiter_hears_that_it_was_cancelled(forwarding: Forwarding, turns: int) -> None:
    """At the drain's end, also where that comes before it has begun; nothing is left that was never awaited."""
    begun_at = asyncio.Event()

    async def work() -> Any:
        begun_at.set()
        await asyncio.Event().wait()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun = forwarding.begin(work(), "work")
        waiting = asyncio.create_task(begun.result())
        for _ in range(turns):
            await asyncio.sleep(0)
        begun.task.cancel()
        await asyncio.wait((waiting,))
    assert (waiting.cancelled(), begun_at.is_set()) == (True, turns == 1)
