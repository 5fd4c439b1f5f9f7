"""/readyz and its reasons: what takes a gateway out of service, and what is only told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.simulator import Fault, FaultKind, SimulatedUpstream, parse_windows
from gateway.simulator import serve as serve_simulator
from tests.waiting import a_moment, until

NAMES = ("aigptimage", "second")


class Stand:
    """A gateway of two upstreams, each of which can refuse its key."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.simulators = {name: SimulatedUpstream(SystemClock()) for name in NAMES}
        self.client: httpx.AsyncClient

    async def start(self, **environ: str) -> None:
        urls = {
            name: await self._stack.enter_async_context(serve_simulator(app)) for name, app in self.simulators.items()
        }
        path = self._folder / "gateway.toml"
        path.write_text(f'[upstreams.second]\nprofile = "aigptimage"\nurl = "{urls["second"]}"\nrate = "100/1"\n')
        settings = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{self._folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": urls["aigptimage"],
            "GATEWAY_UPSTREAM_RATE": "100/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            **environ,
        }
        gateway = build(load(settings, path), SystemClock())
        self._stack.push_async_callback(gateway.close)
        await gateway.start()
        self._stack.push_async_callback(gateway.drain)
        transport = httpx.ASGITransport(gateway)
        self.client = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost")
        )

    async def register(self, upstream: str, task_id: str = "sim-never-0-t") -> None:
        body = {"taskId": task_id, "callbackUrl": "http://127.0.0.1:9/hook", "upstream": upstream}
        assert (await self.client.post("/v1/callbacks", json=body)).status_code == 201

    async def refuse(self, upstream: str) -> None:
        self.simulators[upstream].faults.add(Fault(kind=FaultKind.KEY_REFUSED))
        await self.register(upstream)

    async def readiness(self, reasons: list[str]) -> httpx.Response:
        """Return what /readyz answers once it gives these reasons."""
        async with asyncio.timeout(20):
            while True:
                answer = await self.client.get("/readyz")
                if answer.json()["reasons"] == reasons:
                    return answer
                await a_moment()

    async def metrics(self) -> list[str]:
        return (await self.client.get("/metrics")).text.splitlines()


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(tmp_path, stack)


def refuses(upstream: str) -> str:
    return f"the upstream {upstream} refuses the key"


async def test_all_is_well(stand: Stand) -> None:
    """Green, and nothing to tell."""
    await stand.start()
    answer = await stand.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reasons": []})
    assert 'gateway_upstream_refused{upstream="second"} 0.0' in await stand.metrics()


async def test_one_refused_upstream_of_several_is_told(stand: Stand) -> None:
    """The others' tasks are worked on: a reason and a metric, but no pod that is taken out of service."""
    await stand.start()
    await stand.refuse("second")
    assert (await stand.readiness([refuses("second")])).status_code == 200
    metrics = await stand.metrics()
    assert 'gateway_upstream_refused{upstream="second"} 1.0' in metrics
    assert 'gateway_upstream_refused{upstream="aigptimage"} 0.0' in metrics
    assert "gateway_ready 1.0" in metrics


async def test_no_upstream_that_accepts_its_key_is_red(stand: Stand) -> None:
    """Then no new work can be done: each upstream is a reason."""
    await stand.start()
    await stand.refuse("second")
    await stand.refuse("aigptimage")
    answer = await stand.readiness([refuses("aigptimage"), refuses("second")])
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == f"The gateway is not ready: {refuses('aigptimage')}."
    assert "gateway_ready 0.0" in await stand.metrics()


async def test_all_upstreams_may_be_asked_for(stand: Stand) -> None:
    """Who sets it so has one refused upstream turn it red."""
    await stand.start(GATEWAY_READY_UPSTREAMS="all")
    await stand.refuse("second")
    assert (await stand.readiness([refuses("second")])).status_code == 503


async def test_a_refused_task_is_told_beside(stand: Stand) -> None:
    """No trouble of the gateway's, and its operator wants to know."""
    await stand.start(GATEWAY_READY_UPSTREAMS="all")
    stand.simulators["second"].faults.add(Fault(kind=FaultKind.BLOCKED, task_id="t"))
    await stand.register("second", "t")
    told = "the upstream second accepts the key and refuses some of the tasks"
    assert (await stand.readiness([told])).status_code == 200


