"""A create that is sent again under its X-Request-ID: where the upstream knows the header, and where it does not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.clock import SystemClock
from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.errors import StoreError
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Fault, FaultKind, Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.running import LIMIT_S, Running, running
from tests.waiting import until

CREATE = "/api/v1/jobs/createTask"
HOOKS = "https://hooks.example.com/in"
TASK = {"model": "m", "input": {"prompt": "A cat"}}


class Upstream(SimulatedUpstream):
    """The simulator, that may be made to ignore X-Request-ID, and to answer creates only once it may."""

    def __init__(self) -> None:
        super().__init__(SystemClock(), plans=Plan(duration_s=60))
        self.honours = True
        self.ids: list[str] = []
        self.reached = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def creates(self) -> int:
        return self.stats.requests["createTask"]

    @property
    def paid(self) -> int:
        """How many tasks there are."""
        return len(self._tasks)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def later(message: Any) -> None:
            self.reached.set()
            await self.may_answer.wait()
            await send(message)

        if scope["path"] == CREATE:
            self.ids += [value.decode() for name, value in scope["headers"] if name == b"x-request-id"]
            if not self.honours:
                scope["headers"] = [header for header in scope["headers"] if header[0] != b"x-request-id"]
        await super().__call__(scope, receive, later if scope["path"] == CREATE else send)


class Stand(Running):
    """One gateway, and a client of it."""

    async def create(self, request_id: str | None = "r-1", task: Any = TASK, url: str | None = HOOKS) -> httpx.Response:
        headers = {} if request_id is None else {"x-request-id": request_id}
        body = task if url is None else {**task, "callBackUrl": url}
        return await self.client.post(CREATE, json=body, headers=headers)

    async def callbacks(self) -> list[str]:
        return [one["taskId"] for one in (await self.client.get("/v1/callbacks")).json()["data"]]

    async def repetition_waits(self) -> None:
        """Return once a create waits for an equal one."""
        (proxy,) = self.gateway.api.proxies
        await until(lambda: any(one._waiters for one in proxy._once._under_way.values()))  # type: ignore[attr-defined]

    async def counted(self, outcome: str) -> float:
        lines = (await self.client.get("/metrics")).text.splitlines()
        wanted = f'gateway_proxied_requests_total{{call="create",outcome="{outcome}"}} '
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))


Start = Callable[..., Awaitable[Stand]]


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def start(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Start]:
    """Start a gateway, in the place of the one before: with aigptimage's profile, or kie's, which knows no header."""
    async with serve_simulator(upstream) as simulator_url, AsyncExitStack() as life:

        async def begin(*, honours: bool = True, url: str | None = None, **environ: str) -> Stand:
            await life.aclose()
            upstream.honours = honours
            name = "aigptimage" if honours else "kie"
            config = tmp_path / "gateway.toml"
            config.write_text(f'[upstreams.{name}]\ncreate_rate = "1000/1"\n')
            own = {
                "GATEWAY_CONFIG": str(config),
                "GATEWAY_UPSTREAM": name,
                "GATEWAY_CALLBACK_ALLOW": "hooks.example.com",
                "GATEWAY_DRAIN_S": "1",
            }
            one = await life.enter_async_context(running(tmp_path, url or simulator_url, **(own | environ)))
            return Stand(one.gateway, one.client)

        yield begin


both = pytest.mark.parametrize("honours", [True, False], ids=["honoured", "ignored"])


def message(answer: httpx.Response, status: int) -> str:
    """Return what an error in the upstream's envelope says."""
    assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    assert status != 409 or answer.headers["x-should-retry"] == "false", "SDKs would send it again by themselves"
    return str(answer.json()["msg"])


async def known(stand: Stand, request_id: str = "r-1") -> tuple[Any, int | None]:
    """Return the answer that is kept of a create, and since when it is known that there will be none."""
    create = NewCreate(client="default", upstream="kie", request_id=request_id, digest=b"", at=0)
    found = await stand.gateway.store.registry.known_create(create)
    assert found is not None
    return found.answer, found.lost_at


@both
async def test_an_answer_is_given_again(start: Start, upstream: Upstream, honours: bool) -> None:
    """Byte for byte and with its type, nothing is forwarded, and the one callback stands; a new id creates anew."""
    stand = await start(honours=honours)
    first, second = [await stand.create() for _ in range(2)]
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
    assert second.headers["x-request-id"] == "r-1"
    assert (upstream.creates, upstream.paid) == (1, 1)
    assert await stand.callbacks() == [first.json()["data"]["taskId"]]
    assert (await stand.counted("forwarded"), await stand.counted("repeated")) == (1, 1)
    assert (await stand.create("r-2")).content != first.content
    assert upstream.paid == 2


