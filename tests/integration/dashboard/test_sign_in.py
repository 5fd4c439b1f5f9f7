"""Who may see the pages: signing in and out, sessions, forms, and what another site's page cannot do."""

import asyncio
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.app.gateway import Gateway
from gateway.app.reload import changes
from gateway.config.load import load
from gateway.config.tokens import hash_line
from gateway.core.clock import SystemClock
from gateway.dashboard import live
from gateway.dashboard.frame import SECURITY_HEADERS
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.dashboard import LeapingClock, Visitor
from tests.running import LIMIT_S, Running, running

TOKEN, OPERATOR, SHOP = "the-clients", "the-operators", "the-shops"
TOKENS = {"GATEWAY_TOKEN": TOKEN, "GATEWAY_OPERATOR_TOKEN": OPERATOR}


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    async with serve_simulator(SimulatedUpstream(SystemClock())) as url:
        yield url


@asynccontextmanager
async def visiting(world: Running, **headers: str) -> AsyncIterator[Visitor]:
    async with Visitor(str(world.client.base_url), **headers) as visitor:
        yield visitor


async def test_without_a_session_there_is_only_the_way_to_sign_in(tmp_path: Path, upstream_url: str) -> None:
    """Every page leads to the form, which leads back; then it shows who is there."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        for path in ("/", "/dashboard/callbacks?state=dead", "/dashboard/tasks", "/dashboard/configuration"):
            answer = await visitor.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/dashboard/sign-in?next=")
        back = (await visitor.get("/dashboard/callbacks?state=dead")).headers["location"]
        form = (await visitor.get(back)).text
        assert 'name="next" value="/dashboard/callbacks?state=dead"' in form
        answer = await visitor.sign_in(TOKEN, next="/dashboard/callbacks?state=dead")
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/callbacks?state=dead")
        assert "default Sign out" in await visitor.page("/")
        for path in ("/dashboard", "/dashboard/", "/dashboard/sign-in"):
            assert (await visitor.get(path)).headers["location"] == "/"


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example.com/",
        "//evil.example.com/",
        "/\\evil.example.com/",
        "/dashboard/../\\evil.example.com",
        "/dashboard/../../other",
        "/dashboard/%2e%2E/%2e./other?x=1",
        "javascript:alert(1)",
        "/v1/callbacks",
        "/dashboard/sign-in",
        "/dashboard\r\nset-cookie: x=y",
        "",
    ],
)
async def test_signing_in_leads_nowhere_else(tmp_path: Path, upstream_url: str, to: str) -> None:
    """Whatever a link to the form says: to the first page, where it is none of ours."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        answer = await visitor.sign_in(TOKEN, next=to)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_wrong_token_is_refused_and_soon_no_more_are_tried(tmp_path: Path, upstream_url: str) -> None:
    """Ten within a minute; then not even the right one, until a minute has passed."""
    clock = LeapingClock()
    async with running(tmp_path, upstream_url, clock, **TOKENS) as world, visiting(world) as visitor:
        for _ in range(10):
            answer = await visitor.sign_in("guess")
            assert answer.status_code == 401
            assert "guess" not in answer.text
        answer = await visitor.sign_in(TOKEN)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) <= 60
        async with visiting(world, **{"x-forwarded-for": "198.51.100.7, 203.0.113.9"}) as other:
            assert (await other.sign_in(TOKEN)).status_code == 303, "another's, by what the proxy says"
        clock.pass_(61)
        assert (await visitor.sign_in(TOKEN)).status_code == 303


async def test_a_session_cookie_is_kept_from_scripts_and_other_sites(tmp_path: Path, upstream_url: str) -> None:
    """By TLS, which may end before the gateway, it is the host's own and never sent without TLS."""
    async with running(tmp_path, upstream_url, **TOKENS) as world:
        async with visiting(world) as visitor:
            cookie = (await visitor.sign_in(TOKEN)).headers["set-cookie"]
        assert cookie.startswith("gateway-session=")
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        async with visiting(world, **{"x-forwarded-proto": "https"}) as visitor:
            secure = (await visitor.get("/dashboard/sign-in")).headers["set-cookie"]
        assert secure.startswith("__Host-gateway-session=")
        assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(secure.split("; "))
        assert "Domain" not in cookie + secure
        assert TOKEN not in cookie


