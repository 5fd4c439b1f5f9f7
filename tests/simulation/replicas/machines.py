"""One replica's machine: the whole gateway that runs there, life after life, and what is done to it.

Owns its loop, its clock and its way to the database; what its trouble was, and when.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import asyncpg
import httpx

from gateway.app import build as building
from gateway.app import events as telling
from gateway.app.gateway import Gateway
from gateway.config.settings import Settings
from gateway.core.errors import StoreError
from gateway.net import proxied
from tests.life import Transport
from tests.simulation.replicas.driver import Link, Network
from tests.simulation.replicas.loops import ProcessLoop
from tests.simulation.replicas.world import MachineClock, World

__all__ = ["Machine", "wired"]


class _Net(Transport):
    """In the place of sockets."""

    def must_look_up(self, _: object) -> bool:
        return False


class Machine:
    """One machine."""

    def __init__(self, number: int, world: World, network: Network, settings: Settings) -> None:
        self.number = number
        self.clock = MachineClock(world.time, world.rng)
        self._world = world
        self._network = network
        self._settings = settings
        self._lives = 0
        self.life = ""
        self.loop: ProcessLoop | None = None
        self.link: Link | None = None
        self.gateway: Gateway | None = None
        """None: it has not started, or is gone."""
        self.client: httpx.AsyncClient | None = None
        self.busy = False
        """Whether something is being done to it."""
        self.well_since_s = 0.0
        self.troubles: list[tuple[str, float, float]] = []
        """Which life had trouble, from when until when."""

    def start(self) -> None:
        """Begin a life."""
        self._lives += 1
        self.life = f"{self.number}.{self._lives}"
        self.loop = self._world.time.loop()
        self.link = self._network.link(self.life, self.loop)
        self.loop.create_task(self._begin(), name="process")

    async def _begin(self) -> None:
        while self.gateway is None:
            gateway = building.build(self._settings, self.clock)
            try:
                await gateway.start()
            except StoreError:  # as whoever restarts a process that has ended
                await gateway.close()
                await asyncio.sleep(1.0)
            else:
                transport = httpx.ASGITransport(gateway)
                self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False)
                self.gateway = gateway
        self.well_since_s = self._world.time.now_s

    def had_trouble(self, life: str, since_s: float) -> bool:
        """Whether a life has had trouble since then, or is over."""
        if life != self.life or self.loop is None:
            return True
        return any(whose == life and until_s >= since_s for whose, _, until_s in self.troubles)

    @property
    def is_well(self) -> bool:
        return self.gateway is not None and not self.busy and not self.gateway.readiness.draining.is_set()

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """Note that something stands in its way."""
        place, life, began_s = len(self.troubles), self.life, self._world.time.now_s
        self.troubles.append((life, began_s, 1e9))
        try:
            yield
        finally:
            self.troubles[place] = (life, began_s, self._world.time.now_s)
            self.well_since_s = self._world.time.now_s

    def end(self) -> None:
        """Have the process gone at once."""
        if self.loop is None:
            return
        loop, self.loop, self.gateway, self.client = self.loop, None, None, None
        assert self.link is not None
        self._network.ended(self.link)
        self._world.time.work.append(lambda: self._world.time.end(loop))

    async def stop(self) -> None:
        """End as at SIGTERM; in its own loop."""
        gateway = self.gateway
        if gateway is not None:
            await gateway.drain()
            await gateway.close()

    async def call(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]], patience_s: float) -> Any:
        """Have a client's work done with it; None: there is no answer, within that time or this life."""
        loop, client = self.loop, self.client
        if loop is None or client is None:
            return None
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task = loop.create_task(_work(work, client), name="client")

        def settle(task: asyncio.Task[Any]) -> None:
            if not answered.done():
                answered.set_result(None if task.cancelled() or task.exception() is not None else task.result())

        task.add_done_callback(settle)
        try:
            async with asyncio.timeout(patience_s):
                return await answered
        except TimeoutError:
            if not loop.is_closed():
                loop.call_soon(task.cancel)
            return None


async def _work(work: Callable[[httpx.AsyncClient], Awaitable[Any]], client: httpx.AsyncClient) -> Any:
    return await work(client)


@contextmanager
def wired(world: World, network: Network, machines: list[Machine], rng: random.Random) -> Iterator[None]:
    """Have gateways that are built meanwhile ask this world and nobody else, chance included."""

    def net(*, guard: object, **_: object) -> _Net:
        loop = asyncio.get_running_loop()
        (life,) = [machine.life for machine in machines if machine.loop is loop]
        if guard is None:
            return _Net(lambda request: world.ask(life, request))
        return _Net(lambda request: world.receive(life, request))

    chance = SimpleNamespace(Random=lambda: random.Random(rng.getrandbits(32)))
    with (
        mock.patch.object(building, "PooledTransport", net),
        mock.patch.object(proxied, "PooledTransport", net),
        mock.patch.object(telling, "PooledTransport", net),
        mock.patch.object(telling, "random", chance),
        mock.patch.object(building, "random", chance),
        mock.patch.object(asyncpg, "connect", network.connect),
        mock.patch("secrets.token_hex", lambda size: rng.randbytes(size).hex()),
        mock.patch("secrets.token_bytes", rng.randbytes),
        mock.patch("secrets.randbelow", rng.randrange),
    ):
        yield
