"""A gateway for the tests of the API, and one for those of the proxy."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from gateway.core.clock import SystemClock
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.apistand import gateway_client
from tests.proxystand import Stand, stand


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running gateway without a token."""
    async for client in gateway_client(tmp_path):
        yield client


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client, without a token, of a gateway that wants one."""
    async for client in gateway_client(tmp_path, GATEWAY_TOKEN="t0ken-of-the-one-client"):
        yield client


@pytest.fixture
async def simulator() -> SimulatedUpstream:
    return SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0))


@pytest.fixture
async def start(tmp_path: Path, simulator: SimulatedUpstream) -> AsyncIterator[Callable[..., Awaitable[Stand]]]:
    """Start a gateway before the simulator, or before the upstream at ``upstream_url``."""
    async with AsyncExitStack() as stack:
        simulator_url = await stack.enter_async_context(serve_simulator(simulator))

        async def begin(upstream_url: str | None = None, **environ: str) -> Stand:
            return await stack.enter_async_context(stand(tmp_path, upstream_url or simulator_url, **environ))

        yield begin