async def test_an_upstream_that_answers_nonsense_is_told(stand: Stand) -> None:
    """A reason and a metric, and no pod that is taken out of service; the first answer about a task ends both."""
    await stand.start(GATEWAY_READY_UPSTREAMS="all", GATEWAY_POLL_MIN_S="0.05", GATEWAY_POLL_MAX_S="0.1")
    stand.simulators["second"].faults.add(Fault(kind=FaultKind.HTML))
    await stand.register("second")
    await stand.register("aigptimage")
    told = "the upstream second answers nonsense, or denies tasks that it has told of"
    assert (await stand.readiness([told])).status_code == 200
    assert 'gateway_upstream_nonsense{upstream="second"} 1.0' in await stand.metrics()
    stand.simulators["second"].faults.clear()
    await stand.readiness([])
    assert 'gateway_upstream_nonsense{upstream="second"} 0.0' in await stand.metrics()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(kind=FaultKind.RESET), id="closes"),
        pytest.param(Fault(kind=FaultKind.ERROR, status=500, code=500), id="errs"),
        pytest.param(Fault(kind=FaultKind.ERROR, status=455, code=455), id="is in maintenance"),
    ],
)
async def test_an_upstream_that_gives_no_answer_is_told(stand: Stand, fault: Fault) -> None:
    """Not by the first failure; no pod is taken out of service, and the next answer of another kind ends it."""
    await stand.start(GATEWAY_READY_UPSTREAMS="all", GATEWAY_POLL_MIN_S="0.05", GATEWAY_POLL_MAX_S="0.1")
    stand.simulators["second"].faults.add(fault)
    await stand.register("second")
    await stand.register("aigptimage")
    told = "the upstream second gives no answer, or errors alone"
    assert (await stand.readiness([told])).status_code == 200
    stand.simulators["second"].faults.clear()
    await stand.readiness([])


async def test_an_upstream_that_denies_what_it_told_of_is_told(stand: Stand) -> None:
    """Its own 404 about a task that ran is nonsense too; about one that it has never told of it is none."""
    await stand.start(GATEWAY_POLL_MIN_S="0.05", GATEWAY_POLL_MAX_S="0.1")
    await stand.register("second")
    await stand.register("aigptimage", "no-such-task")
    await until(lambda: stand.simulators["second"].stats.polls)  # the first of them tells of it
    stand.simulators["second"].faults.add(Fault(kind=FaultKind.ERROR, status=404, code=404))
    await stand.readiness(["the upstream second answers nonsense, or denies tasks that it has told of"])
    assert stand.simulators["aigptimage"].stats.polls["no-such-task"] >= 1


async def test_a_lower_limit_that_an_upstream_names_is_told(tmp_path: Path) -> None:
    """Whoever wonders why polls are late finds it among the reasons and the metrics."""
    async with AsyncExitStack() as stack:
        stand = Stand(tmp_path, stack)
        stand.simulators["second"] = SimulatedUpstream(SystemClock(), rate=parse_windows("1/3600"))
        await stand.start(GATEWAY_POLL_MIN_S="0.05", GATEWAY_POLL_MAX_S="0.1")
        await stand.register("second")
        told = "the upstream second allows fewer requests than are configured"
        assert (await stand.readiness([told])).status_code == 200
        metrics = await stand.metrics()
        assert 'gateway_upstream_limited{upstream="second"} 1.0' in metrics
        assert 'gateway_upstream_limited{upstream="aigptimage"} 0.0' in metrics


async def test_what_stops_new_work_comes_first(stand: Stand) -> None:
    """The reason of a 503 is not hidden behind what is only told."""
    await stand.start()
    await stand.refuse("second")
    await stand.readiness([refuses("second")])
    gateway: Any = stand.client._transport.app  # type: ignore[attr-defined]
    gateway.begin_drain()
    answer = await stand.readiness(["it is shutting down", refuses("second")])
    assert (answer.status_code, answer.json()["detail"]) == (503, "The gateway is not ready: it is shutting down.")
