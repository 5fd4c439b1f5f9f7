"""What is asked of the upstream: the URL and the headers that a profile describes, and what is never asked."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.config.profilefile import config_dir, parse_profile, read_profiles
from gateway.core.clock import SystemClock
from gateway.core.memory import Memory
from gateway.upstream.answer import PollKind
from gateway.upstream.api import Answer, Upstream
from tests.life import sent_url

SHIPPED = read_profiles([config_dir() / "upstreams"])[0]


class Recorder(httpx.AsyncBaseTransport):
    """A transport that keeps the requests and answers each with the same page."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(404, json={"detail": "none"})


def profile_text(status_path: str, more: str = "") -> str:
    """Return a profile that asks under a path."""
    return f"""
name = "x"
base_url = "https://api.example.com"
[states]
path = "state"
success = ["yes"]
fail = ["no"]
[request]
status_path = "{status_path}"
{more}
"""


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("aigptimage", "https://aigptimage.com/api/v1/jobs/recordInfo?taskId=a%2Fb%3Fc%26d"),
        ("kie", "https://api.kie.ai/api/v1/jobs/recordInfo?taskId=a%2Fb%3Fc%26d"),
        ("kie-4o-image", "https://api.kie.ai/api/v1/gpt4o-image/record-info?taskId=a%2Fb%3Fc%26d"),
        ("replicate", "https://api.replicate.com/v1/predictions/a%2Fb%3Fc%26d"),
        ("runway", "https://api.dev.runwayml.com/v1/tasks/a%2Fb%3Fc%26d"),
        ("luma", "https://api.lumalabs.ai/dream-machine/v1/generations/a%2Fb%3Fc%26d"),
        ("openai-video", "https://api.openai.com/v1/videos/a%2Fb%3Fc%26d"),
    ],
)
async def test_what_each_shipped_profile_asks(name: str, url: str) -> None:
    """Each API is asked at its own address, the key as Bearer; a task id cannot leave its place in the URL."""
    transport = Recorder()
    profile = SHIPPED[name]
    upstream = Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key="sk-1")
    await upstream.poll("a/b?c&d")
    (request,) = transport.requests
    assert (request.method, sent_url(request)) == ("GET", url)
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["user-agent"].startswith("Mozilla/5.0")
    assert request.headers.get("x-runway-version") == ("2024-11-06" if name == "runway" else None)


async def test_a_bare_key_in_a_header_of_its_own() -> None:
    """Where the API wants the key bare, it stands alone in the API's own header; a profile's header wins over ours."""
    more = 'auth_header = "x-key"\nauth_prefix = ""\nheaders = { User-Agent = "mine", X-A = "b" }'
    transport = Recorder()
    profile = parse_profile(profile_text("/jobs/{task_id}/state?full=1", more), "x.toml")
    await Upstream(profile, transport, SystemClock(), base_url="https://eu.example.com/", api_key="k").poll("t")
    (request,) = transport.requests
    assert sent_url(request) == "https://eu.example.com/jobs/t/state?full=1"
    assert (request.headers["x-key"], request.headers["x-a"]) == ("k", "b")
    assert request.headers.get_list("user-agent") == ["mine"]
    assert "authorization" not in request.headers


async def test_a_task_id_that_is_a_path() -> None:
    """Slashes go into the URL as they are where a profile says so, and nothing else does."""
    transport = Recorder()
    profile = parse_profile(profile_text("/v1/{task_id}", "task_id_has_slashes = true"), "x.toml")
    upstream = Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key=None)
    await upstream.poll("models/veo/operations/a?b#c%2e")
    (request,) = transport.requests
    assert sent_url(request) == "https://api.example.com/v1/models/veo/operations/a%3Fb%23c%252e"


