"""The usual troubles, each planted: the dashboard says what is wrong, and leads to the part of the manual about it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
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
from tests.nameserver import NO_SUCH_NAME, serve_names
from tests.running import LIMIT_S, Running, running
from tests.storing import new, registered

THEIRS = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Trouble:
    """A gateway, its upstream and a receiver, in which something is about to go wrong."""

    def __init__(self, run: Running, upstream: SimulatedUpstream, hooks_url: str) -> None:
        self.run = run
        self.upstream = upstream
        self.hooks_url = hooks_url
        self.status = 204
        self.waits_s = 0.0
        self.verifies = False

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
        return f"/dashboard/callbacks/{await self.run.registered(task_id, url or self.hooks_url)}"

    def fault(self, kind: FaultKind, **more: Any) -> None:
        self.upstream.faults.add(Fault(kind=kind, **more))


async def wrong_secret(trouble: Trouble) -> str:
    trouble.verifies = True
    return await trouble.registered()


async def refused_key(trouble: Trouble) -> str:
    trouble.fault(FaultKind.KEY_REFUSED)
    for number in range(4):
        await trouble.registered(f"sim-success-0-{number}")
    return "/"


async def gone(trouble: Trouble) -> str:
    trouble.status = 410
    return await trouble.registered()


async def dead_name(trouble: Trouble) -> str:
    return await trouble.registered(url="http://dead.test/hooks")


async def blocked_address(trouble: Trouble) -> str:
    """It was allowed when it was registered."""
    callback = new("sim-success-0-cat", client="default", url="http://10.0.0.7/hooks", upstream="aigptimage")
    made = await registered(trouble.run.gateway.store, callback)
    return f"/dashboard/callbacks/{made.id}"


async def used_up_budget(trouble: Trouble) -> str:
    for number in range(5):
        await trouble.registered(f"sim-never-0-{number}")
    return "/"


async def lower_limit(trouble: Trouble) -> str:
    trouble.fault(FaultKind.ERROR, status=429, code=429)
    return await trouble.registered()


async def slow_receiver(trouble: Trouble) -> str:
    trouble.waits_s = 2
    return await trouble.registered()


async def unknown_task(trouble: Trouble) -> str:
    return await trouble.registered("no-such-task")


async def unreadable_answer(trouble: Trouble) -> str:
    trouble.fault(FaultKind.ARRAY)
    return await trouble.registered()


async def full_disk(trouble: Trouble) -> str:
    database = trouble.run.gateway.store._database
    ((pages,),) = await database.read("PRAGMA page_count")
    await database.read(f"PRAGMA max_page_count = {pages}")
    metadata = {"note": "x" * 7000}
    async with asyncio.timeout(LIMIT_S):
        while (await trouble.run.register("t", trouble.hooks_url, metadata=metadata)).status_code != 503:
            metadata = {"note": "y" * 7000, **metadata}
    return "/"


@pytest.fixture
async def trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Trouble]:
    budget = request.node.callspec.params["plant"] is used_up_budget
    upstream = SimulatedUpstream(SystemClock())
    made = Trouble(None, upstream, "")  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(serve_names(dead_test=NO_SUCH_NAME))
        monkeypatch.setattr(build, "Resolver", partial(Resolver, nameservers=[names.address]))
        upstream_url = await stack.enter_async_context(serve_simulator(upstream))
        made.hooks_url = f"{await stack.enter_async_context(serve_asgi(made.hook))}/hooks"
        made.run = await stack.enter_async_context(
            running(
                tmp_path,
                upstream_url,
                GATEWAY_CALLBACK_ALLOW="127.0.0.1,dead.test",
                GATEWAY_ATTEMPT_TIMEOUT_S="0.5",
                GATEWAY_RETRY_SCHEDULE="0,3600",
                GATEWAY_UPSTREAM_RATE="2/60" if budget else "1000/1",
            )
        )
        yield made


@pytest.mark.parametrize(
    ("plant", "anchor", "words"),
    [
        (wrong_secret, "it-answers-401-or-403", "signature does not verify"),
        (refused_key, "the-key-is-refused", "reload"),
        (gone, "it-answers-410", "redeliver"),
        (dead_name, "the-name-does-not-resolve", "getent hosts"),
        (blocked_address, "the-address-is-blocked", "GATEWAY_CALLBACK_ALLOW"),
        (used_up_budget, "the-budget-is-used-up", "GATEWAY_UPSTREAM_RATE"),
        (lower_limit, "the-budget-is-used-up", "GATEWAY_UPSTREAM_RATE"),
        (slow_receiver, "the-receiver-is-slow", "Have it answer 2xx first"),
        (unknown_task, "the-task-is-not-known", "compare"),
        (unreadable_answer, "the-answer-cannot-be-read", "lastError"),
        (full_disk, "the-disk-is-full", "df -h"),
    ],
)
async def test_a_trouble_is_explained(
    trouble: Trouble, plant: Callable[[Trouble], Awaitable[str]], anchor: str, words: str
) -> None:
    """One link from what the page says is wrong to what that means and what to do."""
    page = await plant(trouble)
    link = f'href="/manual/troubleshooting#{anchor}"'
    answer = await trouble.run.becomes(page, lambda answer: link in answer.text)
    before = answer.text.partition(link)[0]
    assert len(re.sub(r"<[^>]+>", "", before).split()) > 10, "it stands beside what went wrong"
    manual = (await trouble.run.client.get("/manual/troubleshooting")).text
    part = re.split(r"<h[23]", manual.partition(f'id="{anchor}"')[2])[0]
    assert words in " ".join(re.sub(r"<[^>]+>", "", part).split())
