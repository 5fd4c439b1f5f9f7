"""`gateway send-test` and receivers of every kind: what it says of them, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.webpages import PagesRefused
from gateway.cli.commands import cli
from gateway.cli.receiver import PlannedAnswer, ReceivedWebhook, Receiver
from gateway.cli.sendtest import Tried, run, show
from gateway.config.load import load
from gateway.config.settings import Settings
from gateway.core.clock import SystemClock
from gateway.core.errors import GatewayError
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret, parse_secrets

SECRET = make_secret()
KINDS = ("succeeded", "failed", "abandoned")
BAD = ["wrong signature", "no signature", "an hour old"]


def settings(**environ: str) -> Settings:
    return load({"GATEWAY_CALLBACK_ALLOW": "127.0.0.1", "GATEWAY_ATTEMPT_TIMEOUT_S": "5", **environ})


async def tried(url: str, kinds: tuple[str, ...] = KINDS, fmt: str = "standard", **environ: str) -> list[Tried]:
    """Run the command's work beside the receiver."""
    return await asyncio.to_thread(run, settings(**environ), url, parse_secrets(SECRET), None, kinds, fmt)


@asynccontextmanager
async def receiver(*answers: PlannedAnswer) -> AsyncIterator[tuple[str, list[ReceivedWebhook]]]:
    """Serve a receiver that verifies, as `gateway listen` does; yield its URL and what has come."""
    came: list[ReceivedWebhook] = []
    app = Receiver(parse_secrets(SECRET), SystemClock(), came.append, answers or (PlannedAnswer(),))
    async with serve_asgi(PagesRefused(app)) as url:
        yield f"{url}/hooks", came


@asynccontextmanager
async def answering(status: int, text: str = "", **headers: str) -> AsyncIterator[str]:
    """Serve a receiver that looks at nothing."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await Response(text, status, headers)(scope, receive, send)

    async with serve_asgi(app) as url:
        yield url


@pytest.mark.parametrize("fmt", ["standard", "record"])
async def test_a_good_receiver_passes(fmt: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes one of each kind, which are what real ones are, and refuses what is badly signed."""
    async with receiver() as (url, came):
        found = await tried(url, fmt=fmt)
    assert [one.name for one in found] == [*(f"task.{kind}" for kind in KINDS), *BAD]
    assert all(one.good for one in found)
    assert [one.sent.status_code for one in found] == [204] * 3 + [401] * 3
    assert [webhook.verified for webhook in came] == [True] * 3 + [False] * 3
    assert len({webhook.headers["webhook-id"] for webhook in came}) == 6
    events = [webhook.event for webhook in came[:3]]
    if fmt == "standard":
        assert [event["type"] for event in events] == [f"task.{kind}" for kind in KINDS]
        assert [event["data"]["state"] for event in events] == ["success", "fail", "abandoned"]
        assert events[2]["data"]["reason"] == "timeout"
        assert all(event["data"]["metadata"] == {"sample": True} for event in events)
    else:
        assert [event["code"] for event in events] == [200, 501, 408]
        assert [event["data"]["state"] for event in events] == ["success", "fail", "fail"]
    assert [event["data"]["taskId"] for event in events] == [f"sample-{kind}" for kind in KINDS]
    show(found, url, "the gateway's secret")
    printed = capsys.readouterr().out
    assert printed.count("✓") == 6
    assert printed.count("it would be delivered") == 3


