"""``gateway.client``, for threads and for asyncio, against a real gateway and against servers that misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    NotAGateway,
    Registration,
    Unreachable,
    WaitTimeout,
)
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.answers import CALLBACK
from tests.running import Running, running

TOKEN = "token-of-the-client"
HOOKS = "http://127.0.0.1:9/hooks"  # nobody listens there
URL = "https://cdn.example.com/result.png"


class Either:
    """One of the two clients, whose calls are made without holding up the servers of the test."""

    def __init__(self, kind: type[Client] | type[AsyncClient], *args: Any, **options: Any) -> None:
        self.client = kind(*args, **options)

    async def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        method = getattr(self.client, name)
        if isinstance(self.client, AsyncClient):
            return await method(*args, **options)
        return await asyncio.to_thread(method, *args, **options)

    async def iterate(self, **options: Any) -> list[Any]:
        if isinstance(self.client, AsyncClient):
            return [callback async for callback in self.client.iterate(**options)]
        client = self.client
        return await asyncio.to_thread(lambda: list(client.iterate(**options)))

    async def close(self) -> None:
        if isinstance(self.client, AsyncClient):
            async with self.client:
                pass
        else:
            with self.client:
                pass


@pytest.fixture(params=[Client, AsyncClient], ids=lambda kind: kind.__name__)
async def client_of(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Either]]:
    """Make a client of either kind, which is closed at the end and hardly waits between tries."""
    made: list[Either] = []

    def make(*args: Any, **options: Any) -> Either:
        made.append(Either(request.param, *args, **{"backoff_s": 0.001} | options))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway with a token, whose webhooks nobody takes."""
    async with (
        serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url,
        running(tmp_path, upstream_url, GATEWAY_TOKEN=TOKEN, GATEWAY_RETRY_SCHEDULE="0") as it,
    ):
        it.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield it


def url_of(gateway: Running) -> str:
    return str(gateway.client.base_url)


