"""What the pages show and do, over real sockets, as a browser without scripts would see it."""

import asyncio
import html
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.core.clock import SystemClock
from gateway.core.model import CallbackState
from gateway.dashboard import application, lists
from gateway.signature import make_secret
from gateway.store import searching
from tests.dashboard import Visitor
from tests.pagestand import OPERATOR, World, world_at
from tests.postgres import Database
from tests.storing import NOW, brought_to, new

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{1234*1111}}{% raise %}",
    "</textarea></title><svg/onload=alert(1)>",
    "\u202egnp.exe",
    "<a href='//evil.example.com'>x</a>",
    "&lt;b&gt;&amp;",
    "data: x\n\nevent: gone",
)


async def test_a_callback_is_followed_from_its_registration_to_its_delivery(world: World) -> None:
    """Its page tells what has happened so far, and what comes next."""
    callback_id = await world.registered("sim-success-300-cat", world.hooks_url)
    page = f"/dashboard/callbacks/{callback_id}"
    assert "Registered" in await world.visitor.page(page)
    text = await world.shows(page, "Nothing more: it was delivered")
    order = ["Registered", "The task ended: success", "Attempt 1: answered 204", "Nothing more: it was delivered"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert "result.png" in text


async def test_a_failing_receiver_is_told_of_with_what_it_said(world: World) -> None:
    """Each attempt, how its answer began, and when the next one is due; then it is redelivered by a button."""
    world.hooks.answer = 503, "<b>busy</b> & sorry"
    callback_id = await world.registered("sim-success-0-cat", world.hooks_url)
    page = f"/dashboard/callbacks/{callback_id}"
    text = await world.shows(page, "Attempt 2: answered 503", "Attempt 3")
    assert "<b>busy</b> & sorry" in text
    assert "<b>busy" not in (await world.visitor.get(page)).text
    world.hooks.answer = 204, ""
    answer = await world.visitor.post(f"{page}/redeliver", page)
    assert answer.headers["location"] == f"{page}?done=redelivered"
    assert "The webhook was made due again" in await world.visitor.page(answer.headers["location"])
    await world.shows(page, "it was delivered")


async def test_what_cannot_be_done_says_why(world: World) -> None:
    """A running task has no webhook yet, a cancelled callback is over, and what there is not is not there."""
    callback_id = await world.registered("sim-never-0-cat", world.hooks_url)
    page = f"/dashboard/callbacks/{callback_id}"
    assert "Redeliver" not in (await world.visitor.page(page)).replace("Redeliver the dead", "")
    answer = await world.visitor.post(f"{page}/redeliver", page)
    assert answer.status_code == 409
    assert "still runs" in answer.text
    answer = await world.visitor.post(f"{page}/cancel", page)
    assert "nothing more is sent" in await world.visitor.page(answer.headers["location"])
    assert "it was cancelled" in await world.visitor.page(page)
    for path in ("/dashboard/callbacks/cb_none", "/dashboard/callbacks/%3Cscript%3E", "/dashboard/no-such-page"):
        answer = await world.visitor.get(path)
        assert answer.status_code == 404
        assert "<script>" not in answer.text


async def test_all_that_died_are_redelivered_at_once(world: World) -> None:
    """The page says how many before, and after."""
    world.hooks.answer = 410, ""
    made = [await world.registered(f"sim-success-0-{n}", world.hooks_url) for n in range(3)]
    for callback_id in made:
        await world.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["state"] == "dead")
    assert "3 callbacks died then" in await world.visitor.page("/dashboard/redeliver")
    assert "No callback died then" in await world.visitor.page("/dashboard/redeliver?until=2026-01-01T00:00")
    assert (await world.visitor.get("/dashboard/redeliver?since=nonsense")).status_code == 422
    assert (
        await world.visitor.get("/dashboard/redeliver?since=2026-02-01T00:00&until=2026-01-01T00:00")
    ).status_code == 422
    for instant in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):  # years that no text can tell
        assert (await world.visitor.get("/dashboard/redeliver", params={"since": instant})).status_code == 422
    assert "No callback died then" in await world.visitor.page("/dashboard/redeliver?receiver=other.example")
    assert "3 callbacks to 127.0.0.1 died then" in await world.visitor.page("/dashboard/redeliver?receiver=127.0.0.1")
    named = f"/dashboard/redeliver?receiver={world.hooks_url}"
    assert f"3 callbacks to {world.hooks_url} died then" in await world.visitor.page(named)
    assert "No callback died then" in await world.visitor.page(f"{named}/other")
    assert (await world.visitor.get("/dashboard/redeliver?receiver=https://[::1/hooks")).status_code == 422
    answer = await world.visitor.get(f"/dashboard/redeliver?receiver={world.hooks_url.removeprefix('http://')}")
    told = "The receiver has a path and no scheme: write how callback URLs begin, such as https://app.example.com/hooks"
    assert (answer.status_code, told in world.visitor.text(answer)) == (422, True)
    world.hooks.answer = 204, ""
    form = (await world.visitor.get("/dashboard/redeliver")).text
    fields = dict(re.findall(r'type="hidden" name="(since|until|csrf)" value="([^"]*)"', form))
    late = await world.registered("sim-success-0-late", world.hooks_url)
    answer = await world.visitor.http.post("/dashboard/redeliver", data=fields)
    assert answer.headers["location"] == "/dashboard/redeliver?done=3"
    assert "3 webhooks were made due again" in await world.visitor.page("/dashboard/redeliver?done=3")
    for callback_id in (*made, late):
        await world.delivered(callback_id)


