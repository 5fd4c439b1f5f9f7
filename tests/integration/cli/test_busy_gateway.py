"""What `gateway import` makes of a gateway that has no room now, and of one that is none."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.cli import importing
from gateway.cli.client import ApiError, RemoteGateway, Unreachable
from gateway.cli.importing import Import, run
from gateway.cli.journal import Journal
from gateway.serve.asgi import serve_asgi
from tests.answers import CALLBACK

Judge = Callable[[int, list[Any]], JSONResponse]


async def imported(
    judge: Judge, lines: int = 3, token: str | None = None
) -> tuple[dict[str, Any], list[tuple[float, list[str]]]]:
    """Import lines into what answers the n-th batch so; return the outcome, and when which tasks were sent."""
    asked: list[tuple[float, list[str]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        items = (await Request(scope, receive).json())["callbacks"]
        asked.append((time.monotonic(), [item["taskId"] for item in items]))
        await judge(len(asked), items)(scope, receive, send)

    data = "\n".join(json.dumps({"taskId": f"t{n}", "callbackUrl": "https://x.example.com/"}) for n in range(lines))
    async with serve_asgi(app) as url:
        with RemoteGateway(url, token) as gateway:
            wish = Import(data.encode(), "lines", None, None, as_json=True)
            done = await asyncio.to_thread(run, gateway, wish, Journal(None, url, token))
    return done, asked


def taken(items: list[Any]) -> JSONResponse:
    return JSONResponse(
        {"data": [{"status": 201, "callback": CALLBACK | {"id": f"cb_{n}"}} for n, _ in enumerate(items)]}
    )


def problem(status: int, **headers: str) -> JSONResponse:
    return JSONResponse({"status": status, "detail": f"It is {status}."}, status, headers)


@pytest.mark.parametrize("status", [429, 503])
async def test_it_waits_as_long_as_it_is_asked_to(status: int) -> None:
    """Retry-After says how long; then the same batch is sent again."""
    done, asked = await imported(lambda n, items: problem(status, **{"retry-after": "1"}) if n == 1 else taken(items))
    assert done == {"registered": 3, "existing": 0, "skipped": 0, "refused": []}
    (first_at, first), (second_at, second) = asked
    assert first == second
    assert second_at - first_at >= 1


async def test_only_what_could_not_be_taken_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch whose midst met a database in trouble."""
    monkeypatch.setattr(importing, "_PAUSE_S", 0.01)

    def judge(n: int, items: list[Any]) -> JSONResponse:
        data = json.loads(taken(items).body)["data"]
        if n == 1:
            data[1] = {"status": 503, "error": {"code": "unavailable", "detail": "Not now."}}
            data[2] = {"status": 422, "error": {"code": "invalid_request", "detail": "Never."}}
        return JSONResponse({"data": data})

    done, asked = await imported(judge)
    assert [tasks for _, tasks in asked] == [["t0", "t1", "t2"], ["t1"]]
    assert (done["registered"], done["refused"]) == (2, [{"line": 3, "code": "invalid_request", "message": "Never."}])


async def test_it_gives_up_where_nothing_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a time, and says that the same command goes on."""
    monkeypatch.setattr(importing, "_PAUSE_S", 0.01)
    monkeypatch.setattr(importing, "_PATIENCE_S", 0.1)

    def judge(n: int, items: list[Any]) -> JSONResponse:
        return JSONResponse({"data": [{"status": 503, "error": {}} for _ in items]})

    with pytest.raises(ApiError, match="takes no registrations"):
        await imported(judge)
    assert "Stopped: 0 of 3 are registered. The same command goes on from there." in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_what_will_not_pass_ends_it_at_once(status: int) -> None:
    """A wrong token, or a defect."""
    asked = 0

    def judge(n: int, items: list[Any]) -> JSONResponse:
        nonlocal asked
        asked = n
        return problem(status)

    with pytest.raises(ApiError):
        await imported(judge)
    assert asked == 1


@pytest.mark.parametrize("answer", [{"data": []}, {"data": [{"status": "201"}] * 3}, {"data": None}, []])
async def test_what_is_no_gateways_answer(answer: Any) -> None:
    """It is an error, never counted as taken."""
    with pytest.raises(ApiError):
        await imported(lambda n, items: JSONResponse(answer))


def test_a_gateway_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, once it has been waited for."""
    monkeypatch.setattr(importing, "_PAUSE_S", 0.01)
    monkeypatch.setattr(importing, "_PATIENCE_S", 0.1)
    wish = Import(
        b'{"taskId": "t", "callbackUrl": "https://x.example.com/"}', "lines", None, tmp_path / "report", as_json=True
    )
    with RemoteGateway("http://127.0.0.1:9", None) as gateway, pytest.raises(Unreachable) as caught:
        run(gateway, wish, Journal(None, "", None))
    assert caught.value.exit_code == 3
    assert (tmp_path / "report").read_text().split() == ["line,code,message"]