@pytest.mark.parametrize(
    ("task_id", "slashes"),
    [("..", False), (".", False), ("..", True), ("a/../../keys", True), ("../keys", True), ("a/.", True)],
)
async def test_a_task_id_leads_nowhere_else(task_id: str, slashes: bool) -> None:
    """An id that would make the URL mean another page of the API is not asked for: the key would go there."""
    transport = Recorder()
    more = "task_id_has_slashes = true" if slashes else ""
    profile = parse_profile(profile_text("/v1/tasks/{task_id}", more), "x.toml")
    upstream = Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key="k")
    result = await upstream.poll(task_id)
    assert (result.kind, result.outcome) == (PollKind.NOT_KNOWN, None)
    assert result.error is not None
    assert transport.requests == []


@pytest.mark.parametrize("task_id", ["a..b", "...", "a/../b", "..a"])
async def test_dots_within_an_id_are_fine(task_id: str) -> None:
    """Only a whole segment of dots means anything in a URL, and a slash that is encoded separates none."""
    transport = Recorder()
    profile = parse_profile(profile_text("/v1/tasks/{task_id}"), "x.toml")
    await Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key=None).poll(task_id)
    (request,) = transport.requests
    assert sent_url(request) == "https://api.example.com/v1/tasks/" + task_id.replace("/", "%2F")


async def test_a_status_that_is_asked_for_by_post() -> None:
    """The body is the profile's, as GoAPI wants it for Midjourney; the id is replaced in every text."""
    more = """
method = "POST"
auth_header = "x-api-key"
auth_prefix = ""
[request.body]
task_id = "{task_id}"
tasks = [{ name = "task/{task_id}" }]
page = 1
"""
    transport = Recorder()
    profile = parse_profile(profile_text("/mj/v2/fetch", more), "x.toml")
    await Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key="k").poll('a"b\\c')
    (request,) = transport.requests
    assert (request.method, sent_url(request)) == ("POST", "https://api.example.com/mj/v2/fetch")
    assert isinstance(request.stream, httpx.ByteStream)
    body = b"".join(request.stream)
    assert json.loads(body) == {"task_id": 'a"b\\c', "tasks": [{"name": 'task/a"b\\c'}], "page": 1}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(body))
    assert request.headers["x-api-key"] == "k"


async def test_a_status_by_post_without_a_body() -> None:
    """The id stands in the path then, and the length of nothing is told."""
    transport = Recorder()
    profile = parse_profile(profile_text("/jobs/{task_id}/poll", 'method = "POST"'), "x.toml")
    await Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key=None).poll("t")
    (request,) = transport.requests
    assert (request.method, sent_url(request)) == ("POST", "https://api.example.com/jobs/t/poll")
    assert request.headers["content-length"] == "0"
    assert "content-type" not in request.headers


async def test_a_key_that_is_replaced_while_it_asks() -> None:
    """A refusal of the old key is none of the new one, and neither is shown, however late the old one's answer is."""
    replaced = asyncio.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request.headers["authorization"])
            await replaced.wait()
            return httpx.Response(401, json={"detail": f"refused: {request.headers['authorization']}"})

    sent: list[str] = []
    profile = SHIPPED["replicate"]
    upstream = Upstream(profile, Slow(), SystemClock(), base_url=profile.base_url, api_key="sk-the-old-one")
    polling = asyncio.create_task(upstream.poll("t"))
    forwarding = asyncio.create_task(upstream.forward("GET", "/"))
    while len(sent) < 2:  # noqa: ASYNC110 - until both have been sent with the old key
        await asyncio.sleep(0)
    upstream.use_key("sk-the-new-one")
    replaced.set()
    old, raw, new = await polling, await forwarding, await upstream.poll("t")
    assert (old.kind, old.of_old_key) == (PollKind.BROKEN, True)
    assert (new.kind, new.of_old_key) == (PollKind.KEY_REFUSED, False)
    assert sent[-1] == "Bearer sk-the-new-one"
    assert isinstance(raw, Answer)
    for text in (old.error, new.error, upstream.without_key(raw).body.decode()):
        assert text is not None
        assert "refused: Bearer ***" in text
    upstream.use_key(None)
    with pytest.raises(KeyError):
        await upstream.poll("t")


