"""What the operator is told by webhook: whole gateways on real sockets, alone on a file and two on one PostgreSQL."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.core.eventledger import Ledger
from gateway.loops.operatorevents import OperatorEvents
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Fault, FaultKind, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.webhook import eventbody
from tests.jsonschema import faults
from tests.running import Running, running
from tests.unit.api.test_openapi import DOCUMENT
from tests.waiting import until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def _schema(type_: str) -> Any:
    content = DOCUMENT["webhooks"][type_]["post"]["requestBody"]["content"]
    return content["application/json"]["schema"]


class Peer:
    """A receiver that answers with ``status``, and keeps what comes once its signature has been verified."""

    def __init__(self) -> None:
        self.status = 204
        self.posts: list[tuple[str, Any]] = []
        self.bodies: list[tuple[str, bytes]] = []
        self.faults: list[str] = []
        """What comes and is not what ``/openapi.json`` says."""
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        standardwebhooks.Webhook(SECRET).verify(body, headers)
        self.posts.append((headers["webhook-id"], told := json.loads(body)))
        self.bodies.append((headers["webhook-id"], body))
        self.faults += faults(told, _schema(told["type"]), DOCUMENT["components"]["schemas"])
        await Response(status_code=self.status)(scope, receive, send)

    def of(self, type_: str) -> list[tuple[str, Any]]:
        return [(id_, body) for id_, body in self.posts if body["type"] == type_]

    async def told(self, type_: str, count: int = 1) -> Any:
        """Return the data of the so manieth event of a type, once it has come."""
        await until(lambda: len(self.of(type_)) >= count)
        return self.of(type_)[count - 1][1]["data"]


class Stand:
    """An upstream, a receiver, and whoever is told; as many gateways as the engine may have."""

    def __init__(self, stack: AsyncExitStack, folder: Path, database_url: str | None) -> None:
        self._stack = stack
        self._folder = folder
        self._environ = {} if database_url is None else {"GATEWAY_DATABASE_URL": database_url}
        self.simulator = SimulatedUpstream(SystemClock())
        self.receiver, self.operator = Peer(), Peer()
        self.upstream_url = ""
        self.gateways: list[Running] = []
        self.rounds: Counter[OperatorEvents] = Counter()

    async def start(self, stack: AsyncExitStack | None = None, **environ: str) -> list[Running]:
        count = 2 if self._environ else 1
        settings = {
            "GATEWAY_WEBHOOK_SECRET": SECRET,
            "GATEWAY_EVENTS_URL": f"{self.operator.url}/events?key=k",
            "GATEWAY_URL": "https://gateway.example.com",
            **self._environ,
            **environ,
        }
        self.gateways = [
            await (stack or self._stack).enter_async_context(running(self._folder, self.upstream_url, **settings))
            for _ in range(count)
        ]
        return self.gateways

    async def register(self, *task_ids: str) -> list[str]:
        """Register with each gateway by turns."""
        return [
            await self.gateways[number % len(self.gateways)].registered(task_id, f"{self.receiver.url}/hooks")
            for number, task_id in enumerate(task_ids)
        ]

    async def looked(self) -> None:
        """Return once each gateway has looked so often for what is to be told that it would have told more of it."""
        before = Counter(self.rounds)
        await until(lambda: sum(count >= 6 for count in (self.rounds - before).values()) == len(self.gateways))

    async def state(self, callback_id: str, wanted: str) -> None:
        path = f"/v1/callbacks/{callback_id}"
        await self.gateways[0].becomes(path, lambda answer: answer.json()["state"] == wanted)


async def emptied(one: Running) -> Ledger | None:
    """Return what is kept of events, once none of them waits."""
    ledger = await one.gateway.store.events.read()
    return None if ledger.waiting else ledger


@pytest.fixture(params=["sqlite", "postgres"])
async def stand(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stand]:
    """In a hurry: what is told after a minute is told after a fifth of a second."""
    monkeypatch.setattr("gateway.core.eventledger._FIRST_MS", 50)
    monkeypatch.setattr("gateway.core.eventledger._SETTLE_MS", 200)
    monkeypatch.setattr("gateway.loops.operatorevents._ROUND_S", 0.05)
    monkeypatch.setattr("gateway.upstream.key._PROBE_S", (0.2,))
    url = request.getfixturevalue("postgres").url if request.param == "postgres" else None
    run_once = OperatorEvents.run_once

    async def counted(loop: OperatorEvents) -> float:
        next_s = await run_once(loop)
        made.rounds[loop] += 1
        return next_s

    monkeypatch.setattr(OperatorEvents, "run_once", counted)
    async with AsyncExitStack() as stack:
        made = Stand(stack, tmp_path, url)
        made.upstream_url = await stack.enter_async_context(serve_simulator(made.simulator))
        for peer in (made.receiver, made.operator):
            peer.url = await stack.enter_async_context(serve_asgi(peer))
        yield made
    assert made.operator.faults == []


async def test_a_receiver_that_fails_and_recovers_is_told_of_once_each(stand: Stand) -> None:
    """However many replicas find it out, with counts, a link and what to do; and nobody else is."""
    stand.receiver.status = 500
    await stand.start()
    callbacks = await stand.register(*(f"sim-success-0-{n}" for n in range(8)))
    failing = await stand.operator.told("receiver.failing")
    assert failing["receiver"] == stand.receiver.url
    assert (failing["client"], failing["count"]) == ("default", 1)
    assert 1 <= failing["pending"] <= 8
    assert failing["failures"] >= 5
    assert "answered 500" in failing["lastError"]
    assert failing["manual"].startswith("https://gateway.example.com/manual/")
    assert failing["whatToDo"]
    for one in stand.gateways:  # each of them finds it out: what is due at once it sends itself
        callbacks.append(await one.registered("sim-success-0-0", f"{stand.receiver.url}/{len(callbacks)}"))
        await one.becomes("/metrics", lambda answer: "gateway_receivers_failing 1.0" in answer.text)
    await stand.looked()
    stand.receiver.status = 204
    recovered = await stand.operator.told("receiver.recovered")
    assert (recovered["receiver"], recovered["dead"]) == (stand.receiver.url, 0)
    assert recovered["failedSince"]
    for callback_id in callbacks:
        await stand.state(callback_id, "delivered")
    assert Counter(body["type"] for _, body in stand.operator.posts) == {"receiver.failing": 1, "receiver.recovered": 1}


async def test_a_receiver_that_recovers_after_a_restart_is_told_of(stand: Stand) -> None:
    """The next life knows what the last one told."""
    stand.receiver.status = 500
    async with AsyncExitStack() as stack:
        await stand.start(stack)
        await stand.register(*(f"sim-success-0-{n}" for n in range(6)))
        await stand.operator.told("receiver.failing")
    stand.receiver.status = 204
    await stand.start()
    await stand.operator.told("receiver.recovered")
    assert len(stand.operator.of("receiver.failing")) == 1


async def test_callbacks_that_die_together_are_one_event(stand: Stand) -> None:
    """A receiver that wants no more answers 410: each is dead at once."""
    stand.receiver.status = 410
    await stand.start()
    callbacks = await stand.register(*(f"sim-success-300-{n}" for n in range(12)))
    for callback_id in callbacks:
        await stand.state(callback_id, "dead")
    await until(lambda: bool(stand.operator.of("callback.dead")))
    dead = await stand.operator.told("callback.dead")
    assert dead["client"] == "default"
    assert dead["receiver"] == stand.receiver.url
    assert 1 <= dead["count"] <= 12
    assert set(dead["callbackIds"]) <= set(callbacks)
    assert len(dead["callbackIds"]) == min(dead["count"], 10)
    assert "410" in dead["lastError"]
    ledger = await stand.gateways[0].gateway.store.events.read()
    waiting = sum(event.data["count"] for event in ledger.waiting if event.type == "callback.dead")
    assert dead["count"] + waiting == 12, "each is told of once, now or with the next ones"
    assert len(stand.operator.of("callback.dead")) == 1


async def test_a_refused_key_and_its_recovery_are_told_of_once_each(stand: Stand) -> None:
    """By the replica that polls, with how many tasks wait for it."""
    await stand.start()
    await stand.register("sim-never-0-a", "sim-never-0-b")
    stand.simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED))
    refused = await stand.operator.told("upstream.refused")
    assert (refused["upstream"], refused["tasksWaiting"]) == ("aigptimage", 2)
    assert refused["lastError"]
    await stand.looked()
    stand.simulator.faults.clear()
    recovered = await stand.operator.told("upstream.recovered")
    assert (recovered["upstream"], recovered["tasksWaiting"]) == ("aigptimage", 2)
    assert [body["type"] for _, body in stand.operator.posts] == ["upstream.refused", "upstream.recovered"]


async def test_a_key_that_is_refused_beyond_a_restart_is_told_of_once(stand: Stand) -> None:
    """That nothing is known yet of the key at a start is no recovery."""
    async with AsyncExitStack() as stack:
        await stand.start(stack)
        await stand.register("sim-never-0-a")
        stand.simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED))
        await stand.operator.told("upstream.refused")
    first, *_ = await stand.start()
    refused = 'gateway_upstream_refused{upstream="aigptimage"} 1.0'
    await first.becomes("/metrics", lambda answer: refused in answer.text)
    await stand.looked()
    stand.simulator.faults.clear()
    await stand.operator.told("upstream.recovered")
    assert [body["type"] for _, body in stand.operator.posts] == ["upstream.refused", "upstream.recovered"]


async def test_events_that_do_not_get_through_are_seen_and_make_no_event(stand: Stand) -> None:
    """They are sent again with the same id and bytes; meanwhile readiness, metrics and pages tell of it."""
    stand.receiver.status = 410
    stand.operator.status = 503
    first, *_ = await stand.start()
    (callback,) = await stand.register("sim-success-0-a")
    await stand.state(callback, "dead")
    await until(lambda: len(stand.operator.posts) >= 3)
    assert len({id_ for id_, _ in stand.operator.posts}) == 1
    assert all(post == stand.operator.posts[0] for post in stand.operator.posts)
    for gateway in stand.gateways:
        ready = await gateway.becomes(
            "/readyz", lambda answer: answer.json()["reasons"] == ["operator events do not get through"]
        )
        assert ready.status_code == 200
    metrics = await first.becomes("/metrics", lambda answer: "gateway_events_failing 1.0" in answer.text)
    assert "gateway_events_waiting 1.0" in metrics.text
    page = (await first.client.get("/")).text
    assert "Operator events do not get through: 127.0.0.1:" in page
    assert "answered 503: look into the events URL server&#39;s log" in page
    stand.operator.status = 204
    await first.becomes("/readyz", lambda answer: answer.json()["reasons"] == [])
    assert len({id_ for id_, _ in stand.operator.posts}) == 1, "and nothing else was told"
    told = [(await gateway.client.get("/metrics")).text for gateway in stand.gateways]
    assert sum('gateway_events_total{result="sent"} 1.0' in text for text in told) == 1


async def test_an_event_is_given_up_after_its_last_attempt(stand: Stand) -> None:
    """As any webhook: it waits no longer and is counted, and nothing is said to be held up where nothing waits."""
    stand.receiver.status = 410
    stand.operator.status = 500
    await stand.start(GATEWAY_RETRY_SCHEDULE="0,0.05,0.05")
    (callback,) = await stand.register("sim-success-0-a")
    await stand.state(callback, "dead")
    await until(lambda: len(stand.operator.posts) == 3)
    for gateway in stand.gateways:
        await gateway.becomes("/metrics", lambda answer: "gateway_events_waiting 0.0" in answer.text)
    await until(lambda: emptied(stand.gateways[0]))  # the last attempt's end is written after its answer
    for gateway in stand.gateways:
        await gateway.becomes("/metrics", lambda answer: "gateway_events_failing 0.0" in answer.text)
        await gateway.becomes("/readyz", lambda answer: answer.json()["reasons"] == [])
    told = [(await gateway.client.get("/metrics")).text for gateway in stand.gateways]
    assert sum('gateway_events_total{result="failed"} 1.0' in text for text in told) == 1
    assert len(stand.operator.posts) == 3


async def test_whoever_was_away_for_long_is_told_soon(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are made between those of the schedule, whose last ones are many hours apart."""
    monkeypatch.setattr("gateway.app.events._LONGEST_WAIT_S", 0.1)
    stand.receiver.status = 410
    stand.operator.status = 503
    first, *_ = await stand.start(GATEWAY_RETRY_SCHEDULE="0,3600")
    await stand.register("sim-success-0-a")
    await until(lambda: len(stand.operator.posts) >= 4)
    stand.operator.status = 204
    await until(lambda: emptied(first))


