"""A whole gateway in virtual time, as ``gateway.app.build`` makes it, scraped each minute as Prometheus does it.

Real are its settings, API, loops, store and metrics; made up are the network (a simulated upstream, receivers that
answer as they are told) and its process's own figures. Owns what Prometheus would have stored: ``Stage.series``.
"""

import asyncio
import logging
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import structlog

from gateway.app import build as building
from gateway.app import delivering, events
from gateway.app.gateway import Gateway
from gateway.app.reload import changes
from gateway.config.load import load
from gateway.loops.deliverer import Deliverer
from gateway.net import proxied
from gateway.net.errors import ExchangeFailed
from gateway.simulator.app import SimulatedUpstream
from gateway.simulator.scenario import Plan, parse_windows
from tests.life import Transport
from tests.virtualtime import EPOCH, InlineConnection, VirtualClock, run_virtual

__all__ = ["INSTANCE", "JOB", "UPSTREAM", "Key", "Pool", "Stage", "gone", "staged", "unwell"]

JOB, INSTANCE, UPSTREAM = "gateway", "gateway:8080", "aigptimage"
START_S = 20.0
"""How long a new process takes until it serves: pulled, started, its settings checked."""
Key = tuple[str, tuple[tuple[str, str], ...]]
"""A series: its metric's name and its labels."""
Answer = Callable[[], httpx.Response | None]


def well() -> httpx.Response | None:
    return httpx.Response(204)


def unwell() -> httpx.Response | None:
    return httpx.Response(503)


def gone() -> httpx.Response | None:
    return httpx.Response(410)


class Pool(Transport):
    """In the place of the connections: ``gateway.net.transport.PooledTransport``'s shape."""

    def must_look_up(self, url: httpx.URL) -> bool:
        return False

    async def aclose(self) -> None:
        pass


