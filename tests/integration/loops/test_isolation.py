"""Over real sockets and a real name server: what receivers of one kind cost the others."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.claims import DueCallback
from gateway.core.clock import SystemClock
from gateway.core.memory import Memory
from gateway.core.model import Outcome, Settlement, TaskState
from gateway.core.telemetry import Metrics
from gateway.loops.deliverer import Deliverer
from gateway.loops.supervisor import Supervisor
from gateway.net.guard import Netguard, parse_allow
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.signature import Signer, parse_secrets
from gateway.store.sqlite.store import SqliteStore
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import Sender
from tests.life import SECRET
from tests.nameserver import NO_SUCH_NAME, Nameserver, serve_names
from tests.storing import new
from tests.waiting import until

CROWD = 300
LIMIT_S = 20


class Stand:
    """A deliverer with all that is under it, and the store that tells it what is owed."""

    def __init__(self, path: Path, nameserver: Nameserver) -> None:
        clock, metrics = SystemClock(), Metrics()
        self.clock = clock
        self.names = nameserver.names
        self.store = SqliteStore(path)
        self.resolver = Resolver(nameservers=[nameserver.address])
        guard = Netguard(parse_allow("127.0.0.0/8"))
        self.transport = PooledTransport(guard=guard, resolve=self.resolver.resolve, limit=256)
        sender = Sender(self.transport, clock, timeout_s=15, names=self.transport)
        headers = ClientHeaders()
        headers.use(Signer(parse_secrets(SECRET)), {})
        retry = RetryPolicy((0.0, 600.0))
        rng = random.Random(0)
        self.memory = Memory(1024 * 1024)
        self.deliverer = Deliverer(self.store.outbox, sender, headers, retry, self.memory, clock, metrics, rng)
        self.supervisor = Supervisor([self.deliverer], clock, metrics)

    async def owe(self, *urls: str, client: str = "ann", task_id: str = "t", result: str = "") -> list[str]:
        """Register callbacks of a task that has ended; return their ids."""
        now = self.clock.now()
        made = await self.store.registry.register([new(task_id, client=client, url=url, at=now) for url in urls])
        data = json.dumps({"taskId": task_id, "state": "success", "result": result}).encode()
        outcome = Outcome(state=TaskState.SUCCESS, data=data)
        seq = made[0].callback.task.seq
        await self.store.tasks.settle(Settlement(seq=seq, upstream="up", outcome=outcome, settled_at=now, polls=1))
        return [one.callback.id for one in made]

    async def attempts(self, callback_id: str, client: str = "ann") -> int:
        return len(await self.store.registry.list_attempts(client, callback_id) or [])

    async def attempted(self, callback_id: str, client: str = "ann") -> None:
        await until(lambda: self.attempts(callback_id, client))


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with serve_names(good_test=["127.0.0.1"]) as nameserver:
        it = Stand(tmp_path / "gateway.db", nameserver)
        await it.store.open()
        it.supervisor.start()
        yield it
        await it.supervisor.drain(0)
        await it.store.close()
        await it.transport.aclose()
        await it.resolver.close()


async def test_names_that_nobody_answers_for_hold_no_places(stand: Stand, raw_server: Any, answering: Any) -> None:
    """Hundreds of look-ups are under way, and all places are free: another receiver's webhook goes out meanwhile."""
    server = await raw_server(answering(b"HTTP/1.1 204 OK\r\n\r\n"))
    dead = await stand.owe(*(f"http://dead-{number}.test:{server.port}/" for number in range(CROWD)))
    bulkhead = stand.deliverer._bulkhead
    async with asyncio.timeout(LIMIT_S):
        while len(bulkhead._attempts) - (256 - bulkhead.free) < 20:
            await stand.store.registry.backlog()
    for url in (f"http://good.test:{server.port}/", server.url()):
        (callback_id,) = await stand.owe(url)
        await stand.attempted(callback_id)
    assert server.connections == 2
    assert sum([await stand.attempts(one) for one in dead]) < CROWD / 2


async def test_a_look_up_that_failed_needs_no_place(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to be sent: the attempt has failed, and is not begun anew, though others have all places."""
    asked: list[DueCallback] = []
    monkeypatch.setattr(stand.deliverer._bulkhead, "found", asked.append)  # which says no
    stand.names["gone.test"] = NO_SUCH_NAME
    (gone,) = await stand.owe("http://gone.test/")
    await stand.attempted(gone)
    (attempt,) = await stand.store.registry.list_attempts("ann", gone) or []
    assert "there is no such name" in (attempt.error or "")
    assert not asked


async def test_a_name_that_is_found_late_is_dialled_after_all(stand: Stand, raw_server: Any, answering: Any) -> None:
    """Its attempt has lent its place, and has one again; the look-up is a part of it."""
    server = await raw_server(answering(b"HTTP/1.1 204 OK\r\n\r\n"))
    (late, *_) = await stand.owe(*(f"http://late{number}.test:{server.port}/" for number in range(4)))
    bulkhead = stand.deliverer._bulkhead
    async with asyncio.timeout(LIMIT_S):
        while not any(attempt.lent for attempt in bulkhead._attempts.values()):
            bulkhead.at(stand.clock.monotonic())
            await stand.store.registry.backlog()
    stand.names.update({f"late{number}.test": ["127.0.0.1"] for number in range(4)})
    await stand.attempted(late)
    (attempt,) = await stand.store.registry.list_attempts("ann", late) or []
    assert attempt.status_code == 204
    assert attempt.duration_ms >= 1000
    assert bulkhead.free >= 252


async def test_a_crowd_that_hangs_with_large_webhooks_leaves_room_for_another_clients(
    stand: Stand, raw_server: Any, read_request: Any, answering: Any
) -> None:
    """Each of its receivers keeps its room until its attempt's time is over, which the other's does not wait for."""

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.Event().wait()

    hanging, good = await raw_server(hang), await raw_server(answering(b"HTTP/1.1 204 OK\r\n\r\n"))
    names = [f"hanging{number}.test" for number in range(16)]
    stand.names.update({name: ["127.0.0.1"] for name in names})
    result = "x" * 80_000
    crowd = await stand.owe(*(f"http://{name}:{hanging.port}/" for name in names), task_id="a", result=result)
    async with asyncio.timeout(LIMIT_S):
        while len(stand.memory._holders) < len(names):  # each of them has room, or waits for it
            await stand.store.registry.backlog()
    (callback_id,) = await stand.owe(good.url(), client="bob", task_id="b", result=result)
    await stand.attempted(callback_id, "bob")
    assert [await stand.attempts(one) for one in crowd] == [0] * len(crowd)