async def test_a_new_one_is_not_looked_for_first(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is taken down before it is forwarded tells that it is new; a repetition is looked for then."""
    stand = await start()
    registry = stand.gateway.store.registry
    looked: list[str] = []
    look = registry.known_create

    async def looking(create: NewCreate) -> KnownCreate | None:
        looked.append(create.request_id)
        return await look(create)

    monkeypatch.setattr(registry, "known_create", looking)
    first = await stand.create("new")
    assert (first.status_code, looked) == (200, [])
    again = await stand.create("new")
    assert (again.content, looked, upstream.creates) == (first.content, ["new"], 1)


async def test_an_answer_is_given_again_where_its_url_is_not_allowed_any_more(start: Start, upstream: Upstream) -> None:
    """Its task is paid for, whatever the policy says by now; nothing new is forwarded."""
    plain = "http://hooks.example.com/in"
    first = await (await start()).create(url=plain)
    stand = await start(GATEWAY_CALLBACK_ALLOW="others.example.com")
    assert (first.status_code, (await stand.create(url=plain)).content) == (200, first.content)
    assert message(await stand.create("another", url=plain), 422).endswith("Nothing was forwarded.")
    assert upstream.creates == 1


@both
async def test_it_is_given_again_after_a_restart(start: Start, upstream: Upstream, honours: bool) -> None:
    """What is kept is on disk before the answer goes out; without a callback too."""
    stand = await start(honours=honours)
    answers = [await stand.create("r-1"), await stand.create("r-2", url=None)]
    stand = await start(honours=honours)
    again = [await stand.create("r-1"), await stand.create("r-2", url=None)]
    assert [answer.content for answer in again] == [answer.content for answer in answers]
    assert upstream.creates == 2


@both
async def test_the_second_waits_for_the_first(start: Start, upstream: Upstream, honours: bool) -> None:
    """While a create is under way equal ones are not forwarded: all get its answer."""
    upstream.may_answer.clear()
    stand = await start(honours=honours)
    first = asyncio.create_task(stand.create())
    await upstream.reached.wait()
    others = [asyncio.create_task(stand.create()) for _ in range(3)]
    await stand.repetition_waits()
    upstream.may_answer.set()
    answers = await asyncio.gather(first, *others)
    assert {answer.content for answer in answers} == {answers[0].content}
    assert upstream.paid == 1


@pytest.mark.parametrize("ends", [True, False])
async def test_the_second_waits_for_the_first_at_another_replica(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """While that may be under way nobody is told to create anew; who has waited for long is to send it again."""
    upstream.may_answer.clear()
    stand = await start(honours=False)
    once = stand.gateway.api.proxies[0]._once
    first = asyncio.create_task(stand.create())
    await upstream.reached.wait()
    monkeypatch.setattr(once, "_under_way", {})  # as at a replica that has not forwarded it
    monkeypatch.setattr(once, "_has_replicas", True)
    monkeypatch.setattr(once, "_recheck_s", 0.01)
    looks = asyncio.Semaphore(0)
    look = once.look

    async def looking(create: NewCreate) -> KnownCreate | None:
        looks.release()
        return await look(create)

    monkeypatch.setattr(once, "look", looking)
    monkeypatch.setattr("gateway.api.once._PATIENCE_S", LIMIT_S if ends else 0.05)
    second = asyncio.create_task(stand.create())
    for _ in range(2):
        await looks.acquire()
    if not ends:
        answer = await second
        assert (answer.status_code, answer.headers["retry-after"]) == (409, "0.05")
        assert "x-should-retry" not in answer.headers
        assert "send this one again, under the same id" in answer.json()["msg"]
    upstream.may_answer.set()
    told = await first
    assert (await (second if ends else stand.create())).content == told.content
    assert upstream.paid == 1


async def test_what_another_replica_cannot_be_forwarding_any_more_is_not_waited_for(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create that got no answer in all the time that there is for it is in doubt: its replica was killed, say."""
    monkeypatch.setattr("gateway.api.once._LONGEST_MS", 0)
    stand = await start(honours=False)
    monkeypatch.setattr(stand.gateway.api.proxies[0]._once, "_has_replicas", True)
    upstream.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=1))
    await stand.create()
    assert await known(stand) == (None, None)
    assert "its answer is not known" in message(await stand.create(), 409)


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.ERROR])
async def test_what_another_replica_knows_to_be_in_doubt_is_not_waited_for(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, kind: FaultKind
) -> None:
    """The answer broke off, or leaves it open whether there is a task: it says so to the others at once."""
    stand = await start(honours=False)
    proxy = stand.gateway.api.proxies[0]
    for part in (proxy._once, proxy._creating):
        monkeypatch.setattr(part, "_has_replicas", True)
    upstream.faults.add(Fault(kind=kind, endpoint="createTask", times=1, status=500))
    await stand.create()
    answer, lost_at = await known(stand)
    assert (answer, lost_at is None) == (None, False)
    assert "its answer is not known" in message(await stand.create(), 409)
    assert upstream.creates == 1