async def test_a_cookie_that_was_changed_or_is_too_old_proves_nothing(tmp_path: Path, upstream_url: str) -> None:
    """Neither another name in it, nor another end, nor one of yesterday; one that is used stays."""
    clock = LeapingClock()
    async with running(tmp_path, upstream_url, clock, **TOKENS) as world, visiting(world) as visitor:
        await visitor.sign_in(TOKEN)
        good = visitor.http.cookies["gateway-session"]
        for bad in (f"x{good}", good[:-1], good[:-4] + "AAAA", "x" * 5000, "a.b.c", "..", ""):
            async with visiting(world, cookie=f"gateway-session={bad}") as other:
                assert (await other.get("/")).status_code == 303, bad
        clock.pass_(11 * 3600)
        assert (await visitor.get("/")).status_code == 200  # and it is given a new one
        clock.pass_(11 * 3600)
        assert (await visitor.get("/")).status_code == 200
        async with visiting(world, cookie=f"gateway-session={good}") as other:
            assert (await other.get("/")).status_code == 303


async def test_a_client_sees_its_own_and_the_operator_all(tmp_path: Path, upstream_url: str) -> None:
    """In lists, searches and by their names; another's is not there at all."""
    path = tmp_path / "gateway.toml"
    path.write_text(f'[clients.shop]\ntoken_hash = "{hash_line(SHOP)}"')
    environ = {**TOKENS, "GATEWAY_CONFIG": str(path)}
    async with running(tmp_path, upstream_url, **environ) as world:
        ids = {}
        for name, token in (("default", TOKEN), ("shop", SHOP)):
            world.client.headers["authorization"] = f"Bearer {token}"
            ids[name] = await world.registered(f"sim-never-0-of-{name}", "http://127.0.0.1:9/hooks")
        seen = {}
        for name, token in (("default", TOKEN), ("shop", SHOP), ("operator", OPERATOR)):
            async with visiting(world) as visitor:
                await visitor.sign_in(token)
                for page in ("/dashboard/callbacks", "/dashboard/callbacks?q=sim-never", "/dashboard/tasks"):
                    text = await visitor.page(page)
                    seen[name, page] = {one for one in ids if f"sim-never-0-of-{one}" in text}
                found = {
                    one for one in ids if (await visitor.get(f"/dashboard/callbacks/{ids[one]}")).status_code == 200
                }
                assert found == ({*ids} if name == "operator" else {name})
                assert ("The lists that they lead to have yours" in await visitor.page("/")) == (name != "operator")
                refused = (await visitor.get("/dashboard/configuration")).status_code
                assert refused == (200 if name == "operator" else 403)
        assert {who: names for who, names in seen.items() if who[0] != "operator" and names != {who[0]}} == {}
        assert [names for who, names in seen.items() if who[0] == "operator"] == [{*ids}] * 3


async def test_a_token_that_is_rotated_away_ends_its_sessions(tmp_path: Path, upstream_url: str) -> None:
    """At once, and no other's; a form of such a session changes nothing."""
    async with (
        running(tmp_path, upstream_url, **TOKENS) as world,
        visiting(world) as visitor,
        visiting(world) as operator,
    ):
        await visitor.sign_in(TOKEN)
        await operator.sign_in(OPERATOR)
        csrf = await visitor.csrf("/")
        rotate(world.gateway, GATEWAY_TOKEN="another")
        assert (await visitor.get("/")).status_code == 303
        assert (await operator.get("/")).status_code == 200
        answer = await visitor.http.post("/dashboard/redeliver", data={"csrf": csrf})
        assert answer.status_code == 403
        await visitor.sign_in("another")
        assert (await visitor.get("/")).status_code == 200


def rotate(gateway: Gateway, **environ: str) -> None:
    new = load({**TOKENS, "GATEWAY_DATABASE_URL": gateway.settings.database_url, **environ})
    gateway.reload(changes(gateway.settings, gateway.secret, new))


