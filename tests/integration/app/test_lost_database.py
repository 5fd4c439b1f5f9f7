"""A gateway whose PostgreSQL goes and comes back: it says so, takes nothing it cannot keep, and goes on by itself."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from gateway.core.clock import SystemClock
from gateway.core.repeats import Repeats
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.integration.app.test_clients import Hooks
from tests.postgres import Server
from tests.running import LIMIT_S, Running, running

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    hooks = Hooks()
    async with serve_asgi(hooks) as hooks.url:
        yield hooks


@pytest.fixture
async def gateway(tmp_path: Path, postgres_server: Server) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        upstream_url = await stack.enter_async_context(serve_simulator(SimulatedUpstream(SystemClock())))
        settings = {"GATEWAY_DATABASE_URL": postgres_server.url(), "GATEWAY_WEBHOOK_SECRET": SECRET}
        yield await stack.enter_async_context(running(tmp_path, upstream_url, **settings))


async def _turns_red(gateway: Running, words: str) -> None:
    answer = await gateway.becomes("/readyz", lambda answer: words in answer.json()["reasons"])
    assert answer.status_code == 503
    answer = await gateway.register("sim-success-0-lost", "http://127.0.0.1:9/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"] == "The database cannot be used at the moment; nothing was stored."


async def _turns_green(gateway: Running) -> None:
    await gateway.becomes("/readyz", lambda answer: answer.status_code == 200 and not answer.json()["reasons"])


async def test_the_database_restarts(gateway: Running, hooks: Hooks, postgres_server: Server) -> None:
    """What was answered 201 before is delivered after; in between nothing is, and nothing gets in its way."""
    callbacks = [await gateway.registered(f"sim-success-{number * 300}-x", hooks.url) for number in range(10)]
    postgres_server.kill()
    await _turns_red(gateway, "the database cannot be reached")
    assert (await gateway.client.get("/healthz")).status_code == 200
    assert (await gateway.client.get(f"/v1/callbacks/{callbacks[0]}")).status_code == 503
    postgres_server.start()
    await _turns_green(gateway)
    for callback_id in [*callbacks, await gateway.registered("sim-success-0-after", hooks.url)]:
        await gateway.delivered(callback_id)


async def test_the_database_takes_no_writes(gateway: Running, hooks: Hooks, postgres_server: Server) -> None:
    """It is still read; webhooks and polls wait, and none is sent whose record could not be kept."""
    before = await gateway.registered("sim-success-100-before", hooks.url)
    await gateway.delivered(before)
    callback_id = await gateway.registered("sim-success-60000-x", hooks.url)
    postgres_server.execute("ALTER DATABASE gateway SET default_transaction_read_only = on")
    postgres_server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
    await _turns_red(gateway, "the database takes no writes")
    answer = await gateway.client.get(f"/v1/callbacks/{before}")
    assert (answer.status_code, answer.json()["state"]) == (200, "delivered")
    assert (await gateway.client.get(f"/v1/callbacks/{callback_id}")).json()["state"] == "waiting"
    postgres_server.execute("SET default_transaction_read_only = off; ALTER DATABASE gateway RESET ALL")
    await _turns_green(gateway)
    await gateway.delivered(await gateway.registered("sim-success-0-after", hooks.url))


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    """What the log says while a test runs, as it would be written."""
    capture = LogCapture()
    before = structlog.get_config()["processors"]
    before[:], kept = [Repeats(SystemClock().monotonic), capture], list(before)
    yield capture.entries  # type: ignore[misc]
    before[:] = kept


async def test_an_outage_is_a_few_lines(
    said: list[dict[str, Any]], gateway: Running, hooks: Hooks, postgres_server: Server
) -> None:
    """However many ask meanwhile, and however often loops come round: at its end they are counted."""
    await gateway.delivered(await gateway.registered("sim-success-0-before", hooks.url))
    said.clear()
    postgres_server.kill()
    await _turns_red(gateway, "the database cannot be reached")
    for number in range(30):
        assert (await gateway.register(f"sim-never-0-{number}", hooks.url)).status_code == 503
    # Until each loop has come round twice.
    assert await gateway.becomes("/readyz", lambda _: _lines(said, "loop.store_failed") >= 2)
    postgres_server.start()
    await _turns_green(gateway)
    assert _lines(said, "request.store_failed") == 1
    (reached,) = [line for line in said if line["event"] == "store.unreachable"]
    assert reached["reason"] == "unreachable"
    ends = [line["left_out"] for line in said if line["event"] == "store.recovered" and "left_out" in line]
    assert sum(counts.get("request.store_failed", 0) for counts in ends) >= 30
    assert not _lines(said, "store.write_failed")


def _lines(said: list[dict[str, Any]], event: str) -> int:
    return sum(line["event"] == event for line in said)


async def test_the_database_is_frozen(
    gateway: Running, hooks: Hooks, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks is answered all the same, after a while, then at once; once it thaws all goes on."""
    callback_id = await gateway.registered("sim-success-60000-x", hooks.url)
    monkeypatch.setattr("gateway.store.postgres.session.COMMAND_LIMIT_S", 0.5)
    monkeypatch.setattr("gateway.store.postgres.session._CONNECT_LIMIT_S", 0.5)
    postgres_server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
    await _turns_green(gateway)
    await gateway.registered("sim-success-60000-y", hooks.url)  # on connections that have these limits
    postgres_server.freeze()
    answers = await asyncio.gather(*(gateway.register(f"sim-never-0-{n}", hooks.url) for n in range(5)))
    assert {answer.status_code for answer in answers} == {503}
    await gateway.becomes("/readyz", lambda answer: answer.status_code == 503)
    async with asyncio.timeout(LIMIT_S):
        assert (await gateway.client.get(f"/v1/callbacks/{callback_id}")).status_code == 503
    postgres_server.thaw()
    await _turns_green(gateway)
    await gateway.delivered(await gateway.registered("sim-success-0-after", hooks.url))