class Script:
    """A server that gives one answer after another, and keeps what it was asked."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.bodies.append(await request.body())
        self.asked.append(request)
        await self.answers[min(len(self.asked), len(self.answers)) - 1](scope, receive, send)


def refusal(status: int, code: str, **headers: str) -> Response:
    problem = {"type": "about:blank", "title": "No", "status": status, "detail": "Not now.", "code": code}
    return Response(json.dumps(problem), status, headers, "application/problem+json")


GOOD = Response(json.dumps(CALLBACK | {"novelty": [1]}), 201, media_type="application/json")


async def test_a_task_from_its_registration_to_its_end(gateway: Running, client_of: Callable[..., Either]) -> None:
    """Registered, again to the same end, read, waited for; what comes back has types, and all of what the API told."""
    client = client_of(url_of(gateway), TOKEN)
    before = datetime.now(UTC) - timedelta(seconds=1)
    callback = await client("register", "sim-success-200-cat", HOOKS, metadata={"orderId": 7}, timeout_seconds=600)
    assert (callback.state, callback.task.state, callback.metadata) == ("waiting", "waiting", {"orderId": 7})
    assert before < callback.created_at < callback.expires_at - timedelta(seconds=599)
    again = await client("register", "sim-success-200-cat", HOOKS, metadata={"orderId": 7}, timeout_seconds=600)
    assert again.id == callback.id

    task = await client("wait", callback, timeout_s=20)
    assert (task.task_id, task.state, task.upstream) == ("sim-success-200-cat", "success", "aigptimage")
    assert task.outcome.result_urls == (URL,)
    assert task.outcome.result == {"resultUrls": [URL]}
    assert task.settled_at >= task.created_at
    assert await client("task", task.task_id) == task

    await gateway.becomes(f"/v1/callbacks/{callback.id}", lambda answer: answer.json()["state"] == "dead")
    dead = await client("get", callback.id)
    assert (dead.state, dead.attempts, dead.client) == ("dead", 1, None)
    assert dead.raw["lastError"] == dead.last_error
    [attempt] = await client("attempts", callback.id)
    assert (attempt.number, attempt.result, attempt.status_code) == (1, "dead", None)
    assert attempt.error


async def test_cancelling_and_redelivering(gateway: Running, client_of: Callable[..., Either]) -> None:
    """One by its id, and all that died within a span of time; what is too late is a conflict."""
    client = client_of(url_of(gateway), TOKEN)
    running_one = await client("register", "sim-success-60000-slow", HOOKS)
    assert await client("cancel", running_one.id) is None
    assert (await client("get", running_one.id)).state == "cancelled"
    with pytest.raises(ApiError, match="cancelled") as caught:
        await client("redeliver", running_one.id)
    assert (caught.value.status, caught.value.code) == (409, "conflict")

    start = datetime.now(UTC)
    callback = await client("register", "sim-fail-0-x", HOOKS)
    path = f"/v1/callbacks/{callback.id}"
    await gateway.becomes(path, lambda answer: answer.json()["state"] == "dead")
    assert (await client("redeliver", callback.id)).id == callback.id
    await gateway.becomes(path, lambda answer: answer.json()["state"] == "dead")
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert await client("redeliver_dead", since=now, until=now + timedelta(hours=1)) == 0
    assert await client("redeliver_dead", since=start, until=now, receiver="127.0.0.1:9", dry_run=True) == 1
    assert await client("redeliver_dead", since=start, until=now, receiver="elsewhere") == 0
    assert await client("redeliver_dead", since=start, until=now) == 1
    with pytest.raises(ValueError, match="no zone"):
        await client("redeliver_dead", since=datetime(2026, 11, 23))  # noqa: DTZ001


async def test_thousands_in_batches_and_in_pages(gateway: Running, client_of: Callable[..., Either]) -> None:
    """More than a request takes are several; each item stands for itself; all of them are read, page by page."""
    client = client_of(url_of(gateway), TOKEN)
    asked = [Registration(task_id=f"sim-success-60000-{n}", callback_url=HOOKS, model="m") for n in range(1003)]
    asked[1001] = Registration(task_id="two words", callback_url=HOOKS)
    asked[1002] = Registration(task_id="t", callback_url="https://10.0.0.1/")
    results = await client("register_batch", iter(asked))
    assert [result.status for result in results] == [201] * 1001 + [422, 422]
    assert [result.callback.task_id for result in results[:1001]] == [one.task_id for one in asked[:1001]]
    bad, refused = results[1001].error, results[1002].error
    assert ([mistake.field for mistake in bad.errors], bad.code) == (["taskId"], "invalid_request")
    assert (refused.code, results[1002].callback) == ("callback_not_allowed", None)
    assert await client("register_batch", []) == ()

    ids = [result.callback.id for result in results[:1001]]
    found = await client.iterate(state="waiting")
    assert sorted(callback.id for callback in found) == sorted(ids)
    page = await client("list", limit=2)
    assert [callback.id for callback in page.data] == [callback.id for callback in found[:2]]
    page = await client("list", limit=2, cursor=page.next_cursor)
    assert [callback.id for callback in page.data] == [callback.id for callback in found[2:4]]
    one = await client.iterate(task_id=asked[5].task_id)
    assert [callback.id for callback in one] == [ids[5]]


async def test_a_wait_ends_in_time(gateway: Running, client_of: Callable[..., Either]) -> None:
    """With what is known of the task, and as Python's own error of a time that is up."""
    client = client_of(url_of(gateway), TOKEN)
    await client("register", "sim-success-60000-x", HOOKS)
    with pytest.raises(TimeoutError, match=r"still runs after 0\.2 s") as caught:
        await client("wait", "sim-success-60000-x", timeout_s=0.2)
    assert isinstance(caught.value, WaitTimeout)
    assert caught.value.task.state == "waiting"
    with pytest.raises(ApiError) as unknown:
        await client("wait", "a/b?c d%", timeout_s=0.2)
    assert (unknown.value.code, "a/b?c d%" in unknown.value.detail) == ("not_found", True)


async def test_refusals_say_what_the_gateway_said(gateway: Running, client_of: Callable[..., Either]) -> None:
    """A missing token, a typo in a member, a conflict, an id that nobody has."""
    with pytest.raises(ApiError, match="token") as caught:
        await client_of(url_of(gateway))("get", "cb_1")
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    client = client_of(url_of(gateway), TOKEN)
    with pytest.raises(ApiError) as caught:
        await client("register", "sim-success-60000-x", "ftp://example.com")
    assert caught.value.errors[0].field == "callbackUrl"
    await client("register", "sim-success-60000-x", HOOKS)
    with pytest.raises(ApiError) as caught:
        await client("register", "sim-success-60000-x", HOOKS, metadata={"a": 1})
    assert (caught.value.status, caught.value.code) == (409, "conflict")
    with pytest.raises(ApiError) as caught:
        await client("get", "cb_/../x")
    assert caught.value.code == "not_found"
    assert caught.value.problem["status"] == 404


