"""When a replica looks for webhooks again whose claims may have lapsed, beside those that fall due."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.claims import Lane, Share
from gateway.store.outbox import StoreOutbox

NOW = 1_000_000
SOON, LATE = 200, 5000


class Engine:
    """A shared database with so many lanes."""

    shared = True

    def __init__(self, *lanes: tuple[str, str, int | None, list[int] | None]) -> None:
        self.lanes = sorted(lanes)
        self.deliversql = SimpleNamespace(SELECT_LANES="lanes")
        self.webhooks = self

    async def read(self, statement: str, about: tuple[Any, ...]) -> list[Any]:
        await asyncio.sleep(0)
        assert statement == "lanes"
        client, receiver, most = about
        return [lane for lane in self.lanes if lane[:2] > (client, receiver)][:most]

    def require(self) -> None: ...

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        yield


async def outbox_on(*lanes: tuple[str, str, int | None, list[int] | None]) -> StoreOutbox:
    handed: Any = Engine(*lanes)
    nothing: Any = None
    outbox = StoreOutbox(handed, nothing, nothing)
    await outbox.open()
    return outbox


async def looks_at(outbox: StoreOutbox, now: int) -> tuple[list[Lane], int | None]:
    """Return the lanes that are looked at then, though there is no room for any, and when the next look is."""
    seen: list[Lane] = []

    def choose(due: list[Lane]) -> Sequence[Share]:
        seen.extend(due)
        return []

    claimed = await outbox.claim(choose, now)
    return seen, claimed.next_due_at


@pytest.mark.parametrize(
    ("due_at", "lapses", "next_at"),
    [
        (None, None, None),
        (NOW + LATE, None, NOW + LATE),
        (None, [NOW + LATE], NOW + LATE + 200),
        (NOW + LATE, [NOW + SOON], NOW + SOON + 200),
        (NOW + SOON, [NOW + LATE], NOW + SOON),
        (NOW + LATE, [NOW + LATE, NOW + SOON], NOW + SOON + 200),
    ],
)
async def test_the_next_look_is_when_the_first_falls_due_or_lapses(
    due_at: int | None, lapses: list[int] | None, next_at: int | None
) -> None:
    """A claim counts as lapsed 200 ms after it has: this process's clock may be ahead of the database's."""
    assert await looks_at(await outbox_on(("ann", "r", due_at, lapses)), NOW) == ([], next_at)


async def test_a_lane_whose_claim_has_lapsed_is_looked_at() -> None:
    """At its very millisecond, and not one sooner; the next one's time is told then."""
    outbox = await outbox_on(("ann", "r", None, [NOW]), ("bob", "s", None, [NOW + 1]))
    assert await looks_at(outbox, NOW + 199) == ([], NOW + 200)
    assert await looks_at(outbox, NOW + 200) == ([Lane("ann", "r")], NOW + 201)
    assert await looks_at(outbox, NOW + 201) == ([Lane("bob", "s")], None)


async def test_any_number_of_lanes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part at a time, each behind the one before."""
    monkeypatch.setattr("gateway.store.outbox._LANES_AT_ONCE", 2)
    lanes = [("ann", f"r{number}", NOW - number, None) for number in range(5)]
    seen, _ = await looks_at(await outbox_on(*lanes), NOW)
    assert sorted(lane.receiver for lane in seen) == [f"r{number}" for number in range(5)]
