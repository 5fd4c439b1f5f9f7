"""What the log says of a whole gateway's work, at which level, and that nobody needs it to be said."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.scenario import Plan
from tests.running import Running, running

ROOT = Path(__file__).parents[3]


class Hooks:
    """A receiver that takes what comes to /taken, and wants nothing of the rest."""

    def __init__(self) -> None:
        self.posts: list[str] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        self.posts.append(dict(scope["headers"])[b"webhook-id"].decode())
        await Response(status_code=204 if scope["path"] == "/taken" else 410)(scope, receive, send)


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    receiver = Hooks()
    async with serve_asgi(receiver) as receiver.url:
        yield receiver


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    simulator = SimulatedUpstream(SystemClock())
    simulator.add_task("never", Plan(duration_s=0, outcome="never"))
    async with serve_simulator(simulator) as url:
        yield url


async def became(gateway: Running, callback_id: str, state: str) -> None:
    await gateway.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["state"] == state)


async def test_the_lines_of_a_task_and_of_its_webhooks_can_be_joined(
    hooks: Hooks, upstream_url: str, tmp_path: Path
) -> None:
    """By task and callback; what somebody has to look at, a dead webhook and an abandoned task, is a warning."""
    with capture_logs() as log:
        async with running(tmp_path, upstream_url) as gateway:
            taken = await gateway.registered("sim-success-500-t", f"{hooks.url}/taken")
            dead = await gateway.registered("sim-success-500-t", f"{hooks.url}/unwanted")
            late = (await gateway.register("never", f"{hooks.url}/taken", timeoutSeconds=1)).json()["id"]
            for callback_id, state in ((taken, "delivered"), (dead, "dead"), (late, "delivered")):
                await became(gateway, callback_id, state)
    (settled,) = [line for line in log if line["event"] == "task.settled"]
    assert (settled["log_level"], settled["task_id"], settled["callbacks"]) == ("info", "sim-success-500-t", 2)
    assert sorted(settled["callback_ids"]) == sorted([taken, dead])
    (expired,) = [line for line in log if line["event"] == "callbacks.expired"]
    assert (expired["log_level"], expired["task_id"], expired["callback_ids"]) == ("warning", "never", [late])
    attempts = {line["callback_id"]: line for line in log if line["event"] == "attempt.finished"}
    assert {line["client"] for line in attempts.values()} == {"default"}
    assert {line["receiver"] for line in attempts.values()} == {hooks.url}
    assert [(attempts[one]["task_id"], attempts[one]["log_level"]) for one in (taken, dead, late)] == [
        ("sim-success-500-t", "info"),
        ("sim-success-500-t", "warning"),
        ("never", "info"),
    ]


async def test_the_line_of_a_task_with_very_many_callbacks_is_no_page(
    hooks: Hooks, upstream_url: str, tmp_path: Path
) -> None:
    """It names twenty of them, and says how many there are."""
    with capture_logs() as log:
        async with running(tmp_path, upstream_url) as gateway:
            items = [
                {"taskId": "sim-success-500-t", "callbackUrl": f"{hooks.url}/taken?{number}"} for number in range(30)
            ]
            answers = (await gateway.client.post("/v1/callbacks/batch", json={"callbacks": items})).json()["data"]
            ids = {answer["callback"]["id"] for answer in answers}
            for callback_id in ids:
                await became(gateway, callback_id, "delivered")
    (settled,) = [line for line in log if line["event"] == "task.settled"]
    assert settled["callbacks"] == 30
    assert len(set(settled["callback_ids"])) == 20
    assert set(settled["callback_ids"]) < ids


class CannotBeSaid(Exception):
    pass


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """Every line that the package logs once it has started raises an exception where it is said; give the events."""
    said: list[str] = []

    def refuse(_logger: Any, _method: str, event: Any) -> Any:
        said.append(event["event"])
        if event["event"].startswith("secret."):  # of the start: nothing has been done yet
            raise structlog.DropEvent
        raise CannotBeSaid

    before = structlog.get_config()["processors"]
    before[:], kept = [refuse], list(before)
    yield said
    before[:] = kept


async def test_no_effect_waits_for_a_line_to_be_said(
    silent: list[str], hooks: Hooks, upstream_url: str, tmp_path: Path
) -> None:
    """Where every line raises, each webhook is recorded once, and none is sent again; a create's callback is kept."""
    async with running(tmp_path, upstream_url, GATEWAY_UPSTREAM_API_KEY="key") as gateway:
        ids = [await gateway.registered(f"sim-success-0-{n}", f"{hooks.url}/taken") for n in range(5)]
        dead = await gateway.registered("sim-success-0-0", f"{hooks.url}/unwanted")
        create = {"model": "sim", "input": {"prompt": "a"}, "callBackUrl": f"{hooks.url}/taken"}
        assert (await gateway.client.post("/api/v1/jobs/createTask", json=create)).status_code == 500
        for callback_id in ids:
            await became(gateway, callback_id, "delivered")
        await became(gateway, dead, "dead")
        listed = (await gateway.client.get("/v1/callbacks")).json()["data"]
        assert len(listed) == 7
    assert {"attempt.finished", "task.settled", "proxy.created"} <= set(silent)
    async with running(tmp_path, upstream_url) as gateway:
        for callback_id in ids:
            attempts = (await gateway.client.get(f"/v1/callbacks/{callback_id}/attempts")).json()["data"]
            assert [attempt["result"] for attempt in attempts] == ["delivered"]
        await gateway.registered("sim-success-0-last", f"{hooks.url}/taken")
        await gateway.becomes("/v1/callbacks?state=delivered", lambda answer: len(answer.json()["data"]) >= 6)
    assert sorted(post for post in hooks.posts if post in [*ids, dead]) == sorted([*ids, dead])


