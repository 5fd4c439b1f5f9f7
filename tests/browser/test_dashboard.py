"""The dashboard in a real browser: Debian's Chromium, driven by Playwright's core from npm."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.core.model import CallbackState
from gateway.dashboard import live
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.scenario import Plan
from tests.browsing import IN_A_BROWSER, browse
from tests.hostiletexts import HOSTILE_TEXTS
from tests.running import Running, running
from tests.storing import NOW, brought_to, new

TOKEN, OPERATOR = "the-clients-token", "the-operators-token"

pytestmark = IN_A_BROWSER


class Hooks:
    """A receiver that answers as a test says; where the query is ``text=N``, with what is hostile instead.

    With PUT the browser's driver says that the next step may be made.
    """

    def __init__(self) -> None:
        self.answer = 204, ""
        self.steps: list[Callable[[], None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        if scope["method"] == "PUT":
            self.steps.pop(0)()
        status, text = self.answer
        query = scope["query_string"].decode()
        if query.startswith("text="):
            status, text = 500, HOSTILE_TEXTS[int(query[5:].partition("&")[0])]
        await Response(text or None, status)(scope, receive, send)


class World(Running):
    upstream: SimulatedUpstream
    hooks: Hooks
    hooks_url: str

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def goes_on(self, task_id: str) -> None:
        """Have a task run until the page's first step, and the receiver busy until the second."""

        def ends() -> None:
            self.upstream.add_task(task_id, Plan())

        def answers() -> None:
            self.hooks.answer = 204, ""

        self.upstream.add_task(task_id, Plan(outcome="never"))
        self.hooks.answer = 503, "busy"
        self.hooks.steps = [ends, answers]

    async def died(self, *names: str) -> list[str]:
        """Register callbacks that the receiver refuses for good, and return their ids."""
        self.hooks.answer = 410, "gone"
        made = [await self.registered(f"sim-success-0-{name}", self.hooks_url) for name in names]
        for one in made:
            await self.becomes(f"/v1/callbacks/{one}", lambda answer: answer.json()["state"] == "dead")
        self.hooks.answer = 204, ""
        return made


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    hooks, upstream = Hooks(), SimulatedUpstream(SystemClock())
    async with (
        serve_simulator(upstream) as upstream_url,
        serve_asgi(hooks) as hooks_url,
        running(
            tmp_path,
            upstream_url,
            GATEWAY_TOKEN=TOKEN,
            GATEWAY_OPERATOR_TOKEN=OPERATOR,
            GATEWAY_RETRY_SCHEDULE=getattr(request, "param", "0" + ",2" * 50),
        ) as run,
    ):
        made = World(run.gateway, run.client)
        made.upstream, made.hooks, made.hooks_url = upstream, hooks, f"{hooks_url}/hooks"
        made.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield made


async def test_a_callback_is_found_and_followed_live(world: World) -> None:
    """Sign in after a slip, find it while it waits, watch it become delivered without a further load; sign out."""
    world.goes_on("task-cat")
    await world.registered("task-cat", world.hooks_url)
    about = {"token": TOKEN, "task": "task-cat", "go": world.hooks_url}
    steps = (await browse("follow", world.url, **about))["steps"]
    assert "not one of this gateway's" in steps["refused"]
    assert (steps["here"], steps["found"], steps["loads"]) == ("/dashboard/callbacks", 1, 1)
    assert (steps["waiting"][0], steps["waiting"][-1]) == ("Registered", "Next poll")
    _, *polls, ended, first = steps["before"][: steps["before"].index("The task ended: success") + 2]
    assert all(title.startswith("Poll ") or title.endswith(" more polls") for title in polls)
    assert polls[-1].endswith(": it had ended")
    assert (ended, first) == ("The task ended: success", "Attempt 1: answered 503")
    assert steps["after"][-1] == "Nothing more: it was delivered"
    assert steps["after"][-2].endswith(": answered 204")
    assert steps["paused"] == "true"
    assert steps["out"] == "/dashboard/sign-in"


async def test_who_reads_a_live_page_is_not_disturbed(world: World) -> None:
    """Where Cancel was in focus it stays, and is not Redeliver then; a text that is selected waits to be copied."""
    world.goes_on("task-cat")
    callback_id = await world.registered("task-cat", world.hooks_url)
    steps = (await browse("hold", world.url, token=TOKEN, callback=callback_id, go=world.hooks_url))["steps"]
    why = "There is news: it is shown once no text is selected"
    held = {"held": "Held: text is selected", "why": why, "then": "Live · pause"}
    assert steps == {"focused": "Cancel", "kept": True} | held, "and it does not say that it is live meanwhile"