async def test_what_is_sent(client_of: Callable[..., Either]) -> None:
    """Below the path of the base URL, with the token and a name; only what was given; what is new comes back raw."""
    script = Script(GOOD)
    async with serve_asgi(script) as url:
        for base in (f"{url}/prefix", f"{url}/prefix/"):
            callback = await client_of(base, TOKEN)("register", "t", HOOKS, model="m", format="record")
    assert callback.raw["novelty"] == [1]
    for request, body in zip(script.asked, script.bodies, strict=True):
        assert (request.method, request.url.path) == ("POST", "/prefix/v1/callbacks")
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.headers["user-agent"] == f"webhook-bridging-gateway-client/{__version__}"
        assert json.loads(body) == {"taskId": "t", "callbackUrl": HOOKS, "model": "m", "format": "record"}


@pytest.mark.parametrize("answer", [refusal(503, "unavailable"), refusal(429, "rate_limited"), Response("", 502)])
async def test_what_may_be_repeated_is(answer: Response, client_of: Callable[..., Either]) -> None:
    """A registration is the same however often it comes."""
    script = Script(answer, answer, GOOD)
    async with serve_asgi(script) as url:
        assert (await client_of(url)("register", "t", HOOKS)).id == "cb_1"
    assert len(script.asked) == 3


@pytest.mark.parametrize(
    ("answer", "asked", "code"),
    [
        (refusal(503, "unavailable"), 1, "unavailable"),  # it may be done all the same
        (refusal(429, "rate_limited"), 3, "rate_limited"),  # it is not done
        (refusal(409, "conflict"), 1, "conflict"),
        (refusal(500, "internal"), 1, "internal"),
    ],
)
async def test_a_redelivery_is_repeated_only_where_it_was_not_done(
    answer: Response, asked: int, code: str, client_of: Callable[..., Either]
) -> None:
    """Whatever else may have sent the webhook, and to repeat it might send it once more."""
    script = Script(answer)
    async with serve_asgi(script) as url:
        with pytest.raises(ApiError) as caught:
            await client_of(url, retries=2)("redeliver", "cb_1")
    assert (len(script.asked), caught.value.code) == (asked, code)


async def test_tries_are_bounded(client_of: Callable[..., Either]) -> None:
    """The last refusal is raised; none is repeated where the gateway asks to come back after the bound."""
    script = Script(refusal(503, "unavailable"))
    async with serve_asgi(script) as url:
        with pytest.raises(ApiError, match="Not now"):
            await client_of(url, retries=3)("get", "cb_1")
        assert len(script.asked) == 4
        script.answers = [refusal(503, "unavailable", **{"retry-after": "31"})]
        with pytest.raises(ApiError) as caught:
            await client_of(url)("get", "cb_1")
        assert (len(script.asked), caught.value.retry_after_s) == (5, 31.0)


async def test_the_wait_that_is_asked_for_is_kept(client_of: Callable[..., Either]) -> None:
    """Retry-After counts where it is longer than the client's own pause."""
    script = Script(refusal(429, "rate_limited", **{"retry-after": "0.2"}), GOOD)
    async with serve_asgi(script) as url:
        start = asyncio.get_running_loop().time()
        await client_of(url)("get", "cb_1")
    assert asyncio.get_running_loop().time() - start >= 0.2


