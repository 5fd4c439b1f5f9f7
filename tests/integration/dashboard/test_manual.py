"""The manual as a gateway shows it, over real sockets: every link followed, with and without token and database."""

import asyncio
import html
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

import httpx
import pytest

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.core.memory import SMALL
from gateway.dashboard.manual import calls
from gateway.serve.asgi import serve_asgi
from tests.manual import MANUAL, ROOT
from tests.running import Running, running

NOWHERE = "http://127.0.0.1:9"


class Links(HTMLParser):
    """The links and anchors of a page, and each of its elements' attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.anchors.append(value or "")
            if name in ("href", "src", "action", "hx-get"):
                self.links.append(value or "")


@pytest.fixture(params=["", "/tools/gateway"])
async def run(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """A gateway whose clients have tokens, at the root and below a path."""
    async with running(tmp_path, NOWHERE, GATEWAY_TOKEN="token", GATEWAY_ROOT_PATH=request.param) as made:
        made.client.base_url = f"{str(made.client.base_url).rstrip('/')}{request.param}"
        yield made


async def test_every_link_leads_somewhere(run: Running) -> None:
    """From the first page on, nobody signed in: each page, heading, row, picture, style and script is there."""
    root = str(run.client.base_url).rstrip("/")
    pages: dict[str, Links] = {}
    left, followed = [f"{root}/manual", f"{root}/manual/search?q=token"], 0
    wanted: list[tuple[str, str, str]] = []
    while left:
        url = left.pop()
        if url in pages:
            continue
        answer = await run.client.get(url)
        assert answer.status_code == 200, url
        # The page of all calls alone is large, and waits for room.
        assert len(answer.content) <= SMALL or url == f"{root}/manual/calls"
        is_page = answer.headers["content-type"].startswith("text/html")
        found = pages[url] = Links(answer.text if is_page else "")
        assert len(found.anchors) == len(set(found.anchors)), url
        for link in found.links:
            to, anchor = urldefrag(urljoin(url, link))
            if to.startswith(root) and (to[len(root) :] + "/").startswith(("/manual", "/dashboard/static/")):
                followed += 1
                left.append(to)
                wanted.append((url, to, anchor))
            else:
                assert to.startswith("https://") or to[len(root) :].startswith(("/", "/dashboard")), (url, link)
    assert [one for one in wanted if one[2] and one[2] not in pages[one[1]].anchors] == []
    names = {path.stem for path in MANUAL.glob("*.md")} - {"index"}
    assert {f"{root}/manual/{name}" for name in {*names, "calls"}} <= pages.keys()
    assert {f"{root}/manual/{path.name}" for path in MANUAL.glob("*.svg")} <= pages.keys()
    assert followed > 200


async def test_a_page_holds_nothing_of_its_own_to_execute(run: Running) -> None:
    """No style, script or handler stands in a page, and its policy takes none: all is loaded from files."""
    for name in ("", "/configuration", "/search?q=<script>alert(1)</script>"):
        answer = await run.client.get(f"/manual{name}")
        assert "unsafe" not in answer.headers["content-security-policy"]
        found = Links(answer.text)
        assert not found.tags & {"style", "iframe", "object", "embed", "base"}
        assert not [name for name in found.attributes if name == "style" or name.startswith("on")]
    assert answer.text.count("<script") == 2
    assert "&lt;script&gt;alert(1)" in answer.text


async def test_search_marks_what_was_found(run: Running) -> None:
    """Without a script: how many there are, where they stand, and the words marked; or that there is none."""
    text = (await run.client.get("/manual/search", params={"q": "disk full"})).text
    assert re.search(r'role="status" id="count">\d+ sections', text)
    assert "<mark>disk</mark> is <mark>full</mark>" in text
    assert 'value="disk full"' in text
    none = html.unescape((await run.client.get("/manual/search", params={"q": "zyzzyva <b>"})).text)
    assert "No section has all of this" in none
    assert "Write what you look for" in (await run.client.get("/manual/search")).text


async def test_what_is_not_there(run: Running) -> None:
    """No other file of the package is a page, and a slash at the end is no other page."""
    for path in ("/manual/no-such-page", "/manual/api.md", "/manual/..%2fmain", "/manual/no.svg", "/manual/api/x"):
        assert (await run.client.get(path)).status_code == 404, path
    for path in ("/manual/", "/manual/index"):
        answer = await run.client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (
            308,
            f"{run.client.base_url.path.rstrip('/')}/manual",
        )


@pytest.mark.parametrize("page", ["api", "calls"])
async def test_the_header_tells_who_is_signed_in(run: Running, page: str) -> None:
    """Whoever reads on in the manual stays signed in, and others see no more of it than that there are pages."""
    text = (await run.client.get(f"/manual/{page}")).text
    assert "Sign out" not in text
    assert re.search(r'<a href="[^"]*/manual" aria-current="page">Manual</a>', text)
    sign_in = (await run.client.get("/dashboard/sign-in")).text
    csrf = re.search(r'name="csrf" value="([^"]+)"', sign_in)
    assert csrf is not None
    answer = await run.client.post("/dashboard/sign-in", data={"csrf": csrf[1], "token": "token"})
    assert answer.status_code == 303
    for _ in range(2):
        assert "Sign out" in (await run.client.get(f"/manual/{page}")).text
    run.client.cookies.clear()
    assert (await run.client.get(f"/manual/{page}")).text == text


async def test_it_needs_neither_token_nor_database(tmp_path: Path) -> None:
    """Before the store is open, and under a name that a gateway without a token serves nothing else for."""
    settings = load({"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db", "GATEWAY_UPSTREAM_URL": NOWHERE})
    gateway = build(settings, SystemClock())
    async with serve_asgi(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for path in ("/manual", "/manual/troubleshooting", "/manual/search?q=token"):
            assert (await client.get(path)).status_code == 200
            assert (await client.get(path, headers={"host": "gateway.example"})).status_code == 200
        assert (await client.get("/")).status_code == 503
        assert (await client.get("/manual/calls")).status_code == 200
        assert (await client.get("/manual/calls", headers={"host": "gateway.example"})).status_code == 403
        told = await client.get("/manual/search?q=CallbackPage")
        assert "/manual/calls#" in told.text
        told = await client.get("/manual/search?q=CallbackPage", headers={"host": "gateway.example"})
        assert "/manual/calls#" not in told.text
    await gateway.drain()
    await gateway.close()


async def test_many_who_ask_first_have_the_page_of_calls_made_once(
    run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who asks later has the same, by whatever name the gateway was found."""
    made: list[str] = []
    text_of = calls.calls_text

    def calls_text(document: Mapping[str, Any], base: str, *, token: bool) -> str:
        made.append(base)
        time.sleep(0.1)  # in a thread: so long others would begin as well
        return text_of(document, base, token=token)

    monkeypatch.setattr(calls, "calls_text", calls_text)
    asked = [run.client.get("/manual/calls", headers={"host": f"gateway-{n}.example"}) for n in range(8)]
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    assert len(made) == 1