async def test_a_page_that_cannot_be_followed_is_followed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser gives up after an answer that is an error, as while the gateway starts: the page does not."""

    def refuse() -> None:
        monkeypatch.setattr(live, "_MOST", 0)

    world.hooks.steps = [refuse, monkeypatch.undo]
    steps = (await browse("again", world.url, token=TOKEN, go=world.hooks_url))["steps"]
    assert steps["stayed"], "it need not be loaded again for that"


async def test_many_pages_in_front_leave_connections_to_load_another(world: World) -> None:
    """A browser has six to one server: four pages are followed, and the others say that they are not."""
    steps = (await browse("many", world.url, token=TOKEN))["steps"]
    assert (steps["live"], steps["then"]) == (4, 4)


async def test_ten_thousand_are_filtered_searched_and_paged(world: World) -> None:
    """A chosen state counts at once, a search by its enter key, and each row stands on one page."""
    registry = world.gateway.store.registry
    for start in range(0, 10_000, 1000):
        many = range(start, start + 1000)
        await registry.register(
            [new(f"never-{n}", client="default", metadata=b'{"orderId":%d}' % n, at=NOW + n) for n in many]
        )
    await brought_to(world.gateway.store, CallbackState.CANCELLED, new("gone", client="default"))
    steps = (await browse("lists", world.url, token=TOKEN, pages=4))["steps"]
    assert len(steps["seen"]) == len(set(steps["seen"])) == 200
    assert (steps["cancelled"], steps["back"]) == (1, 50)
    found = [re.findall(r"never-\d+", line)[0] for name in ("first", "last") for line in steps[name]]
    assert found == ["never-9990", "never-3"]
    assert steps["slowest_ms"] < 1000, "a page of ten thousand is there before anybody wonders"


async def test_what_died_is_redelivered_and_a_receiver_is_paused(world: World) -> None:
    """One by its own button, the others at once after they were counted; then the receiver waits, and goes on."""
    first, *others = await world.died("cat", "dog", "cow")
    steps = (await browse("operate", world.url, token=TOKEN, dead=first, register=world.hooks_url))["steps"]
    assert steps["told"] == "The webhook was made due again, with a fresh attempt budget."
    assert steps["one"] == "Nothing more: it was delivered"
    assert steps["again"] == ["Nothing more: it was delivered", 0, ""], "what was done is told once"
    assert steps["counted"] == "2 callbacks died then."
    assert steps["all"] == "2 webhooks were made due again, each with a fresh attempt budget."
    for callback_id in others:
        await world.delivered(callback_id)
    assert steps["paused"].startswith("The receiver was paused")
    assert steps["waits"] == "Attempt 1 waits for its receiver to be resumed"
    assert steps["resumed"] == "Nothing more: it was delivered"


@pytest.mark.parametrize("world", ["0,3600"], indirect=True, ids=["tried-once"])
@pytest.mark.parametrize("look", ["light", "dark", "narrow"])
async def test_what_others_write_is_never_more_than_text(world: World, look: str) -> None:
    """Sixty texts as prompt, model, metadata, URL and answer: no script, no markup, no link but to the web.

    Nothing is too wide; nor does a checker of accessibility find anything, in light and in dark.
    """

    async def registered(number: int, text: str) -> str:
        task_id, param = f"task-{number}", json.dumps({"model": text, "input": {"prompt": text}})
        plan = Plan(outcome="fail", fail_msg=text) if number % 3 == 0 else Plan(result={"resultUrls": [text]})
        world.upstream.add_task(task_id, plan, model=text, param=param)
        written = "".join(c for c in text if c.isascii() and c.isprintable() and c not in " \\#")
        answer = await world.register(
            task_id, f"{world.hooks_url}?text={number}&{written}", metadata={text: text}, model=text[:100]
        )
        assert answer.status_code == 201, answer.text
        found = f"/v1/callbacks/{answer.json()['id']}"
        await world.becomes(found, lambda answer: answer.json()["attempts"] > 0)
        return found.replace("/v1/", "/dashboard/")

    made = await asyncio.gather(*(registered(number, text) for number, text in enumerate(HOSTILE_TEXTS)))
    names = ("callbacks", "tasks", "receivers", "upstreams", "configuration", "redeliver", "sign-in")
    paths = ["/", *(f"/dashboard/{name}" for name in names), *(made if look == "narrow" else made[-2:])]
    steps = await browse("visit", world.url, token=OPERATOR, paths=paths, look=look)
    assert steps["said"] == []
    nothing = {"links": [], "markup": 0, "alerted": None}
    assert {name: step for name, step in steps["steps"].items() if step != nothing} == {}
