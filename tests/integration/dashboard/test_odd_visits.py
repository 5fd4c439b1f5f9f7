"""Whatever a visitor asks for or sends: each page answers, none with a defect, and nothing of it lasts.

On both stores: what one takes as a text the other may refuse.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog

from gateway.core.clock import SystemClock
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.dashboard import Visitor
from tests.running import Running, running

TOKEN, OPERATOR = "the-clients", "the-operators"
ODD = (
    "%00",
    "%FF%FE",
    "%ED%A0%80",
    "%C0%AF..%C0%AF",
    "%0D%0Aset-cookie%3A%20a=b",
    "%D9%A3",
    "9" * 400,
    "'%20OR%201=1--",
    "_%25_",
    "a%00=b",
    "=",
    "..%2F..%2Fetc%2Fpasswd",
    "%F0%9F%92%A9" * 90,
)
PAGES = ("/", "/dashboard/callbacks", "/dashboard/tasks", "/dashboard/receivers", "/dashboard/redeliver")
BELOW = (
    "/dashboard/callbacks/{}",
    "/dashboard/static/{}",
    "/dashboard/{}",
    "/manual/{}",
    "/manual/receivers/{}",
    "/dashboard/live?page={}",
    "/dashboard/live?page=/dashboard/callbacks/{}",
    "/dashboard/sign-in?next={}",
    "/dashboard/sign-in?next=/dashboard/{}",
    "/manual/search?q={}",
)
FIELDS = ("q", "state", "upstream", "client", "before", "since", "until", "receiver", "done", "page")


@pytest.fixture(params=["sqlite", "postgres"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    environ = {"GATEWAY_TOKEN": TOKEN, "GATEWAY_OPERATOR_TOKEN": OPERATOR}
    if request.param == "postgres":
        environ["GATEWAY_DATABASE_URL"] = request.getfixturevalue("postgres").url
        environ["GATEWAY_WEBHOOK_SECRET"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    async with AsyncExitStack() as stack:
        upstream_url = await stack.enter_async_context(serve_simulator(SimulatedUpstream(SystemClock())))
        world = await stack.enter_async_context(running(tmp_path, upstream_url, **environ))
        world.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield world


def asked() -> Iterator[str]:
    for odd in ODD:
        yield from (path.format(odd) for path in BELOW)
        for page in PAGES:
            yield f"{page}?{'&'.join(f'{field}={odd}' for field in FIELDS)}"


async def test_odd_addresses(world: Running) -> None:
    """A page, a redirect or an error that says what is wrong; as a page, and with what keeps it to itself."""
    async with Visitor(str(world.client.base_url)) as visitor:
        await visitor.sign_in(OPERATOR)
        await world.registered("task-1", "http://127.0.0.1:9/hooks")

        async def well(path: str) -> bool:
            async with visitor.http.stream("GET", path) as answer:
                fine = answer.status_code in (200, 303, 308, 400, 403, 404, 422)
                kept = "default-src" in answer.headers.get("content-security-policy", "")
                to = answer.headers.get("location", "/")
                return fine and kept and to.startswith("/") and not to.startswith("//")

        with structlog.testing.capture_logs() as logs:
            assert [path for path in asked() if not await well(path)] == []
        assert [entry for entry in logs if entry["event"].startswith("request.")] == []
        assert (await world.client.get("/readyz")).status_code == 200
