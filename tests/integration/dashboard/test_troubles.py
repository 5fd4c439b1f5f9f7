"""The usual troubles, each planted: the dashboard says what is wrong, and leads to the part of the manual about it."""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from starlette.requests import Request
from starlette.responses import Response

from gateway.app import build
from gateway.core.clock import SystemClock
from gateway.core.errors import VerificationError
from gateway.net.resolver import Resolver
from gateway.serve.asgi import serve_asgi
from gateway.signature import parse_secrets, verify
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.faults import Fault, FaultKind
from gateway.simulator.scenario import Plan
from tests.dashboard import LeapingClock, Visitor
from tests.nameserver import NO_SUCH_NAME, serve_names
from tests.running import LIMIT_S, Running, running
from tests.storing import new, registered
from tests.waiting import a_moment

THEIRS = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


LINK = re.compile(r'<a [^>]*href="([^"]+)"[^>]*>(.*?)</a>', re.DOTALL)


class Trouble:
    """A gateway, its upstream and a receiver, in which something is about to go wrong."""

    run: Running
    visitor: Visitor
    hooks_url: str

    def __init__(self, upstream: SimulatedUpstream, clock: LeapingClock) -> None:
        self.upstream = upstream
        self.clock = clock
        self.status = 204
        self.waits_s = 0.0
        self.verifies = False
        self.meanwhile: asyncio.Task[None] | None = None
        """What goes on while somebody looks."""

    async def hook(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        await asyncio.sleep(self.waits_s)
        status = self.status
        if self.verifies:
            try:
                verify(parse_secrets(THEIRS), request.headers, body, now_s=SystemClock().now() / 1000)
            except VerificationError:
                status = 401
        await Response(status_code=status)(scope, receive, send)

    async def registered(self, task_id: str = "sim-success-0-cat", url: str = "") -> str:
        return await self.run.registered(task_id, url or self.hooks_url)

    async def shows(self, way: Iterable[str], words: re.Pattern[str]) -> None:
        """Follow the first link with each text, from the first page on, until the last page shows the words."""
        last = ""
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    last = (await self.visitor.get("/")).text
                    for text in way:
                        found = (to for to, label in LINK.findall(last) if text in Visitor.text_of(label))
                        if (to := next(found, None)) is None:
                            break
                        last = (await self.visitor.get(html.unescape(to))).text
                    else:
                        if words.search(last):
                            return
                    await a_moment()
        except TimeoutError:
            pytest.fail(f"{words.pattern} is not on the page that has {Visitor.text_of(last)}")

    def fault(self, kind: FaultKind, **more: Any) -> None:
        self.upstream.faults.add(Fault(kind=kind, **more))


Plant = Callable[[Trouble], Awaitable[None]]


async def wrong_secret(trouble: Trouble) -> None:
    trouble.verifies = True
    await trouble.registered()


async def refused_key(trouble: Trouble) -> None:
    trouble.fault(FaultKind.KEY_REFUSED)
    for number in range(4):
        await trouble.registered(f"sim-success-0-{number}")


async def gone(trouble: Trouble) -> None:
    trouble.status = 410
    await trouble.registered()


async def dead_name(trouble: Trouble) -> None:
    await trouble.registered(url="http://dead.test/hooks")


async def blocked_address(trouble: Trouble) -> None:
    """It was allowed when it was registered."""
    callback = new("sim-success-0-cat", client="default", url="http://10.0.0.7/hooks", upstream="aigptimage")
    await registered(trouble.run.gateway.store, callback)


async def used_up_budget(trouble: Trouble) -> None:
    for number in range(5):
        await trouble.registered(f"sim-never-0-{number}")


async def lower_limit(trouble: Trouble) -> None:
    trouble.fault(FaultKind.ERROR, status=429, code=429)
    await trouble.registered()


async def slow_receiver(trouble: Trouble) -> None:
    trouble.waits_s = 2
    await trouble.registered()


async def unknown_task(trouble: Trouble) -> None:
    await trouble.registered("no-such-task")


async def given_up_task(trouble: Trouble) -> None:
    """The upstream has said so often enough, and for long enough."""
    path = f"/v1/callbacks/{await trouble.registered('no-such-task')}"
    await trouble.run.becomes(path, lambda answer: answer.json()["task"]["polls"] >= 5)
    trouble.clock.pass_(150)
    await trouble.run.becomes(path, lambda answer: answer.json()["task"]["state"] == "abandoned")


async def failed_task(trouble: Trouble) -> None:
    trouble.upstream.add_task("cat", Plan(outcome="fail", fail_code="501", fail_msg="No cats"))
    await trouble.registered("cat")


async def unreadable_answer(trouble: Trouble) -> None:
    trouble.fault(FaultKind.ARRAY)
    await trouble.registered()


async def silent_upstream(trouble: Trouble) -> None:
    """It closes each connection in the middle of its answer."""
    trouble.fault(FaultKind.RESET)
    await trouble.registered()


async def full_disk(trouble: Trouble) -> None:
    database = trouble.run.gateway.store._database
    ((pages,),) = await database.read("PRAGMA page_count")
    await database.read(f"PRAGMA max_page_count = {pages}")
    metadata = {"note": "x" * 7000}
    async with asyncio.timeout(LIMIT_S):
        while (await trouble.run.register("t", trouble.hooks_url, metadata=metadata)).status_code != 503:
            metadata = {"note": "y" * 7000, **metadata}

    async def again() -> None:
        """Have a client go on trying: a write that is small enough may still find room, and then all seems well."""
        while True:
            await trouble.run.register("t", trouble.hooks_url, metadata=metadata)

    trouble.meanwhile = asyncio.create_task(again(), name="a client that tries again")


async def proxy_down(trouble: Trouble) -> None:
    await trouble.registered()


async def events_refused(trouble: Trouble) -> None:
    trouble.status = 410
    await trouble.registered()


async def no_collector(trouble: Trouble) -> None:
    await trouble.registered()


NOBODY = "http://127.0.0.1:9"
TABLES = f"""
[[receivers]]
match = "HOOKS"
proxy = "{NOBODY}"
"""
SETTINGS: Mapping[Plant, Mapping[str, str]] = {
    used_up_budget: {"GATEWAY_UPSTREAM_RATE": "2/60"},
    proxy_down: {"GATEWAY_CONFIG": "gateway.toml"},
    events_refused: {"GATEWAY_EVENTS_URL": f"{NOBODY}/events?key=secret"},
    no_collector: {
        "OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    },
}
"""What a trouble needs of them besides."""


@pytest.fixture
async def trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Trouble]:
    more = dict(SETTINGS.get(request.node.callspec.params["plant"], {}))
    for name in more.keys() - {name for name in more if name.startswith("GATEWAY_")}:
        monkeypatch.setenv(name, more[name])  # the SDK reads them itself
    monkeypatch.chdir(tmp_path)
    clock = LeapingClock()
    upstream = SimulatedUpstream(SystemClock())
    made = Trouble(upstream, clock)
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(serve_names(dead_test=NO_SUCH_NAME))
        monkeypatch.setattr(build, "Resolver", partial(Resolver, nameservers=[names.address]))
        upstream_url = await stack.enter_async_context(serve_simulator(upstream))
        made.hooks_url = f"{await stack.enter_async_context(serve_asgi(made.hook))}/hooks"
        (tmp_path / "gateway.toml").write_text(TABLES.replace("HOOKS", made.hooks_url))
        made.run = await stack.enter_async_context(
            running(
                tmp_path,
                upstream_url,
                clock,
                **{
                    "GATEWAY_CALLBACK_ALLOW": "127.0.0.1,dead.test",
                    "GATEWAY_ATTEMPT_TIMEOUT_S": "0.5",
                    "GATEWAY_RETRY_SCHEDULE": "0,3600",
                    **more,
                },
            )
        )
        made.visitor = await stack.enter_async_context(Visitor(str(made.run.client.base_url)))
        yield made
        if made.meanwhile is not None:
            made.meanwhile.cancel()
            with suppress(asyncio.CancelledError):
                await made.meanwhile


Way = tuple[str, ...]
"""The links that are followed, from the first page on."""

NOW: Way = ()
WATCHED: Way = ("Tasks watched",)
OWED: Way = ("Webhooks owed",)
DEAD: Way = ("Dead",)
FAILED: Way = ("Failed attempts",)
CALLBACK: Way = ("Callbacks", "cb_")


@pytest.mark.parametrize(
    ("plant", "causes", "anchor", "advice"),
    [
        (
            wrong_secret,
            dict.fromkeys((NOW, OWED, FAILED, CALLBACK), "answered 401: check the signature"),
            "it-answers-401-or-403",
            "signature does not verify",
        ),
        (
            refused_key,
            {NOW: "refuses the key", CALLBACK: "It waits: the upstream aigptimage refuses the key"},
            "the-key-is-refused",
            "reload",
        ),
        (gone, dict.fromkeys((NOW, DEAD, CALLBACK), "answered 410: it wants no more"), "it-answers-410", "redeliver"),
        (
            dead_name,
            dict.fromkeys((NOW, OWED, CALLBACK), "there is no such name"),
            "the-name-does-not-resolve",
            "getent hosts",
        ),
        (
            blocked_address,
            dict.fromkeys((NOW, OWED, CALLBACK), "10.0.0.7 is in a range"),
            "the-address-is-blocked",
            "GATEWAY_CALLBACK_ALLOW",
        ),
        (
            used_up_budget,
            {NOW: "100 % of 2/60", CALLBACK: "the key's rate limit is used up"},
            "the-budget-is-used-up",
            "GATEWAY_UPSTREAM_RATE",
        ),
        (
            lower_limit,
            {NOW: "answers 429", WATCHED: "answered 429", CALLBACK: "answered 429"},
            "the-budget-is-used-up",
            "GATEWAY_UPSTREAM_RATE",
        ),
        (
            slow_receiver,
            dict.fromkeys((NOW, OWED, CALLBACK), "did not answer in full within 0.5 s"),
            "the-receiver-is-slow",
            "Have it answer 2xx first",
        ),
        (unknown_task, dict.fromkeys((WATCHED, CALLBACK), "answered 404"), "the-task-is-not-known", "compare"),
        (given_up_task, {CALLBACK: "The upstream does not know it"}, "the-task-is-not-known", "compare"),
        (
            unreadable_answer,
            dict.fromkeys((WATCHED, CALLBACK), "is not a JSON object"),
            "the-answer-cannot-be-read",
            "lastError",
        ),
        (unreadable_answer, {NOW: "answers nonsense"}, "the-upstream-answers-nonsense", "GATEWAY_UPSTREAM_URL"),
        (silent_upstream, {NOW: "gives no answer, or errors alone"}, "the-upstream-gives-no-answer", "curl"),
        (failed_task, {CALLBACK: "It says '501: No cats'"}, "the-task-failed", "its words"),
        (full_disk, {NOW: "its disk is full"}, "the-disk-is-full", "df -h"),
        (
            proxy_down,
            {NOW: "An egress proxy cannot be used: 127.0.0.1:9"}
            | dict.fromkeys((OWED, CALLBACK), "could not be reached (Connection refused)"),
            "the-egress-proxy-fails",
            "reload",
        ),
        (
            events_refused,
            {NOW: "Operator events do not get through: 127.0.0.1:9 could not be reached (Connection refused)"},
            "operator-events-do-not-get-through",
            "GATEWAY_EVENTS_URL",
        ),
        (
            no_collector,
            {NOW: "Spans or metrics do not get through to their collector"},
            "the-collector-takes-nothing",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ],
)
async def test_a_trouble_is_found_and_explained(
    trouble: Trouble, plant: Plant, causes: Mapping[Way, str], anchor: str, advice: str
) -> None:
    """From the first page in two clicks at most to what is wrong; a link beside it leads to what to do."""
    await plant(trouble)
    link = f'<a [^>]*href="/manual/troubleshooting#{anchor}"'
    for way, cause in causes.items():
        await trouble.shows(way, re.compile(f"{re.escape(escape(cause))}(?:(?!<a ).)*{link}", re.DOTALL))
    manual = (await trouble.visitor.get("/manual/troubleshooting")).text
    part = re.split(r"<h[23]", manual.partition(f'id="{anchor}"')[2])[0]
    assert advice in Visitor.text_of(part)
