"""The proxy's gateway."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.core.clock import SystemClock
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.proxystand import Stand, stand


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