async def test_signing_out_takes_the_session_away(
    tmp_path: Path, upstream_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser forgets it, a copy of its cookie proves nothing, and a page that is followed ends."""
    monkeypatch.setattr(live, "_LOOKS_S", 0.02)
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        await visitor.sign_in(TOKEN)
        copied = f"gateway-session={visitor.http.cookies['gateway-session']}"
        async with visiting(world, cookie=copied) as thief:
            assert (await thief.get("/")).status_code == 200
            csrf = await thief.csrf("/")
            async with asyncio.timeout(LIMIT_S), thief.http.stream("GET", "/dashboard/live") as followed:
                answer = await visitor.post("/dashboard/sign-out", "/")
                assert "event: gone" in [line async for line in followed.aiter_lines()]
            assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in")
            assert (await visitor.get("/")).status_code == 303
            assert (await thief.get("/")).status_code == 303
            assert (await thief.get("/dashboard/live")).status_code == 403
            assert (await thief.http.post("/dashboard/redeliver", data={"csrf": csrf})).status_code == 403


async def test_a_link_on_another_sites_page_signs_nobody_out(tmp_path: Path, upstream_url: str) -> None:
    """The browser leaves the session's cookie out: no other takes its place, and a page of ours asks once more."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        await visitor.sign_in(TOKEN)
        async with visiting(world, **{"sec-fetch-site": "cross-site"}) as linked:
            to_form = (await linked.get("/dashboard/callbacks?state=dead")).headers["location"]
            arrived = await linked.get(to_form)
            again = html.unescape(re.search(r'http-equiv="refresh" content="0; url= ([^"]+)"', arrived.text)[1])
            twice = await linked.get(again)
        for answer in (arrived, twice):
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
            assert f'<a href="{html.escape(again)}"' in answer.text
        assert "http-equiv" not in twice.text, "else a browser that stays with the other site asks for ever"
        answer = await visitor.get(again, headers={"sec-fetch-site": "same-origin"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/callbacks?state=dead")


async def test_a_long_way_back_is_left_out(tmp_path: Path, upstream_url: str) -> None:
    """Proxies refuse an answer whose Location has many thousand characters."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        answer = await visitor.get(f"/dashboard/callbacks?q={'%25' * 3000}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in?next=%2F")


async def test_a_form_without_its_proof_does_nothing(tmp_path: Path, upstream_url: str) -> None:
    """Neither without one, nor with another session's, another site's, or as something else than a form."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor, visiting(world) as other:
        await visitor.sign_in(TOKEN)
        await other.sign_in(TOKEN)
        world.client.headers["authorization"] = f"Bearer {TOKEN}"
        callback_id = await world.registered("sim-never-0-t", "http://127.0.0.1:9/hooks")
        path, good = f"/dashboard/callbacks/{callback_id}/cancel", await visitor.csrf("/")
        for data, headers in (
            ({}, {}),
            ({"csrf": ""}, {}),
            ({"csrf": "x"}, {}),
            ({"csrf": "ü"}, {}),
            ({"csrf": await other.csrf("/")}, {}),
            ({"csrf": good}, {"sec-fetch-site": "cross-site"}),
            ({"csrf": good}, {"sec-fetch-site": "same-site"}),
            ({"csrf": good}, {"content-type": "text/plain"}),
            ({"csrf": good}, {"content-type": "multipart/form-data; boundary=x"}),
        ):
            answer = await visitor.http.post(path, data=data, headers=headers)
            assert answer.status_code == 403, (data, headers)
        too_large = await visitor.http.post(path, data={"csrf": good, "x": "x" * 20_000})
        assert too_large.status_code == 413
        assert (await world.client.get(f"/v1/callbacks/{callback_id}")).json()["state"] == "waiting"
        assert (await visitor.http.post(path, data={"csrf": good})).status_code == 303
        assert (await world.client.get(f"/v1/callbacks/{callback_id}")).json()["state"] == "cancelled"


async def test_a_form_that_was_left_open_says_what_to_do(tmp_path: Path, upstream_url: str) -> None:
    """In another tab somebody has signed in meanwhile, or out: it goes on, or says that nobody is signed in."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        form = {"csrf": await visitor.csrf("/dashboard/sign-in"), "next": "/dashboard/tasks"}
        await visitor.sign_in(TOKEN)
        answer = await visitor.http.post("/dashboard/sign-in", data={**form, "token": OPERATOR})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/tasks")
        assert "Configuration" not in await visitor.page("/"), "it stays who it was"
        csrf = await visitor.csrf("/")
        await visitor.post("/dashboard/sign-out", "/")
        answer = await visitor.http.post("/dashboard/redeliver", data={"csrf": csrf})
        assert answer.status_code == 403
        assert "Nobody is signed in any more" in visitor.text(answer)
        answer = await visitor.http.post("/dashboard/sign-in", data={**form, "token": TOKEN})
        assert answer.status_code == 403, "what another session's form says is not done"
        answer = await visitor.get("/dashboard/sign-out")
        assert answer.status_code == 405
        assert "A form is sent here, from its page" in visitor.text(answer)


async def test_without_tokens_the_machine_itself_is_served_and_no_foreign_page(
    tmp_path: Path, upstream_url: str
) -> None:
    """No sign-in is asked for; another site's page gets nothing, by whatever name it has found the gateway."""
    async with running(tmp_path, upstream_url) as world, visiting(world) as visitor:
        assert "Sign in" in await visitor.page("/")
        host = world.client.base_url.netloc.decode()
        for headers in (
            {"host": "evil.example.com"},
            {"origin": "https://evil.example.com"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ):
            for path in ("/", "/dashboard/callbacks", "/dashboard/sign-in", "/dashboard/live"):
                assert (await visitor.get(path, headers=headers)).status_code == 403, (path, headers)
        own = {"sec-fetch-site": "same-origin", "origin": f"http://{host}"}
        assert (await visitor.get("/", headers=own)).status_code == 200
        callback_id = await world.registered("sim-never-0-t", "http://127.0.0.1:9/hooks")
        page = f"/dashboard/callbacks/{callback_id}"
        answer = await visitor.http.post(f"{page}/cancel", data={"csrf": await visitor.csrf(page)}, headers=own)
        assert answer.status_code == 303


async def test_an_operator_signs_in_where_nobody_must(tmp_path: Path, upstream_url: str) -> None:
    """And sees everybody's; signed out it is again who it was."""
    async with running(tmp_path, upstream_url, GATEWAY_OPERATOR_TOKEN=OPERATOR) as world, visiting(world) as visitor:
        assert "Sign in" in await visitor.page("/")
        assert (await visitor.sign_in(OPERATOR)).headers["location"] == "/"
        assert "operator Sign out" in await visitor.page("/")
        await visitor.post("/dashboard/sign-out", "/")
        assert "Sign in" in await visitor.page("/")


async def test_every_answer_keeps_to_itself(tmp_path: Path, upstream_url: str) -> None:
    """Pages, files, redirects and errors alike say what a browser may do with them, and no page is kept."""
    async with running(tmp_path, upstream_url, **TOKENS) as world, visiting(world) as visitor:
        for path in ("/", "/dashboard/sign-in", "/dashboard/nowhere", "/dashboard/static/style.css"):
            answer = await visitor.get(path)
            assert SECURITY_HEADERS.items() <= dict(answer.headers).items(), path
        assert (await visitor.get("/dashboard/sign-in")).headers["cache-control"] == "no-store"
        assert (await visitor.http.post("/", data={})).status_code == 405
        assert (await visitor.get("/dashboard/static/..%2fframe.py")).status_code == 404


async def test_pages_stand_below_a_prefix(tmp_path: Path, upstream_url: str) -> None:
    """Every link, form, file, redirect and cookie does, whether the proxy takes the prefix away or leaves it."""
    async with running(tmp_path, upstream_url, **TOKENS, GATEWAY_ROOT_PATH="/tools/gateway") as world:
        async with visiting(world) as visitor:
            answer = await visitor.get("/dashboard/callbacks")
            assert answer.headers["location"].startswith("/tools/gateway/dashboard/sign-in?next=%2Fdashboard")
        async with visiting(world) as visitor:
            at = "/tools/gateway"
            answer = await visitor.post(f"{at}/dashboard/sign-in", f"{at}/dashboard/sign-in", token=TOKEN)
            assert answer.headers["location"] == "/tools/gateway/"
            assert "Path=/tools/gateway;" in answer.headers["set-cookie"]
            for page in (
                "/",
                "/dashboard/callbacks",
                "/dashboard/tasks",
                "/dashboard/receivers",
                "/dashboard/upstreams",
            ):
                text = (await visitor.get(f"{at}{page}")).text
                for link in re.findall(r'(?:href|src|action|hx-get)="([^"#][^"]*)"', text):
                    assert link.startswith("/tools/gateway/"), (page, link)
                    assert (await visitor.get(link)).status_code in (200, 303, 405), link
            answer = await visitor.get(at)
            assert (answer.status_code, "Tasks watched" in answer.text) == (200, True)
            assert (await visitor.get("/tools/gatewayer/dashboard/tasks")).status_code == 401  # the API's
        world.client.headers["authorization"] = f"Bearer {TOKEN}"
        for api in ("", "/", "/u/aigptimage", "/u/aigptimage/"):  # a base URL's own slash counts after the prefix only
            answer = await world.client.get(f"{at}{api}/api/v1/jobs/recordInfo?taskId=sim-success-0-p")
            assert (answer.status_code, answer.json()["data"]["taskId"]) == (200, "sim-success-0-p")
        answer = await world.register("sim-never-0-t", "http://127.0.0.1:9/hooks")
        assert answer.headers["location"].startswith("/tools/gateway/v1/callbacks/cb_")
        assert (await world.client.get(answer.headers["location"])).status_code == 200


async def test_before_it_has_started_pages_say_so(tmp_path: Path, upstream_url: str) -> None:
    """With 503, as everything else does, and not with an error of a page that cannot read."""
    async with running(tmp_path, upstream_url) as world, visiting(world) as visitor:
        world.gateway.readiness.started.clear()
        answer = await visitor.get("/")
        world.gateway.readiness.started.set()
        assert answer.status_code == 503
        assert "is starting" in answer.text