async def test_one_receivers_dead_are_redelivered_and_no_others(world: World) -> None:
    """Those that have the text in their name, within the span."""
    other = world.hooks_url.replace("127.0.0.1", "localhost")
    world.hooks.answer = 410, ""
    dead = [await world.registered(f"sim-success-0-{n}", url) for n, url in enumerate((world.hooks_url, other, other))]
    for callback_id in dead:
        await world.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["state"] == "dead")
    world.hooks.answer = 204, ""
    path = "/dashboard/redeliver?receiver=localhost"
    assert "Redeliver these 2" in await world.visitor.page(path)
    answer = await world.visitor.post("/dashboard/redeliver", path, receiver="localhost")
    assert answer.headers["location"] == "/dashboard/redeliver?done=2"
    for callback_id in dead[1:]:
        await world.delivered(callback_id)
    assert (await world.client.get(f"/v1/callbacks/{dead[0]}")).json()["state"] == "dead"


async def test_what_is_counted_in_parts_is_told_as_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, the page says exactly how many, of one receiver's as well."""
    monkeypatch.setattr(searching, "_COUNTED", 1)
    world.hooks.answer = 410, ""
    for number in range(3):
        callback_id = await world.registered(f"sim-success-0-{number}", world.hooks_url)
        await world.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["state"] == "dead")
    path = "/dashboard/redeliver?receiver=127.0.0.1"
    assert "3 callbacks to 127.0.0.1 died then. Redeliver these 3" in await world.visitor.page(path)
    answer = await world.visitor.post("/dashboard/redeliver", path, receiver="127.0.0.1")
    assert answer.headers["location"] == "/dashboard/redeliver?done=3"


async def test_a_client_is_led_to_no_page_that_is_not_for_it(tmp_path: Path) -> None:
    """No page has a link to the configuration, nor does one that tells of an error; the operator's have it."""
    paths = ("/", "/manual", "/dashboard/callbacks/none", "/dashboard/none", "/dashboard/tasks?before=x")
    async with world_at(tmp_path, GATEWAY_TOKEN="mine", GATEWAY_OPERATOR_TOKEN=OPERATOR) as world:
        link, found = 'href="/dashboard/configuration"', {}
        for token in ("mine", OPERATOR):
            await world.visitor.sign_in(token)
            for path in paths:
                found[token, path] = link in (await world.visitor.get(path)).text
            await world.visitor.post("/dashboard/sign-out", "/")
        assert {key for key, there in found.items() if there} == {(OPERATOR, "/"), (OPERATOR, "/manual")}