class Slow(httpx.AsyncBaseTransport, httpx.AsyncByteStream):
    """A transport whose answers announce much, and of which a little comes until they are let go on."""

    def __init__(self, announced: int, comes: int) -> None:
        self._announced = announced
        self._comes = comes
        self.waits = asyncio.Event()
        self.go_on = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-length": str(self._announced)}, stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b" " * self._comes
        self.waits.set()
        await self.go_on.wait()
        yield b" " * (self._announced - self._comes)


async def test_what_is_only_announced_leaves_room_for_others() -> None:
    """An upstream that announces the largest answer and sends its beginning alone has a quarter of the room, not all.

    Once more of it comes it has the room that it needs.
    """
    memory = Memory(1_000_000)
    transport = Slow(announced=400_000, comes=70_000)
    profile = SHIPPED["aigptimage"]
    upstream = Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key=None, memory=memory)
    answer = asyncio.create_task(upstream.forward("GET", "/"))
    await transport.waits.wait()
    other = asyncio.create_task(memory.hold(700_000, "other"))
    await asyncio.wait_for(other, 5)
    transport.go_on.set()
    result = await answer
    assert isinstance(result, Answer)
    assert len(result.body) == 400_000


async def test_clients_take_turns_at_the_room_for_large_answers() -> None:
    """One that asks about many tasks with large results holds up another's by one of them, not by all."""
    holds = 0
    all_wait = asyncio.Event()

    class Counted(Memory):
        async def hold(self, size: int, *owner: str) -> None:
            nonlocal holds
            holds += 1
            if holds == 11:
                all_wait.set()
            await super().hold(size, *owner)

    memory = Counted(1_000_000)
    profile = SHIPPED["aigptimage"]
    came: list[str] = []

    async def keep_all() -> None:
        await memory.hold(1_000_000, "another")
        await asyncio.Event().wait()

    async def ask(whose: str) -> None:
        transport = Slow(announced=100_000, comes=100_000)
        transport.go_on.set()
        upstream = Upstream(profile, transport, SystemClock(), base_url=profile.base_url, api_key=None, memory=memory)
        assert isinstance(await upstream.forward("GET", "/", whose=whose), Answer)
        came.append(whose)

    kept = asyncio.create_task(keep_all())
    asked = asyncio.gather(*(ask(whose) for whose in ["many"] * 9 + ["few"]))
    await all_wait.wait()
    kept.cancel()
    await asked
    memory.close()
    assert came.index("few") <= 2


@pytest.mark.parametrize(
    ("body", "beside"),
    [
        pytest.param(b'{"code":500,"msg":"' + b"x" * 60_000 + b'"}', False, id="a long text"),
        pytest.param(b'{"code":500,"msg":' + b"[" * 30_000 + b"]" * 30_000 + b"}", True, id="nested"),
        pytest.param(b'{"code":500,"msg":[' + b"{}," * 20_000 + b"NaN]}", True, id="many values"),
        pytest.param(b"[" * 4000, False, id="short"),
    ],
)
async def test_what_takes_long_to_read_is_read_beside_the_loop(body: bytes, beside: bool) -> None:
    """However small an answer is, one of thousands of values, or levels, holds up nobody else."""
    read_in: list[str] = []

    class Spy(Memory):
        async def work(self, function: Any, *args: Any) -> Any:
            read_in.append(function.__name__)
            return await super().work(function, *args)

    memory = Spy(64 * 1024 * 1024)
    profile = SHIPPED["aigptimage"]
    upstream = Upstream(profile, Recorder(), SystemClock(), base_url=profile.base_url, api_key=None, memory=memory)
    try:
        result = await upstream.read("t", Answer(500, httpx.Headers(), body))
        assert result.kind is PollKind.BROKEN
        assert ("_read_answer" in read_in) is beside
    finally:
        memory.close()