async def test_without_a_url_nothing_is_kept(stand: Stand) -> None:
    """The default: no loop, no write, no event."""
    stand.receiver.status = 410
    await stand.start(GATEWAY_EVENTS_URL="")
    (callback,) = await stand.register("sim-success-0-a")
    await stand.state(callback, "dead")
    for gateway in stand.gateways:
        assert await gateway.gateway.store.load("events") is None
        assert 'gateway_loop_restarts_total{loop="events"}' not in (await gateway.client.get("/metrics")).text


async def test_an_event_that_is_sent_again_has_the_same_bytes(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words and its link too, though who sends it again has others: after an upgrade, with another GATEWAY_URL."""
    schedule = ",".join(["0", *["0.2"] * 200])
    stand.receiver.status, stand.operator.status = 410, 500
    async with AsyncExitStack() as before:
        await stand.start(before, GATEWAY_RETRY_SCHEDULE=schedule)
        await stand.register("sim-success-0-a")
        await until(lambda: bool(stand.operator.bodies))
    sent = len(stand.operator.bodies)
    monkeypatch.setitem(eventbody.WHAT_TO_DO, "callback.dead", "Something else.")  # type: ignore[arg-type]
    stand.operator.status = 204
    await stand.start(GATEWAY_RETRY_SCHEDULE=schedule, GATEWAY_URL="https://elsewhere.example.com")
    await until(lambda: len(stand.operator.bodies) > sent)
    assert len(set(stand.operator.bodies)) == 1
    assert (await stand.operator.told("callback.dead"))["manual"].startswith("https://gateway.example.com/")
