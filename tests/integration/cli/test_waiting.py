"""`gateway register --wait` and a gateway that does not answer as it should."""

import asyncio
from typing import Any

import pytest
from starlette.responses import JSONResponse

from gateway.cli import waiting
from gateway.cli.client import ApiError, RemoteGateway, Unreachable
from gateway.cli.waiting import wait
from gateway.serve.asgi import serve_asgi
from tests.answers import CALLBACK


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_TICK_S", 0.01)
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.3)


async def waited(*answers: JSONResponse) -> dict[str, Any]:
    """Wait at a gateway that gives these answers, the last of them from there on."""
    left = list(answers)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(scope, receive, send)

    async with serve_asgi(app) as url:
        with RemoteGateway(url, None) as gateway:
            return await asyncio.to_thread(wait, gateway, CALLBACK, quiet=False)


def problem(status: int, **headers: str) -> JSONResponse:
    return JSONResponse({"detail": f"It is \x1b[2J {status}."}, status, headers)


async def test_a_gateway_that_is_busy_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    """When it says; each change is a line, and what it says cannot steer the terminal."""
    trouble = {**CALLBACK, "state": "pending", "attempts": 1, "lastError": "x answered 503.\x1b[2J"}
    done = {**trouble, "state": "delivered", "attempts": 2}
    found = await waited(
        JSONResponse(CALLBACK),
        problem(429, **{"retry-after": "0.05"}),
        problem(503),
        JSONResponse(trouble),
        JSONResponse(done),
    )
    assert found["state"] == "delivered"
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("waiting for ")
    assert "task waiting, 1 polls; next poll due for" in first
    assert second.startswith("pending for ")
    assert second.endswith("x answered 503.\\x1b[2J")
    assert third.startswith("delivered for ")


async def test_a_callback_that_is_gone_ends_it() -> None:
    """As does a token that is refused meanwhile: nobody waits for what will not come."""
    for status in (404, 401):
        with pytest.raises(ApiError) as caught:
            await waited(JSONResponse(CALLBACK), problem(status))
        assert caught.value.status == status


def test_a_gateway_that_stays_away_is_exit_code_3() -> None:
    """Once it has been waited for."""
    with RemoteGateway("http://127.0.0.1:9", None) as gateway, pytest.raises(Unreachable) as caught:
        wait(gateway, CALLBACK, quiet=True)
    assert caught.value.exit_code == 3