LOOKS = """
import asyncio, sys
from pathlib import Path
from tests.running import running

HEAVY = ("jinja2", "markdown_it", "gateway.api.openapi")

async def main():
    async with running(Path(sys.argv[1]), "http://127.0.0.1:9") as run:
        for path in ("/healthz", "/", "/manual", "/manual/calls"):
            assert (await run.client.get(path)).status_code == 200
            print(path, *(name for name in HEAVY if name in sys.modules), file=sys.stderr)

asyncio.run(main())
"""


async def test_it_costs_nothing_until_somebody_reads_it(tmp_path: Path) -> None:
    """Neither the reader of Markdown nor what makes pages is imported before, nor for the other pages."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOOKS, str(tmp_path)), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert told.decode().splitlines()[-4:] == [
        "/healthz",
        "/ jinja2",
        "/manual jinja2 markdown_it",
        "/manual/calls jinja2 markdown_it gateway.api.openapi",
    ]


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"host": "gateway.example:8443"}, "http://gateway.example:8443"),
        ({"host": "gateway.example", "x-forwarded-proto": "https"}, "https://gateway.example"),
        ({"host": "[2001:db8::1]:8080"}, "http://[2001:db8::1]:8080"),
        ({"host": "x<b>'$(id)"}, "http://127.0.0.1:8080"),
    ],
)
async def test_examples_name_the_gateway_as_it_was_found(run: Running, headers: dict[str, str], base: str) -> None:
    """By the address that its reader has, the path before it included; what is no address is not repeated."""
    root = run.client.base_url.path.rstrip("/")
    for host in ("elsewhere.example", headers["host"]):  # the last one's page is kept, for whoever asks there again
        await run.client.get("/manual/calls", headers={"host": host})
    text = html.unescape((await run.client.get("/manual/calls", headers=headers)).text)
    assert f"curl -s '{base}{root}/v1/callbacks'" in text
    assert f'fetch("{base}{root}/healthz"' in text
    assert "$(id)" not in text