async def test_each_poll_is_told_of(world: World) -> None:
    """With why it was made then, and where it lies on the curve of what was learned of such tasks."""
    await world.delivered(await world.registered("sim-success-300-cat", world.hooks_url))
    callback_id = await world.registered("sim-success-1500-cat", world.hooks_url)
    page = f"/dashboard/callbacks/{callback_id}"
    text = await world.shows(page, "Nothing more: it was delivered")
    order = ["Poll 1: still running", "Poll 2: still running", ": it had ended", "The task ended: success"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert "Due at once" in text
    assert "few such tasks had been seen" in text
    assert "as what is known of 2 now tells: half of them within" in text
    markup = (await world.visitor.get(page)).text
    assert markup.count('class="tick"') == text.count(" Poll ") >= 3
    assert 'class="end"' in markup


async def test_lists_are_filtered_searched_and_paged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row comes once, newest first, whatever is asked for; an old link says so."""
    monkeypatch.setattr(lists, "_ROWS", 4)
    registry = world.gateway.store.registry
    for n in range(11):
        shop = "https://shop.example.com/x" if n % 2 else world.hooks_url
        asked = new(f"never-{n}", client="default", url=shop, metadata=b'{"orderId":%d}' % n, at=NOW + n)
        await registry.register([asked])
    await brought_to(world.gateway.store, CallbackState.CANCELLED, new("gone", client="default"))

    async def all_pages(path: str, kind: str = "callbacks") -> list[str]:
        found: list[str] = []
        at: str | None = path
        while at is not None:
            text = (await world.visitor.get(at)).text
            found += re.findall(r'class="data mono"[^>]*>([\w-]+)<', text)
            nxt = re.search(r'rel="next" href="([^"]+)"', text)
            at = None if nxt is None else html.unescape(nxt[1])
        return found

    never = [f"never-{n}" for n in reversed(range(11))]
    assert await all_pages("/dashboard/callbacks") == ["gone", *never]
    assert await all_pages("/dashboard/callbacks?state=waiting") == never
    assert await all_pages("/dashboard/callbacks?state=cancelled") == ["gone"]
    assert await all_pages("/dashboard/callbacks?q=shop.example.com") == never[1::2]
    assert await all_pages("/dashboard/callbacks?q=orderId%3D7") == ["never-7"]
    assert await all_pages("/dashboard/callbacks?q=never-3") == ["never-3"]
    assert await all_pages("/dashboard/callbacks?q=never-3&state=dead") == []
    assert await all_pages("/dashboard/callbacks?q=no-such") == []
    assert await all_pages("/dashboard/tasks?q=never") == never
    assert await all_pages("/dashboard/tasks?state=fail") == []
    callback = (await registry.list_callbacks(None, state=None, task_id="never-3", before_seq=None, limit=1))[0]
    assert await all_pages(f"/dashboard/callbacks?q={callback.id}") == ["never-3"]
    assert (await world.visitor.get("/dashboard/callbacks?before=made-up")).status_code == 422
    assert (await world.visitor.page("/dashboard/callbacks?q=no-such")).endswith("Nothing is as asked.")
    for page in ("callbacks", "receivers"):
        text = await world.visitor.page(f"/dashboard/{page}?q=https://shop.example.com:8443/hooks/7")
        assert "not by the paths of URLs: look for shop.example.com:8443 ." in text


async def test_a_task_that_nobody_polls_says_so(world: World) -> None:
    """Its upstream is not configured: no next poll is promised, neither in the list nor on its callback's page."""
    await world.gateway.store.registry.register(
        [new("never-1", client="default", upstream="gone", at=SystemClock().now())]
    )
    (made,) = (await world.client.get("/v1/callbacks")).json()["data"]
    text = await world.visitor.page(f"/dashboard/callbacks/{made['id']}")
    assert "Nobody polls the task" in text
    assert "Next poll" not in text
    assert "The upstream gone is not configured" in await world.visitor.page("/dashboard/tasks")


async def test_the_first_page_tells_what_is_going_on(world: World) -> None:
    """What waits, what is owed and dead, how the upstream is, and which receivers fail."""
    text = await world.visitor.page("/")
    assert "Tasks watched 0" in text
    assert "Abandoned 0" in text
    assert "This process has sent nothing" in text
    await world.registered("sim-never-0-cat", world.hooks_url)
    world.hooks.answer = 500, ""
    await world.registered("sim-success-0-dog", world.hooks_url)
    await world.registered("sim-success-0-cow", world.hooks_url)
    text = await world.shows("/", "Tasks watched 1", "Webhooks owed 2")
    assert "aigptimage well" in text
    world.hooks.answer = 410, ""
    await world.shows("/dashboard/receivers", "fails")
    assert (await world.register("sim-never-0-cow", world.hooks_url, timeoutSeconds=1)).status_code == 201
    await world.shows("/", "Abandoned 1")


async def test_operating_pages_show_what_is_in_force_and_no_secret(tmp_path: Path) -> None:
    """Configuration with its secrets masked, upstreams with their budget, models with what was learned of them."""
    secrets = {
        "GATEWAY_UPSTREAM_API_KEY": "sk-the-upstreams-key",
        "GATEWAY_RECORD_HMAC_KEY": "the-hmac-key",
        "GATEWAY_OPERATOR_TOKEN": "the-operators-token",
    }
    async with world_at(tmp_path, **secrets) as world:
        await world.registered("sim-success-0-cat", world.hooks_url)
        pages = {name: await world.visitor.page(f"/dashboard/{name}") for name in ("configuration", "upstreams")}
        assert "GATEWAY_POLL_MIN_S 0.05" in pages["configuration"]
        assert "GATEWAY_UPSTREAM_API_KEY set, and not shown" in pages["configuration"]
        assert "GATEWAY_TOKEN \N{EN DASH}" in pages["configuration"]
        assert "1000/1" in pages["upstreams"]
        await world.shows("/dashboard/upstreams", "gpt-image-2-text-to-image", "Seen to end")
        for path in ("/", "/dashboard/configuration", "/dashboard/upstreams", "/dashboard/receivers"):
            text = (await world.visitor.get(path)).text
            assert not [secret for secret in (*secrets.values(), world.gateway.secret) if secret in text], path


async def test_what_others_write_is_text(world: World) -> None:
    """Metadata, URLs, models, answers and search words with markup are shown as they are, and are none."""
    world.hooks.answer = 500, " ".join(HOSTILE)
    pages = []
    for number, text in enumerate(HOSTILE):
        url = f"{world.hooks_url}?{text.encode().hex()}"
        answer = await world.register(f"sim-success-0-{number}", url, metadata={text: text}, model=text)
        pages.append(f"/dashboard/callbacks/{answer.json()['id']}")
    for page in pages:
        await world.shows(page, "answered 500", " ".join(HOSTILE[1].split()))
    answers = [await world.visitor.get(path) for path in (*pages, "/dashboard/tasks", "/dashboard/upstreams")]
    for text in HOSTILE:
        params = {"q": text, "client": text, "state": text, "next": text, "done": text}
        for path in (
            pages[0],
            *map("/dashboard/{}".format, ("callbacks", "tasks", "receivers", "redeliver", "sign-in")),
        ):
            answers.append(await world.visitor.get(path, params=params))  # noqa: PERF401
    for one in answers:
        assert one.status_code == 200, one.text
        found = re.search(r"<script>|<img src=x|<svg/|onmouseover='|<a href='|href=\"javascript:|1370974", one.text)
        assert found is None, found


async def test_nobody_who_looks_costs_nothing(world: World) -> None:
    """Until the first page nothing of them is read or made, and between pages nothing runs."""
    assert world.gateway.site._making is None
    await world.visitor.page("/")
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not [name for name in names if name == "pages" or "dashboard" in name]


async def test_a_page_that_takes_too_long_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do; nobody waits for it behind its back."""
    monkeypatch.setattr(application, "_LONGEST_S", 0.05)

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.gateway.store.registry, "search_tasks", never)
    for _ in range(10):
        answer = await world.visitor.get("/dashboard/tasks")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "ask for less" in answer.text
    monkeypatch.undo()  # else that page would have to be quick on a busy machine
    assert (await world.visitor.get("/dashboard/callbacks")).status_code == 200


async def test_pages_are_the_same_on_postgresql(tmp_path: Path, postgres: Database) -> None:
    """The lists, a search, a time line and what died, over the same port."""
    environ = {
        "GATEWAY_DATABASE_URL": postgres.url,
        "GATEWAY_WEBHOOK_SECRET": make_secret(),
        "GATEWAY_OPERATOR_TOKEN": OPERATOR,
    }
    async with world_at(tmp_path, **environ) as world:
        world.hooks.answer = 410, "gone"
        answer = await world.register("sim-success-0-cat", world.hooks_url, metadata={"orderId": 7})
        page = f"/dashboard/callbacks/{answer.json()['id']}"
        await world.shows(page, "Poll 1: it had ended", "Attempt 1: answered 410", "no attempt is left")
        for path in ("callbacks", "callbacks?state=dead", "callbacks?q=orderId%3D7", "tasks", "tasks?q=cat"):
            assert "sim-success-0-cat" in await world.visitor.page(f"/dashboard/{path}")
        assert "1 callback died then" in await world.visitor.page("/dashboard/redeliver")
        for path in ("/dashboard/callbacks/%00", "/v1/callbacks/%00", "/v1/callbacks/%00/attempts", "/v1/tasks/%00"):
            assert (await world.visitor.get(path)).status_code == 404, path
        for action in ("redeliver", "cancel"):
            path = f"/dashboard/callbacks/%00/{action}"
            assert (await world.visitor.post(path, "/dashboard/redeliver")).status_code == 404, path
        assert (await world.client.post("/v1/callbacks/%00/redeliver")).status_code == 404
        assert (await world.client.delete("/v1/callbacks/%00")).status_code == 404
        assert (await world.client.get("/v1/callbacks?taskId=%00")).status_code == 422
        assert (await world.client.get("/readyz")).status_code == 200
        async with Visitor(str(world.client.base_url)) as operator:
            await operator.sign_in(OPERATOR)
            nulls = {"client": "\0default", "receiver": "\0127.0.0.1", "q": "\0cat", "state": "\0dead"}
            for path in ("callbacks", "tasks", "redeliver", "receivers"):
                assert (await operator.get(f"/dashboard/{path}", params=nulls)).status_code == 200, path
        world.hooks.answer = 204, ""
        await world.visitor.post("/dashboard/redeliver", "/dashboard/redeliver")
        await world.shows(page, "it was delivered")
        await world.shows("/", "Dead 0")