# What a line looks like

PROGRAM = """
import logging, sys, threading, warnings
import structlog
from gateway.core.telemetry import configure_logging

class Mute:
    def __repr__(self):
        raise RuntimeError("no")

class Breaks:
    def __del__(self):
        raise ValueError("in a finalizer")

configure_logging(sys.argv[1], level=sys.argv[2])
log = structlog.get_logger()
log.debug("a.debug")
log.info("an.info", half="\\ud83d", data=b"\\xff", mute=Mute(), large=10**30, fine=1)
log.info("half \\ud83d")
log.warning("a.warning")
log.error("an.error")
library = logging.getLogger("lib")
library.info("not told")
library.warning("told %s", "\\ud83d")
library.warning("told %d", "wrongly")
library.log(35, Mute())
warnings.warn("careful")
Breaks()
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a.failure")
    library.exception("it failed")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
print("for people: \\ud83d", file=sys.stderr)
raise SystemError("the end")
"""


def said(log_format: str, level: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format, level],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, b"")
    return ended.stderr.decode().splitlines()


def test_every_line_is_said_whatever_stands_in_it() -> None:
    """Half an emoji, an object without a repr, a library's wrong words, and what Python says by itself."""
    lines = said("json", "info")
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert [line["event"] for line in told] == [
        *("an.info", "half \\ud83d", "a.warning", "an.error", "library.logged", "a.failure", "library.logged")
    ]
    assert {name: told[0][name] for name in ("half", "mute", "large", "fine", "level")} == {
        "half": "\\ud83d",
        "mute": "<Mute, whose repr raised RuntimeError>",
        "large": 10**30,
        "fine": 1,
        "level": "info",
    }
    assert (told[4]["logger"], told[4]["message"], told[4]["level"]) == ("lib", "told \\ud83d", "warning")
    assert all("ZeroDivisionError" in line["exception"] for line in told[5:])
    text = "\n".join(lines)
    for words in ("UserWarning: careful", "ValueError: in a finalizer", "for people: \\ud83d", "Exception in thread"):
        assert words in text
    assert lines[-1] == "SystemError: the end"


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", {"a.debug", "an.info", "half \\ud83d", "a.warning", "an.error", "a.failure", "library.logged"}),
        ("warning", {"a.warning", "an.error", "a.failure", "library.logged"}),
        ("error", {"an.error", "a.failure", "library.logged"}),
    ],
)
def test_what_is_below_the_level_is_not_said(level: str, events: set[str]) -> None:
    """Libraries' steps never are: they name what is secret."""
    told = [json.loads(line) for line in said("json", level) if line.startswith("{")]
    assert {line["event"] for line in told} == events
    assert ("told \\ud83d" in {line.get("message") for line in told}) == (level != "error")
    assert "not told" not in {line.get("message") for line in told}


def test_lines_for_people_are_said_whatever_stands_in_them() -> None:
    """On a terminal too; there one that cannot be laid out is JSON."""
    text = "\n".join(said("console", "info"))
    for words in (
        '"mute":"<Mute, whose repr raised RuntimeError>"',
        "half \\ud83d",
        "a.warning",
        "SystemError: the end",
    ):
        assert words in text