async def test_what_a_shutdown_has_cut_off_is_in_doubt_at_once(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that ends before the upstream has answered leaves no other to wait for that."""
    upstream.may_answer.clear()
    stand = await start(honours=False)
    monkeypatch.setattr(stand.gateway.api.proxies[0]._creating, "_has_replicas", True)
    first = asyncio.create_task(stand.create())
    await upstream.reached.wait()
    stand = await start(honours=False)
    await asyncio.gather(first, return_exceptions=True)
    upstream.may_answer.set()
    answer, lost_at = await known(stand)
    assert (answer, lost_at is None) == (None, False)


@both
async def test_a_client_that_went_away_gets_it_when_it_comes_again(
    start: Start, upstream: Upstream, honours: bool
) -> None:
    """The create went on without it; until it has come to its end the repetition waits."""
    upstream.may_answer.clear()
    stand = await start(honours=honours)
    transport = httpx.ASGITransport(stand.gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        gone = Stand(stand.gateway, client)
        first = asyncio.create_task(gone.create())
        await upstream.reached.wait()
        first.cancel()
        await asyncio.wait([first])
        again = asyncio.create_task(gone.create())
        upstream.may_answer.set()
        answer = await again
    assert first.cancelled()
    assert (answer.status_code, upstream.creates) == (200, 1)
    assert await stand.callbacks() == [answer.json()["data"]["taskId"]]


@both
async def test_another_request_needs_another_id(start: Start, upstream: Upstream, honours: bool) -> None:
    """Another body, or another callback URL, under an id that was used: 409, and nothing is forwarded."""
    stand = await start(honours=honours)
    await stand.create()
    for answer in (await stand.create(task={**TASK, "model": "n"}), await stand.create(url=HOOKS + "/b")):
        assert "sent with another request before; nothing was forwarded" in message(answer, 409)
    assert upstream.creates == 1
    assert await stand.counted("refused") == 2


@both
async def test_what_made_no_task_is_forwarded_again(start: Start, upstream: Upstream, honours: bool) -> None:
    """Refused by the upstream, under HTTP's status or 200, or by its rate limit: the repetition is a new create."""
    stand = await start(honours=honours)
    for status, code in ((402, 402), (200, 422), (429, 429)):
        told = {"retryAfter": 0.01}
        fault = Fault(kind=FaultKind.ERROR, endpoint="createTask", status=status, code=code, data=told, times=1)
        upstream.faults.add(fault)
        answer = await stand.create(f"r-{code}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (await stand.create(f"r-{code}")).json()["code"] == 200
    assert upstream.paid == 3


@both
async def test_so_is_what_was_never_sent(start: Start, upstream: Upstream, honours: bool, tmp_path: Path) -> None:
    """An upstream that cannot be reached has created nothing, whether it knows of ids or not."""
    stand = await start(honours=honours, url="http://127.0.0.1:1")
    assert "Nothing was created" in message(await stand.create(), 502)
    stand = await start(honours=honours)
    assert (await stand.create()).status_code == 200


async def test_nor_does_it_count_that_the_gateway_refused(start: Start, upstream: Upstream) -> None:
    """A callback URL that is not allowed, or no turn in the rate limit: the id is as new as before."""
    stand = await start(honours=False)
    refused = await stand.create(url="http://10.0.0.1/hooks")
    assert "Nothing was forwarded" in message(refused, 422)
    assert (await stand.create()).status_code == 200


LOST = [
    Fault(kind=FaultKind.RESET, endpoint="createTask", times=1),
    Fault(kind=FaultKind.HANG, endpoint="createTask", times=1),
    Fault(kind=FaultKind.HTML, status=504, endpoint="createTask", times=1),
    Fault(kind=FaultKind.ERROR, status=500, endpoint="createTask", times=1),
    Fault(kind=FaultKind.ERROR, status=200, code=408, endpoint="createTask", times=1),
]


@pytest.mark.parametrize("fault", LOST, ids=["reset", "hang", "504", "500", "408"])
async def test_a_lost_answer_where_the_header_is_known(
    start: Start, upstream: Upstream, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repetition is forwarded under the same id, whatever is known here: the upstream returns what there is."""
    monkeypatch.setattr("gateway.api.creating._TIMEOUT_S", 0.3)
    stand = await start()
    upstream.faults.add(fault)
    await stand.create()
    monkeypatch.setattr("gateway.api.creating._TIMEOUT_S", LIMIT_S)
    answers = [await stand.create() for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (upstream.creates, upstream.paid, len(set(upstream.ids))) == (2, 1, 1)
    assert await stand.callbacks() == [answers[0].json()["data"]["taskId"]]


@pytest.mark.parametrize("fault", LOST, ids=["reset", "hang", "504", "500", "408"])
async def test_a_lost_answer_where_it_is_not(
    start: Start, upstream: Upstream, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repetition is 409, however often it comes, and says how to go on; a new id creates anew."""
    monkeypatch.setattr("gateway.api.creating._TIMEOUT_S", 0.3)
    stand = await start(honours=False)
    upstream.faults.add(fault)
    await stand.create()
    monkeypatch.setattr("gateway.api.creating._TIMEOUT_S", LIMIT_S)
    for _ in range(2):
        told = message(await stand.create(), 409)
        assert "a task may have been created" in told
        assert told.endswith("a new id creates anew.")
    assert upstream.creates == 1
    assert (await stand.create("r-2")).status_code == 200


@both
@pytest.mark.parametrize("status", [301, 308])
async def test_a_redirect_made_no_task(start: Start, upstream: Upstream, honours: bool, status: int) -> None:
    """It asks for the same request elsewhere: with the base URL put right the repetition is a new create."""
    stand = await start(honours=honours)
    upstream.faults.add(Fault(kind=FaultKind.HTML, status=status, endpoint="createTask", times=1))
    assert (await stand.create()).status_code == status
    assert (await stand.create()).status_code == 200
    assert upstream.paid == 1


@pytest.mark.parametrize("status", [302, 303])
async def test_a_redirect_to_what_came_of_it(start: Start, upstream: Upstream, status: int) -> None:
    """It leaves in doubt whether there is a task, as a lost answer does."""
    stand = await start(honours=False)
    upstream.faults.add(Fault(kind=FaultKind.HTML, status=status, endpoint="createTask", times=1))
    assert (await stand.create()).status_code == status
    assert "a task may have been created" in message(await stand.create(), 409)
    assert upstream.creates == 1


async def test_who_forwards_again_in_vain_still_does_not_know(start: Start, upstream: Upstream) -> None:
    """The upstream cannot be reached when a lost create is repeated: the first may have made a task all the same."""
    stand = await start()
    upstream.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=1))
    assert "may have been created: send the same request again" in message(await stand.create(), 502)
    stand = await start(url="http://127.0.0.1:1")
    told = message(await stand.create(), 502)
    assert "Nothing was created" not in told
    assert "may have been created: send the same request again with X-Request-ID: r-1" in told
    stand = await start()
    assert (await stand.create()).status_code == 200
    assert upstream.paid == 1


async def test_a_refusal_does_not_undo_a_create_of_before(start: Start, upstream: Upstream) -> None:
    """Forwarded again after a lost answer, a create that meets the rate limit is still the same request."""
    stand = await start()
    upstream.faults.add(
        Fault(kind=FaultKind.RESET, endpoint="createTask", times=1),
        Fault(kind=FaultKind.ERROR, status=429, endpoint="createTask", data={"retryAfter": 0.01}, times=1),
    )
    assert [(await stand.create()).status_code for _ in range(2)] == [502, 429]
    assert (await stand.create(task={**TASK, "model": "n"})).status_code == 409


async def test_an_id_of_the_gateways_is_nothing_to_rely_on(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the upstream does not know it either, who sent none is not told that sending it again is safe."""
    stand = await start(honours=False)
    upstream.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=2))
    told = message(await stand.create(None), 502)
    assert "this upstream cannot be asked, so look there before you send it again." in told
    answer = await stand.create("r-1")
    assert (
        "so look there. With X-Request-ID r-1 it is not forwarded again; a new id creates anew. No webhook comes for "
        "it; register it with POST /v1/callbacks"
    ) in message(answer, 502)
    assert answer.headers["x-should-retry"] == "false"
    # As it says.
    assert "a new id creates anew" in message(await stand.create("r-1"), 409)
    assert (await stand.create("r-2")).status_code == 200


async def test_an_id_of_the_gateways_that_the_upstream_knows(start: Start, upstream: Upstream) -> None:
    """Who sent none is told the one that makes a repetition safe, and SDKs not to send it again without."""
    stand = await start()
    upstream.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=1))
    lost = await stand.create(None)
    own = lost.headers["x-request-id"]
    assert f"send the same request again with X-Request-ID: {own}" in message(lost, 502)
    assert lost.headers["x-should-retry"] == "false"
    assert (await stand.create(own)).status_code == 200
    assert upstream.paid == 1


async def test_an_own_id_lets_sdks_send_it_again_where_that_helps(start: Start, upstream: Upstream) -> None:
    """The repetition has it too, and the upstream knows it."""
    stand = await start()
    upstream.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=1))
    assert "x-should-retry" not in (await stand.create()).headers


DOUBT = [
    Fault(kind=FaultKind.ERROR, status=500, endpoint="createTask", times=1),
    Fault(kind=FaultKind.ERROR, status=408, endpoint="createTask", times=1),
    Fault(kind=FaultKind.HTML, status=502, endpoint="createTask", times=1),
    Fault(kind=FaultKind.HTML, status=503, endpoint="createTask", times=1),
]
NO_DOUBT = [
    Fault(kind=FaultKind.ERROR, status=503, endpoint="createTask", times=1),
    Fault(kind=FaultKind.ERROR, status=429, endpoint="createTask", data={"retryAfter": 0.01}, times=1),
    Fault(kind=FaultKind.ERROR, status=409, endpoint="createTask", times=1),
]


@pytest.mark.parametrize("fault", [*DOUBT, *NO_DOUBT], ids=lambda fault: f"{fault.kind}-{fault.status}")
async def test_sdks_do_not_pay_twice_for_an_upstreams_own_failure(
    start: Start, upstream: Upstream, fault: Fault
) -> None:
    """They are asked not to send it again where that may make a second task or could only be told 409, else not."""
    doubt = fault in DOUBT
    for honours, request_id, harmless in ((True, None, False), (True, "r-1", True), (False, "r-1", False)):
        stand = await start(honours=honours)
        upstream.faults.add(fault)
        answer = await stand.create(request_id)
        assert answer.status_code == fault.status
        assert answer.headers.get("x-should-retry") == ("false" if doubt and not harmless else None)


async def test_an_upstreams_own_word_on_sending_again_counts(start: Start) -> None:
    """It knows what it has done."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields = [(b"x-should-retry", b"true"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 500, "headers": fields})
        await send({"type": "http.response.body", "body": b'{"code":500,"msg":"m"}'})

    async with serve_asgi(app) as url:
        stand = await start(url=url)
        answer = await stand.create(None)
    assert (answer.status_code, answer.headers.get_list("x-should-retry")) == (500, ["true"])


@both
async def test_two_clients_share_no_id(start: Start, upstream: Upstream, honours: bool) -> None:
    """Each has its own task for it, and neither the other's answer."""
    stand = await start(honours=honours, GATEWAY_TOKEN="ann-ann-ann-ann-ann-ann")
    stand.client.headers["authorization"] = "Bearer ann-ann-ann-ann-ann-ann"
    first = await stand.create()
    (proxy,) = stand.gateway.api.proxies
    other = proxy._once.create("bob", "r-1", b"")
    assert await proxy._once.known(other, lambda: proxy._once.look(other)) is None
    assert (await stand.create()).content == first.content


async def test_a_large_answer_is_not_given_again(start: Start, upstream: Upstream) -> None:
    """It is not kept; the repetition is told which task there is, and nothing is forwarded."""
    stand = await start(honours=False)
    upstream.faults.add(Fault(kind=FaultKind.OVERSIZE, endpoint="createTask", size=16 * 1024, times=1))
    first = await stand.create()
    told = message(await stand.create(), 409)
    assert f"has got task {first.json()['data']['taskId']}" in told
    assert upstream.creates == 1


@both
async def test_an_answer_without_an_id_is_given_again_as_it_was(
    start: Start, upstream: Upstream, honours: bool
) -> None:
    """With a callback the same 502 that promises none, without one the upstream's own answer; told in the log once."""
    stand = await start(honours=honours)
    upstream.faults.add(Fault(kind=FaultKind.MISSING_DATA, endpoint="createTask", times=2))
    with capture_logs() as logs:
        answers = [await stand.create() for _ in range(2)]
    first, second = [message(answer, 502) for answer in answers]
    assert first == second
    assert {answer.headers["x-should-retry"] for answer in answers} == {"false"}
    assert "no webhook will come" in first
    assert [line["event"] for line in logs].count("proxy.created_without_id") == 1
    first_plain, second_plain = [await stand.create("r-2", url=None) for _ in range(2)]
    assert (first_plain.status_code, first_plain.content) == (200, second_plain.content)
    assert upstream.creates == 2


# A store that fails, a gateway that stops


async def test_nothing_is_forwarded_that_could_not_be_taken_down(start: Start, upstream: Upstream) -> None:
    """While the store fails a create that may be repeated is 503; its place in the rate limit is given back."""
    stand = await start(honours=False)
    registry: Any = stand.gateway.store.registry
    begin_create = registry.begin_create

    async def fails(_: object) -> bool:
        raise StoreError("disk full")

    registry.begin_create = fails
    told = message(await stand.create(), 503)
    assert "nothing was forwarded" in told
    registry.begin_create = begin_create
    assert (await stand.create()).status_code == 200
    assert upstream.creates == 1


@pytest.mark.parametrize("at_once", [True, False])
@both
async def test_who_comes_second_at_another_gateway_gets_its_answer(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, honours: bool, at_once: bool
) -> None:
    """Begun there between look and taking down, also while this one waited for its turn: it is forwarded once."""
    stand = await start(honours=honours)
    registry: Any = stand.gateway.store.registry
    begin = registry.begin_create
    theirs = b'{"code":200,"msg":"success","data":{"taskId":"theirs"}}'

    async def begun(create: NewCreate) -> bool:
        monkeypatch.undo()
        assert await begin(create)
        answer = CreateAnswer(status=200, content_type="application/json", task_id="theirs", body=theirs)
        await registry.end_create(create, answer, [])
        return await begin(create)  # type: ignore[no-any-return]

    async def later(_: object) -> bool:
        return at_once and await now(_)

    now = stand.gateway.api.proxies[0]._key.creates.acquire_now
    monkeypatch.setattr(stand.gateway.api.proxies[0]._key.creates, "acquire_now", later)
    monkeypatch.setattr(registry, "begin_create", begun)
    answer = await stand.create()
    assert (answer.status_code, answer.content) == (200, theirs)
    assert upstream.creates == 0


async def test_an_answer_is_kept_as_soon_as_that_is_possible(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store fails the answer is held back; then both are there, and the repetition gets it."""
    monkeypatch.setattr("gateway.api.creating._RETRY_S", (0.001,))
    stand = await start(honours=False)
    registry: Any = stand.gateway.store.registry
    end_create, tries = registry.end_create, []

    async def fails(*about: Any) -> Any:
        tries.append(about)
        if len(tries) < 3:
            raise StoreError("disk full")
        return await end_create(*about)

    registry.end_create = fails
    first = await stand.create(url=None)
    assert len(tries) == 3
    assert (await stand.create(url=None)).content == first.content
    assert upstream.creates == 1


async def test_a_repetition_that_waits_at_the_end_is_not_told_that_nothing_was_created(
    start: Start, upstream: Upstream
) -> None:
    """It was cut short while the first was under way: the id is the way to learn what became of it."""
    upstream.may_answer.clear()
    stand = await start(honours=False)
    transport = httpx.ASGITransport(stand.gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        here = Stand(stand.gateway, client)
        both = [asyncio.create_task(here.create())]
        await upstream.reached.wait()
        both.append(asyncio.create_task(here.create()))
        await stand.repetition_waits()
        stand.gateway.begin_drain()
        for one in both:
            one.cancel()
        answers = await asyncio.gather(*both)
    for answer in answers:
        assert "The task may have been created: send the same request again" in message(answer, 502)
    upstream.may_answer.set()
