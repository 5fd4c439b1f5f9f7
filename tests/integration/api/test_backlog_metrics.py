"""The gauges of what waits: what they show, and how seldom they are counted, whoever asks."""

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from starlette.responses import Response

from gateway.api.scrapes import BacklogMetrics
from gateway.core.claims import Lane
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError
from gateway.core.model import Backlog
from gateway.core.telemetry import Metrics
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.store.sqlite.store import SqliteStore
from tests.nouns import NOW
from tests.running import running
from tests.storing import new


class Clock(SystemClock):
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> int:
        return NOW + round(self.s * 1000)

    def monotonic(self) -> float:
        return self.s


class Store(SqliteStore):
    """A real one whose counting takes as long, and fails when, the test says; ``counts`` says how often it began."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self._clock = clock
        self._really = self.registry.backlog
        self.registry.backlog = self.backlog  # type: ignore[method-assign]
        self.takes_s = 0.0
        self.fails = False
        self.held: asyncio.Event | None = None
        self.counts = 0
        self.paused: list[Lane] = []

    async def backlog(self, paused: Collection[Lane] = ()) -> Backlog:
        self.counts += 1
        if self.held is not None:
            await self.held.wait()
        self._clock.s += self.takes_s
        if self.fails:
            raise StoreError("The database could not be read.")
        return await self._really(paused)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "gateway.db", Clock())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def backlog(store: Store, metrics: Metrics) -> BacklogMetrics:
    async def paused() -> Collection[Lane]:
        return store.paused

    return BacklogMetrics(store.registry, store._clock, metrics, paused)


def shown(metrics: Metrics, name: str) -> dict[str, float]:
    """Return a metric's values by their labels."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", b"".join(metrics.render()).decode(), re.MULTILINE)
    return {labels: float(value) for labels, value in found}


async def register(store: Store, task_id: str) -> None:
    await store.registry.register([new(task_id, at=store._clock.now())])


async def test_what_is_late_grows_later_between_two_counts(
    store: Store, metrics: Metrics, backlog: BacklogMetrics
) -> None:
    """The count is of a moment ago, the time is of now."""
    store.takes_s = 1.0
    await register(store, "a")
    await backlog.refresh()
    assert shown(metrics, "gateway_tasks_waiting") == {'upstream="up"': 1}
    assert shown(metrics, "gateway_oldest_poll_overdue_seconds") == {'upstream="up"': 1}
    store._clock.s = 5.0
    await backlog.refresh()
    assert shown(metrics, "gateway_oldest_poll_overdue_seconds") == {'upstream="up"': 5}
    assert store.counts == 1


async def test_counting_has_a_bounded_part_of_the_time(store: Store, backlog: BacklogMetrics) -> None:
    """However often somebody asks: a twentieth, whatever it takes."""
    store.takes_s = 0.5
    for _ in range(1000):
        await backlog.refresh()
        store._clock.s += 0.1
    assert store.counts == 10  # 0.5 s of 10.5 each


async def test_who_asks_at_once_shares_a_count_and_does_not_wait_for_long(
    store: Store, metrics: Metrics, backlog: BacklogMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it goes on they get the figures of before."""
    await register(store, "a")
    await backlog.refresh()
    await register(store, "b")
    monkeypatch.setattr("gateway.api.scrapes._PATIENCE_S", 0.01)
    store.held = asyncio.Event()
    await asyncio.gather(*(backlog.refresh() for _ in range(20)))
    assert store.counts == 2
    assert shown(metrics, "gateway_tasks_waiting") == {'upstream="up"': 1}
    monkeypatch.undo()
    store.held.set()
    await backlog.refresh()
    assert shown(metrics, "gateway_tasks_waiting") == {'upstream="up"': 2}


async def test_a_store_that_fails_leaves_the_last_figures(
    store: Store, metrics: Metrics, backlog: BacklogMetrics
) -> None:
    """And they are right again once it works."""
    await register(store, "a")
    await backlog.refresh()
    store.fails = True
    await register(store, "b")
    await backlog.refresh()
    assert shown(metrics, "gateway_tasks_waiting") == {'upstream="up"': 1}
    store.fails = False
    await backlog.refresh()
    assert shown(metrics, "gateway_tasks_waiting") == {'upstream="up"': 2}


async def test_the_metrics_of_a_gateway_at_work(tmp_path: Path) -> None:
    """What waits, what is dead, how much of the budget is used, and which gateway it is."""
    async with (
        serve_asgi(Response(status_code=410)) as hooks,
        serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url,
        running(tmp_path, upstream_url, GATEWAY_UPSTREAM_RATE="1000/60") as gateway,
    ):
        before = (await gateway.client.get("/metrics")).text
        assert 'gateway_tasks_waiting{upstream="aigptimage"} 0.0' in before
        assert 'gateway_budget_used_ratio{kind="create",upstream="aigptimage"} 0.0' in before
        await gateway.registered("sim-never-0-a", f"{hooks}/hook")
        dead = await gateway.registered("sim-success-0-b", f"{hooks}/hook")
        await gateway.becomes(f"/v1/callbacks/{dead}", lambda answer: answer.json()["state"] == "dead")
        answer = await gateway.becomes("/metrics", lambda answer: "gateway_callbacks_dead 1.0" in answer.text)
        assert 'gateway_tasks_waiting{upstream="aigptimage"} 1.0' in answer.text
        used = re.findall(r'gateway_budget_used_ratio{kind="query",upstream="aigptimage"} (\S+)', answer.text)
        assert 0 < float(used[0]) < 1
        assert re.search(
            r'^gateway_build_info{python="3\.\d+\.\d+",version="\d[^"]*"} 1\.0$', answer.text, re.MULTILINE
        )
        assert "_created" not in answer.text