@pytest.mark.parametrize(("call", "connections"), [("get", 3), ("cancel", 3), ("redeliver", 1)])
async def test_a_lost_answer(call: str, connections: int, raw_server: Any, client_of: Callable[..., Either]) -> None:
    """Nobody knows what was done: only what may be repeated is."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    server = await raw_server(hang_up)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        await client_of(server.url(""), retries=2)(call, "cb_1")
    assert server.connections == connections


async def test_an_answer_that_takes_too_long(client_of: Callable[..., Either]) -> None:
    """It is given up after ``timeout_s``, unless the gateway was asked to hold it."""
    task = {name: CALLBACK[name] for name in ("taskId", "upstream", "createdAt", "lastError")} | {
        "state": "success",
        "polls": 1,
        "lastPolledAt": None,
        "nextPollAt": None,
        "settledAt": None,
        "outcome": {"state": "success"},
    }

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await Response(json.dumps(task))(scope, receive, send)

    async with serve_asgi(slow) as url:
        client = client_of(url, timeout_s=0.1, retries=0)
        assert (await client("wait", "t", timeout_s=10)).state == "success"
        with pytest.raises(Unreachable, match=r"timed out|ReadTimeout"):
            await client("task", "t")


async def test_nobody_there_is_tried_again(client_of: Callable[..., Either], raw_server: Any) -> None:
    """A redelivery too: it was never sent. Here the gateway starts meanwhile."""
    server = await raw_server(_never)
    port, url = server.port, server.url("")
    await server.stop()
    with pytest.raises(Unreachable):
        await client_of(url, retries=1)("redeliver", "cb_1")
    asked = asyncio.create_task(client_of(url, retries=60, backoff_s=0.05)("redeliver", "cb_1"))
    async with serve_asgi(Script(Response(json.dumps(CALLBACK), 202)), port=port):
        assert (await asked).id == "cb_1"


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Response("<h1>Welcome to nginx</h1>", 200), "not JSON"),
        (Response(json.dumps(CALLBACK | {"task": []}), 200), "no JSON object"),
        (Response(json.dumps(CALLBACK | {"id": None}), 200), "id is missing"),
        (Response("[" * 5000, 200), "nested too deeply|not JSON"),
        (Response("\xff", 200), "answers is not a gateway's"),
        (Response(json.dumps(CALLBACK | {"createdAt": "soon"}), 200), "soon"),
        (Response(json.dumps(CALLBACK | {"attempts": True}), 200), "attempts"),
        (Response("<h1>Not found</h1>", 404), "answered 404"),
        (Response("", 301, {"location": "https://elsewhere.example.com/"}), r"to go to https://elsewhere"),
    ],
)
async def test_what_is_no_gateway_is_said(answer: Response, says: str, client_of: Callable[..., Either]) -> None:
    """Whatever a wrong base URL leads to is one kind of error, which says what came."""
    async with serve_asgi(Script(answer)) as url:
        with pytest.raises(NotAGateway, match=says) as caught:
            await client_of(url)("get", "cb_1")
    assert isinstance(caught.value, ClientError)


async def test_a_batch_that_is_answered_in_part(client_of: Callable[..., Either]) -> None:
    """Nobody could tell which item an answer is of."""
    data = [{"status": 201, "callback": CALLBACK}]
    async with serve_asgi(Script(Response(json.dumps({"data": data})))) as url:
        with pytest.raises(NotAGateway, match="tells of 1 registrations, and 2 were sent"):
            await client_of(url)("register_batch", [Registration(task_id="t", callback_url=HOOKS)] * 2)


async def test_a_gateway_that_stops_is_not_asked_at_once(client_of: Callable[..., Either]) -> None:
    """It answers what it holds; the next question waits a second."""
    task = {name: CALLBACK[name] for name in ("taskId", "upstream", "state", "createdAt", "lastError")} | {
        "polls": 0,
        "lastPolledAt": None,
        "nextPollAt": None,
        "settledAt": None,
        "outcome": None,
    }
    ended = task | {"state": "abandoned", "outcome": {"state": "abandoned", "reason": "timeout", "costTime": "?"}}
    script = Script(Response(json.dumps(task)), Response(json.dumps(ended)))
    async with serve_asgi(script) as url:
        start = asyncio.get_running_loop().time()
        found = await client_of(url)("wait", "t")
    assert asyncio.get_running_loop().time() - start >= 0.9
    assert (found.outcome.reason, found.outcome.cost_time_ms) == ("timeout", None)
    assert script.asked[0].query_params["wait"] == "60.000"


async def test_calls_that_were_cancelled_take_no_place_from_others() -> None:
    """However many were, and at whatever moment; a program that gives ``wait`` a time limit cancels all day."""
    script = Script(Response("{}", 404))
    async with serve_asgi(script) as url, AsyncClient(url, retries=0, timeout_s=3) as client:
        for turns in range(6, 16):  # as the connection comes about, whichever of these that is
            calls = [asyncio.create_task(client.get("cb_1")) for _ in range(100)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(NotAGateway):
            await client.get("cb_1")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("127.0.0.1:8080",), "base_url"),
        (("ftp://x",), "base_url"),
        (("http://",), "base_url"),
        (("http://x/?a=b",), "base_url"),
        (("http://x:port",), "base_url"),
        (("http://x", ""), "token"),
        (("http://x", "two words"), "token"),
        (("http://x", "é"), "token"),
    ],
)
def test_an_address_or_token_that_cannot_be_used(args: tuple[str, ...], says: str) -> None:
    """It is a mistake of the program, said where it is made; the token is not repeated."""
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=says):
            kind(*args)