async def test_a_receiver_that_takes_everything_is_told_of() -> None:
    """Each of the bad ones that it takes, with what that lets anybody do."""
    async with answering(200) as url:
        found = await tried(url)
    assert [one.good for one in found] == [True] * 3 + [False] * 3
    assert all("it was TAKEN" in one.verdict for one in found[3:])
    assert json.loads(json.dumps([one.as_json() for one in found]))[3]["good"] is False


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (503, {"retry-after": "120"}, "tried again in 2 min"),
        (500, {}, "look into the receiver's log"),
        (410, {}, "it would be dead"),
        (301, {"location": "https://elsewhere.example.com/"}, "redirects are never followed"),
        (401, {}, "check the signature"),
    ],
)
async def test_what_would_follow(
    status: int, headers: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the gateway would do next, why, and how the answer began: nothing in it can steer the terminal."""
    async with answering(status, "no\x1b[2J", **headers) as url:
        found = await tried(url, ("failed",))
    (only,) = found
    assert (only.name, only.good, only.sent.status_code) == ("task.failed", False, status)
    assert expected in only.verdict
    show(found, url, "the gateway's secret")
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed
    assert "\x1b" not in printed
    assert "was not tried" in printed


async def test_nobody_there_and_no_tls() -> None:
    """A refused connection, and https where only http is spoken, are told as an attempt tells them."""
    (refused,) = await tried("http://127.0.0.1:9/hooks", ("succeeded",))
    assert (refused.sent.status_code, refused.good) == (None, False)
    assert "could not be reached" in refused.verdict
    async with answering(200) as url:
        (no_tls,) = await tried(url.replace("http://", "https://"), ("succeeded",))
    assert "No secure connection" in no_tls.verdict


async def test_a_url_that_could_not_be_registered() -> None:
    """Nothing is sent; the reason and the way out are the callback policy's."""
    with pytest.raises(GatewayError, match="GATEWAY_CALLBACK_ALLOW"):
        await tried("http://127.0.0.1:1/hooks", GATEWAY_CALLBACK_ALLOW="")
    with pytest.raises(GatewayError, match="refused when it is registered"):
        await tried("http://169.254.169.254/latest", GATEWAY_CALLBACK_ALLOW="169.254.0.0/16,127.0.0.1")


async def test_the_familys_own_signature_is_a_wrong_one_too() -> None:
    """A receiver that looks at nothing but x-webhook-signature is tried with that."""
    key = "family-key-of-the-receiver"
    seen: list[tuple[str | None, str | None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        seen.append((request.headers.get("x-webhook-signature"), request.headers.get("webhook-signature")))
        await Response(status_code=200)(scope, receive, send)

    async with serve_asgi(app) as url:
        await tried(url, ("succeeded",), "record", GATEWAY_RECORD_HMAC_KEY=key)
    right, wrong, none, old = seen
    assert right[0] is not None
    assert wrong[0] not in (None, right[0])
    assert none == (None, None)
    assert old[0] is not None


async def test_a_receiver_with_a_table_of_its_own(tmp_path: Path) -> None:
    """What is tried carries the table's headers and goes by its time limit; a badly signed one is refused as ever."""
    async with receiver() as (url, came):
        path = tmp_path / "gateway.toml"
        path.write_text(f'[[receivers]]\nmatch = "{url}"\nheaders = {{ X-Own = "yes" }}\ntimeout_s = 3')
        with_table = load({"GATEWAY_CALLBACK_ALLOW": "127.0.0.1"}, path)
        found = await asyncio.to_thread(run, with_table, url, parse_secrets(SECRET), None, KINDS, "standard")
    assert all(one.good for one in found)
    assert {webhook.headers["x-own"] for webhook in came} == {"yes"}


async def test_its_secret_signs_for_the_command(tmp_path: Path) -> None:
    """The command signs with the table's secret_file, and says so."""
    (tmp_path / "secret").write_text(SECRET)
    path = tmp_path / "gateway.toml"
    async with receiver() as (url, _):
        path.write_text(f'[[receivers]]\nmatch = "{url}"\nsecret_file = "{tmp_path}/secret"')
        environ = {"GATEWAY_CALLBACK_ALLOW": "127.0.0.1"}
        done = await asyncio.to_thread(
            CliRunner(env=environ).invoke, cli, ["--config", str(path), "send-test", url], catch_exceptions=False
        )
    assert done.exit_code == 0, done.output
    assert f"samples signed with {tmp_path}/secret" in done.output


async def test_a_proxy_that_is_down_is_no_end(tmp_path: Path, unused_tcp_port: int) -> None:
    """An attempt that never got past the gateway's own proxy counts against no schedule, however short that is."""
    path = tmp_path / "gateway.toml"
    path.write_text(f'[[receivers]]\nmatch = "http://127.0.0.1:1"\nproxy = "http://127.0.0.1:{unused_tcp_port}"')
    through = load({"GATEWAY_CALLBACK_ALLOW": "127.0.0.1", "GATEWAY_RETRY_SCHEDULE": "0"}, path)
    (only,) = await asyncio.to_thread(
        run, through, "http://127.0.0.1:1/hooks", parse_secrets(SECRET), None, ("failed",), "standard"
    )
    assert not only.good
    assert "it would be tried again in" in only.verdict
    assert "does not count" in only.verdict
