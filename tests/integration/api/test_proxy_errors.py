"""The gateway's own errors to the upstream's clients, in the shape that they know."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError
from gateway.simulator import SimulatedUpstream
from tests.proxystand import CREATE, RECORD, Stand, envelope


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", RECORD, b"", 422),
        ("GET", f"{RECORD}?taskId=a%20b", b"", 422),
        ("GET", f"{RECORD}?taskId={'a' * 256}", b"", 422),
        ("POST", f"{RECORD}?taskId=a", b"", 405),
        ("OPTIONS", CREATE, b"", 405),
        ("GET", CREATE, b"", 405),
        ("GET", "/api/v1/jobs/other", b"", 404),
        ("GET", "/api/v1/chat/credit", b"", 404),
        ("POST", CREATE, b"", 400),
        ("POST", CREATE, b'{"model"', 400),
        ("POST", CREATE, b"[]", 422),
        ("POST", CREATE, b'{"callBackUrl":7}', 422),
        ("POST", CREATE, b'{"a":[' + b"[]," * 700_000 + b"1]}", 413),
    ],
)
async def test_errors_have_the_upstreams_envelope(
    start: Callable[..., Awaitable[Stand]],
    simulator: SimulatedUpstream,
    method: str,
    path: str,
    content: bytes,
    status: int,
) -> None:
    """A client of the upstream reads the gateway's own errors as it reads the upstream's; nothing is forwarded."""
    stand = await start()
    answer = await stand.client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert envelope(answer)["data"] is None
    assert sum(simulator.stats.requests.values()) == 0
    if status == 405:
        assert answer.headers["allow"]


async def test_a_bad_request_id_is_refused(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """An id that cannot be passed on would not keep a second create from being paid for."""
    stand = await start()
    answer = await stand.create(**{"X-Request-ID": "a b"})
    assert (answer.status_code, envelope(answer)["msg"][:12]) == (422, "X-Request-ID")
    assert simulator.stats.requests["createTask"] == 0


async def test_the_token_is_the_clients_key(start: Callable[..., Awaitable[Stand]]) -> None:
    """With a token, only it is taken for a key; the refusal has the envelope, on the API's other paths a problem."""
    stand = await start(GATEWAY_TOKEN="t0ken-of-the-one-client")
    for path in (RECORD, CREATE, "/api/v1/other"):
        refused = await stand.client.get(path)
        assert (refused.status_code, envelope(refused)["data"]) == (401, None)
        assert refused.headers["www-authenticate"] == "Bearer"
    assert (await stand.client.get("/v1/callbacks")).json()["code"] == "unauthorized"
    stand.client.headers["authorization"] = "Bearer t0ken-of-the-one-client"
    assert (await stand.read("sim-success-0-a")).status_code == 200


async def test_a_defect_has_the_envelope_too(start: Callable[..., Awaitable[Stand]]) -> None:
    """A 500 of the gateway's own, and a database that cannot be read, look like the upstream's."""
    stand = await start()

    async def defect(client: str, task_id: str) -> None:
        raise RuntimeError

    async def unreadable(client: str, task_id: str) -> None:
        raise StoreError("no")

    stand.store.registry.proxied_task = unreadable
    assert envelope(await stand.read("t"))["code"] == 503
    stand.store.registry.proxied_task = defect
    transport = httpx.ASGITransport(stand.gateway, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert envelope(await client.get(RECORD, params={"taskId": "t"}))["code"] == 500


async def test_nothing_is_sent_before_it_is_known_what_was_spent(tmp_path: Path, simulator: SimulatedUpstream) -> None:
    """Requests that come while the gateway starts are refused, in the envelope their caller knows."""
    settings = load(
        {
            "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9",
        }
    )
    gateway = build(settings, SystemClock())
    try:
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            read = await client.get(RECORD, params={"taskId": "t"})
            assert (read.status_code, read.json()["code"]) == (503, 503)
            listed = await client.get("/v1/callbacks")
            assert (listed.status_code, listed.json()["code"]) == (503, "unavailable")
            assert listed.headers["retry-after"]
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
    finally:
        await gateway.close()