class _Names:
    """In the place of the name servers: every name has a public address."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return ["93.184.215.14"]

    async def close(self) -> None:
        pass


class Stage:
    """One gateway and its world."""

    def __init__(
        self,
        folder: Path,
        names: frozenset[str],
        seed: int,
        scrape_s: int = 60,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``names``: the metrics that are kept; histograms by the name before ``_bucket``."""
        self.rng = random.Random(seed)
        self.luck = random.Random(seed + 1)
        """The gateway's own: the same in every run."""
        self.clock = VirtualClock()
        self.upstream = SimulatedUpstream(self.clock, rate=parse_windows("2/1,60/60"), seed=seed)
        self.upstream_answers = True
        self.receivers: dict[str, Answer] = {}
        """How a receiver answers, by host; all others are well."""
        self.gateway: Gateway | None = None
        self.scraped = True
        """Whether Prometheus reaches it."""
        self.found = True
        """Whether Prometheus knows of it at all."""
        self.series: dict[Key, list[float | None]] = {}
        self.scrapes = 0
        self.scrape_s = scrape_s
        self._names = names
        self._keys: dict[str, Key | None] = {}
        self._inner = httpx.ASGITransport(app=self.upstream)
        self._tasks = 0
        self._stack = ExitStack()
        self._meanwhile: list[asyncio.Task[object]] = []
        self.folder = folder
        self._toml: Path | None = None
        self.own = {"process_start_time_seconds": 0.0, "process_open_fds": 20.0, "process_max_fds": 16384.0}
        """The process's own figures, as another process would show them."""
        self._environ = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": "https://up.example",
            "GATEWAY_UPSTREAM_API_KEY": "k",
            **environ,
        }

    # The gateway

    async def start(self) -> None:
        self.gateway = gateway = building.build(load(self._environ, self._toml), self.clock)
        self.own["process_start_time_seconds"] = EPOCH / 1000 + self.clock.monotonic()
        await gateway.start()

    async def stop(self) -> None:
        gateway, self.gateway = self.gateway, None
        assert gateway is not None
        await gateway.drain()
        await gateway.close()

    async def restart(self) -> None:
        """Replace it, as for an upgrade."""
        await self.stop()
        await asyncio.sleep(START_S)
        await self.start()

    def reload(self, toml: str) -> None:
        """Have its TOML file say this, and be taken over as SIGHUP does."""
        self._toml = self.folder / "gateway.toml"
        self._toml.write_text(toml)
        changed = changes(self.running.in_force, self.running.secret, load(self._environ, self._toml))
        self.running.reload(changed)

    @property
    def running(self) -> Gateway:
        assert self.gateway is not None
        return self.gateway

    @property
    def connection(self) -> InlineConnection:
        """Its database's: ``broken`` says why it fails."""
        connection: Any = self.running.store._database._db  # type: ignore[attr-defined]
        assert isinstance(connection, InlineConnection)
        return connection

    @property
    def deliverer(self) -> Deliverer:
        (found,) = (loop for loop in self.running.supervisor._loops if isinstance(loop, Deliverer))
        return found

    # The world

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Have something go on until the end."""
        self._meanwhile.append(asyncio.create_task(work, name="meanwhile"))

    def patch(self, other: AbstractContextManager[object]) -> None:
        """Have something be another until the end."""
        self._stack.enter_context(other)

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        """Run it, scraped, until the block ends."""

        def pool(*, guard: object, **_: object) -> Pool:
            return Pool(self.ask_upstream if guard is None else self.ask_receiver)

        with self._stack, _unlogged():
            for module in (building, events, proxied):
                self.patch(mock.patch.object(module, "PooledTransport", pool))
            for module in (building, delivering, events):
                self.patch(mock.patch.object(module, "random", SimpleNamespace(Random=lambda: self.luck)))
            self.patch(mock.patch.object(building, "Resolver", _Names))
            await self.start()
            self.begin(self.scrape())
            yield
            for task in self._meanwhile:
                task.cancel()
            for ended in await asyncio.gather(*self._meanwhile, return_exceptions=True):
                if isinstance(ended, Exception):  # else nothing would be scraped from then on, or no task registered
                    raise ended
            if self.gateway is not None:
                await self.stop()

    async def ask_upstream(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.rng.uniform(0.05, 0.4))
        if not self.upstream_answers:
            raise ExchangeFailed("Nothing listens there.", "refused", sent=False)
        return await self._inner.handle_async_request(request)

    async def ask_receiver(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.rng.uniform(0.02, 0.3))
        answer = self.receivers.get(request.url.host, well)()
        if answer is None:
            await asyncio.sleep(3600)
            raise AssertionError("nobody waits for so long")
        return answer

    async def register(
        self, host: str = "app.example", *, ends_after_s: float | None = None, fails: bool = False
    ) -> None:
        """Have a task created that ends as the models' do, and register it; until it is taken, as a client does."""
        self._tasks += 1
        task_id = f"task-{self._tasks}"
        duration_s = 32 * math.exp(0.35 * self.rng.gauss(0, 1)) if ends_after_s is None else ends_after_s
        self.upstream.add_task(task_id, Plan(duration_s=duration_s, outcome="fail" if fails else "success"))
        body = {"taskId": task_id, "callbackUrl": f"https://{host}/hook", "model": "gpt-image-2-text-to-image"}
        while True:
            answer = await self.ask("POST", "/v1/callbacks", json=body)
            if answer is not None and answer.status_code == 201:
                return
            await asyncio.sleep(5)

    async def ask(self, method: str, path: str, **given: Any) -> httpx.Response | None:
        """Ask the gateway; None where none runs."""
        if self.gateway is None:
            return None
        transport = httpx.ASGITransport(app=self.gateway, raise_app_exceptions=False)
        return await transport.handle_async_request(httpx.Request(method, f"http://localhost{path}", **given))

    # Prometheus

    async def scrape(self) -> None:
        """Scrape it each minute, for ever."""
        while True:
            began = asyncio.get_running_loop().time()
            answer = await self.ask("GET", "/metrics") if self.scraped and self.found else None
            seen = {} if answer is None else dict(self._read((await answer.aread()).decode()))
            if self.found:
                seen["up", ()] = float(answer is not None)
            self._keep(seen)
            await asyncio.sleep(began + self.scrape_s - asyncio.get_running_loop().time())

    def _read(self, text: str) -> Iterator[tuple[Key, float]]:
        for line in text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample not in self._keys:
                self._keys[sample] = self._key(sample)
            if (key := self._keys[sample]) is not None:
                at = float(value)
                if at and key[0].endswith("_timestamp_seconds"):
                    at -= EPOCH / 1000  # promtool's clock begins at 0
                yield key, self.own.get(key[0], at)

    def _key(self, sample: str) -> Key | None:
        """Return name and labels of a sample that is kept."""
        found = re.fullmatch(r"(\w+?)(_bucket|_count|_sum)?(?:{(.*)})?", sample)
        if found is None or found[1] not in self._names:
            return None
        return found[1] + (found[2] or ""), tuple(re.findall(r'(\w+)="([^"]*)"', found[3] or ""))

    def _keep(self, seen: dict[Key, float]) -> None:
        for key in seen.keys() - self.series.keys():
            self.series[key] = [None] * self.scrapes
        self.scrapes += 1
        for key, values in self.series.items():
            values.append(seen.get(key))


@contextmanager
def _unlogged() -> Iterator[None]:
    """Log nothing: a day has thousands of lines."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def staged(stage: Stage, course: Callable[[Stage], Awaitable[object]]) -> Stage:
    """Play a course of events, and return the stage with what was scraped meanwhile."""

    async def main() -> None:
        async with stage.runs():
            await course(stage)

    run_virtual(main())
    return stage
