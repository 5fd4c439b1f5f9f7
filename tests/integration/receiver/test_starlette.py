"""The dependency for FastAPI and Starlette, in an application that is served."""

import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.receiver.starlette import WebhookEvent
from gateway.serve.asgi import serve_asgi
from gateway.signature import Signer, make_secret, parse_secrets

OLD, NEW = make_secret(), make_secret()
BODY = json.dumps(
    {
        "type": "task.failed",
        "timestamp": "2026-11-23T10:00:33.120Z",
        "data": {"callbackId": "cb_1", "taskId": "task_1", "state": "fail", "failCode": "501", "metadata": {}},
    },
    separators=(",", ":"),
).encode()
webhook = WebhookEvent([OLD, NEW], max_bytes=1000)


async def hooks(request: Request) -> JSONResponse:
    event = await webhook(request)
    return JSONResponse([type(event).__name__, event.task_id])


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[Route("/hooks", hooks, methods=["POST"])])
    async with serve_asgi(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as it:
        yield it


def signed(body: bytes, secret: str, at_s: float) -> dict[str, str]:
    return Signer(parse_secrets(secret)).headers("cb_1", int(at_s), body)


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
async def test_a_good_one_is_handed_over(client: httpx.AsyncClient, secret: str) -> None:
    """With either secret; it may come in pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        yield BODY[:50]
        yield BODY[50:]

    answer = await client.post("/hooks", content=pieces(), headers=signed(BODY, secret, time.time()))
    assert (answer.status_code, answer.json()) == (200, ["Failed", "task_1"])


@pytest.mark.parametrize(
    ("body", "secret", "age_s", "status", "says"),
    [
        (BODY, make_secret(), 0, 401, "no signature matches"),
        (BODY, NEW, 400, 401, "s old"),
        (b'{"id":"p1"}', NEW, 0, 422, "The signature is right"),
        (b"x" * 1001, NEW, 0, 413, "more than 1000 bytes"),
    ],
    ids=["another's", "old", "of no type", "large"],
)
async def test_what_is_refused_says_why(
    client: httpx.AsyncClient, body: bytes, secret: str, age_s: float, status: int, says: str
) -> None:
    """The gateway keeps how the answer began, so whoever runs it reads there what is wrong."""
    answer = await client.post("/hooks", content=body, headers=signed(body, secret, time.time() - age_s))
    assert answer.status_code == status
    assert says in answer.text
