"""A whole gateway under the default policy: nothing that it must not reach is ever connected to."""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.net.resolver import Resolver
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.hostile_urls import FORBIDDEN_PAIRS, HOSTILE_PAIRS, METADATA, in_url
from tests.waiting import a_moment

FORBIDDEN = [*FORBIDDEN_PAIRS, *(("metadata", address) for address in METADATA)]
PUBLIC = "8.8.8.8"

_connects: list[Any] | None = None
"""Where to every socket of this process was connected, while a test wants to know."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _connects is not None and event in ("socket.connect", "socket.sendto"):
        _connects.append(arguments[1])


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    # Python's own word for each connect(), whoever calls it: an audit hook cannot be taken out again, only ignored.
    sys.addaudithook(_audit)


@pytest.fixture
def connects() -> Iterator[list[Any]]:
    """The addresses that sockets of this process are connected to during the test."""
    global _connects
    _connects = []
    yield _connects
    _connects = None


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    async with serve_simulator(SimulatedUpstream(SystemClock())) as url:
        yield url


@pytest.fixture
async def api(tmp_path: Path, upstream_url: str, names: "Names") -> AsyncIterator[httpx.AsyncClient]:
    """A client, without sockets, of a running gateway that allows nothing beyond the default."""
    settings = load(
        {
            "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_RATE": "1000/1",
            "GATEWAY_RETRY_SCHEDULE": "0",
        }
    )
    gateway = build(settings, SystemClock())
    await gateway.start()
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://localhost") as client:
            yield client
    finally:
        await gateway.drain()
        await gateway.close()


class Names:
    """A resolver: each name has a public address when first asked for, and its own ever after."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()

    async def resolve(self, host: str, port: int) -> list[str]:
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "there is no such name")
        self.asked[host] += 1
        return [PUBLIC] if self.asked[host] == 1 else self.addresses[host]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(Resolver, "resolve", lambda _, host, port: names.resolve(host, port))
    return names


async def register(api: httpx.AsyncClient, url: str) -> httpx.Response:
    # json.dumps, unlike httpx, can say a lone surrogate.
    content = json.dumps({"taskId": "sim-success-0-hostile", "callbackUrl": url})
    return await api.post("/v1/callbacks", content=content, headers={"content-type": "application/json"})


async def test_hostile_urls_are_refused_when_registered(api: httpx.AsyncClient, connects: list[Any]) -> None:
    """Each way to write a URL, and each literal, is callback_not_allowed; no socket goes anywhere.

    But for four: nothing, too much and half a character are not requests, and the policy never sees them.
    """
    literals = [f"https://{in_url(address)}/hook" for _, address in FORBIDDEN if "%" not in address]
    urls = [*(url for _, url in HOSTILE_PAIRS), *literals]
    answers = {url: await register(api, url) for url in urls}
    got = {url: (answer.status_code, answer.json()["code"]) for url, answer in answers.items()}
    malformed = {url: got.pop(url) for url in urls if not 0 < len(url) <= 2048 or "\ud800" in url}
    assert got == dict.fromkeys(got, (422, "callback_not_allowed"))
    assert all(answers[url].json()["errors"][0]["field"] == "callbackUrl" for url in got)
    assert sorted(malformed.values()) == [
        (413, "too_large"),
        (422, "invalid_request"),
        (422, "invalid_request"),
        (422, "invalid_request"),
    ]
    assert len(got) >= 150
    for rule, address in FORBIDDEN_PAIRS:
        if "%" not in address:
            assert f"({rule})" in answers[f"https://{in_url(address)}/hook"].json()["detail"]
    assert connects == []


async def test_names_that_change_their_answer_are_blocked_at_the_socket(
    api: httpx.AsyncClient, upstream_url: str, connects: list[Any], names: Names
) -> None:
    """A name that was public when registered and is not at the attempt ends blocked by its rule, unconnected."""
    rules: dict[str, str] = {}
    with capture_logs() as log:
        for number, (rule, address) in enumerate(FORBIDDEN):
            host = f"name-{number}.example.com"
            # One forbidden address is enough, wherever in the answer it stands.
            names.addresses[host] = ([address], [PUBLIC, address], [address, PUBLIC])[number % 3]
            answer = await register(api, f"https://{host}/hook")
            assert answer.status_code == 201, answer.text
            rules[answer.json()["id"]] = rule
        async with asyncio.timeout(30):
            for callback_id in rules:
                while (await api.get(f"/v1/callbacks/{callback_id}")).json()["state"] != "dead":
                    await a_moment()
    attempts = {
        callback_id: (await api.get(f"/v1/callbacks/{callback_id}/attempts")).json()["data"] for callback_id in rules
    }
    assert len(rules) >= 150
    for callback_id, rule in rules.items():
        (attempt,) = attempts[callback_id]
        assert (attempt["result"], attempt["statusCode"]) == ("dead", None)
        assert ("cloud metadata service" if rule == "metadata" else f"({rule})") in attempt["error"]
    reasons = {line["callback_id"]: line["reason"] for line in log if line["event"] == "attempt.finished"}
    assert reasons == dict.fromkeys(rules, "blocked")
    assert set(names.asked.values()) == {2}
    # The upstream's connections are there, so the count works; and there are no others.
    upstream = httpx.URL(upstream_url)
    assert set(connects) == {(upstream.host, upstream.port)}
