"""Two replicas whose tables of receivers differ, as while they are reloaded one by one: who has a webhook then."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.core.claims import DueCallback
from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.model import Outcome, Settlement, TaskState
from gateway.loops.claiming import claim_due
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.limits import ReceiverLimits, Usage
from tests.lanes import lane, webhook, well
from tests.postgres import Database
from tests.storing import new

HOST = "https://app.example.com"
NAMES = ("", "/slow", "/slow/er")


class Replica:
    """A store and a bulkhead whose tables each allow one attempt at once; none of them has room at first."""

    def __init__(self, store: PostgresStore, paths: Sequence[str]) -> None:
        self.store = store
        self.handed_over = 0
        self.usages = {path: Usage(1, None, None, HOST + path) for path in paths}
        limits = ReceiverLimits(lambda: 0.0, self._usage_of)
        limits.use(list(self.usages.values()))
        self.bulkhead = Bulkhead(256, limits=limits)
        well(self.bulkhead, *(lane("app")._replace(receiver=HOST + path) for path in NAMES))
        self._busy = {path: webhook(lane("app")._replace(receiver=f"{HOST}{path}")) for path in paths}
        assert all(map(self.bulkhead.admit, self._busy.values()))

    def _usage_of(self, url: str) -> Usage | None:
        found = [path for path in self.usages if url.startswith(HOST + path)]
        return self.usages[max(found, key=len)] if found else None

    def has_room(self) -> None:
        for one in self._busy.values():
            self.bulkhead.ended(one, delivered=True)

    async def claim(self) -> list[DueCallback]:
        await self.store.outbox.look_again()
        hand_over = self.store.outbox.hand_over

        async def counted(claims: Sequence[Any]) -> None:
            self.handed_over += len(claims)
            await hand_over(claims)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(self.store.outbox, "hand_over", counted)
            return (await claim_due(self.store.outbox, self.bulkhead, SystemClock().now(), 16))[0]


New = Callable[[Sequence[str]], Any]


@pytest.fixture
async def replica(postgres: Database) -> AsyncIterator[New]:
    async with AsyncExitStack() as stack:

        async def make(paths: Sequence[str]) -> Replica:
            clock = SteeredClock(SystemClock())
            store = PostgresStore(Servers(postgres.url), clock=clock, replica=secrets.token_hex(8))
            await store.open()
            stack.push_async_callback(store.close)
            return Replica(store, paths)

        yield make


@pytest.mark.parametrize(
    ("paths", "others"),
    [
        ([""], ["/slow"]),
        (["/slow"], ["/slow/er"]),
        (["", "/slow/er"], ["/slow"]),
        (["/slow"], []),
        (["/slow"], ["/slow"]),
    ],
)
async def test_nothing_is_handed_to_and_fro(replica: New, paths: Sequence[str], others: Sequence[str]) -> None:
    """While neither has room what waits stays with the longest table, and each takes of it once it has room."""
    one, other = await replica(paths), await replica(others)
    made = await one.store.registry.register(
        [new(f"task-{n}", url=f"{HOST}/slow/er/{n}", at=SystemClock().now()) for n in range(3)]
    )
    epoch = await one.store.lead("polls:up", 60)
    await one.store.tasks.gained("up", epoch)
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    for seq in {registration.callback.task.seq for registration in made}:
        settled = Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=SystemClock().now(), polls=1)
        await one.store.tasks.settle(settled)
    claimed = []
    for _ in range(8):
        for each in (one, other):
            claimed += await each.claim()
    assert one.handed_over + other.handed_over <= 3 * len(paths + others)
    assert len(claimed) == (0 if others else 3), "who has no table there has room"
    if others:
        for each in (one, other):
            each.has_room()
            await asyncio.sleep(0)
            assert len(await each.claim()) == 1
