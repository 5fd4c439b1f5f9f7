"""Operator events of real processes: told once whatever is killed, and handed on by the program of the manual."""

import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.openevents import EXAMPLES
from gateway.dashboard.manual.markdown import read_page
from gateway.receiver import OperatorEvent, UnknownBody, VerificationError, verify, verify_operator_event
from gateway.serve.asgi import serve_asgi
from gateway.signature import Signer, parse_secrets
from gateway.simulator import Fault, FaultKind
from gateway.webhook.eventbody import MANUAL
from tests.acceptance.test_blocks import block
from tests.crash.process import LIMIT_S, SECRET, run_gateway
from tests.manual import page
from tests.waiting import until

HASTY = ("tests.hasty_events",)


class Operator:
    """Whoever is told: verifies each event, and answers with ``status``."""

    def __init__(self) -> None:
        self.status = 204
        self.events: list[OperatorEvent] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.events.append(verify_operator_event(await request.body(), request.headers, SECRET))
        await Response(status_code=self.status)(scope, receive, send)

    async def told(self, type_: str) -> OperatorEvent:
        """Return the first event of a type, once it has come."""
        await until(lambda: any(event.type == type_ for event in self.events), LIMIT_S)
        return next(event for event in self.events if event.type == type_)


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    made = Operator()
    async with serve_asgi(made) as url:
        made.url = url
        yield made


def answering(world: Any, status: int) -> None:
    async def answer(_: str) -> int:
        return status

    world.receiver.on_post = answer


async def test_a_death_is_told_of_once_whoever_is_killed(world: Any, operator: Operator) -> None:
    """Killed once the death was on disk and nobody was told, and again while nobody takes the event."""
    answering(world, 410)
    environ = world.environ | {"GATEWAY_EVENTS_URL": f"{operator.url}/events", "GATEWAY_ATTEMPT_TIMEOUT_S": "2"}
    async with run_gateway(environ, world.folder, dies_at="recorded:1") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            callback = await world.register(client, "sim-success-300-dies")
        assert await gateway.ended() == -signal.SIGKILL
    assert operator.events == []
    operator.status = 503
    async with run_gateway(environ, world.folder, module=HASTY) as gateway:
        await until(lambda: operator.events, LIMIT_S)
        await gateway.kill()
    operator.status = 204
    async with run_gateway(environ, world.folder) as gateway:
        delivered = await gateway.event("event.delivered")
        assert await gateway.stop() == 0
    assert {event.webhook_id for event in operator.events} == {delivered["event_id"]}
    assert operator.events[-1].raw == operator.events[0].raw
    assert operator.events[0].callback_ids == (callback["id"],)
    assert (operator.events[0].type, operator.events[0].count) == ("callback.dead", 1)


async def test_what_fails_and_recovers_is_told_of(world: Any, operator: Operator, tmp_path: Path) -> None:
    """A receiver until its circuit breaker opens, and an upstream that refuses the key until there is another one."""
    key = tmp_path / "key"
    key.write_text("sk-old")
    answering(world, 500)
    environ = {
        "GATEWAY_EVENTS_URL": f"{operator.url}/events",
        "GATEWAY_UPSTREAM_API_KEY_FILE": str(key),
        "GATEWAY_RETRY_SCHEDULE": "0" + ",0.1" * 99,
    }
    async with run_gateway(world.environ | environ, world.folder, module=HASTY) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            for number in range(6):
                await world.register(client, f"sim-success-0-{number}")
            failing = await operator.told("receiver.failing")
            answering(world, 204)
            recovered = await operator.told("receiver.recovered")
            await world.register(client, "sim-never-0-waits")
            world.simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED))
            refused = await operator.told("upstream.refused")
            world.simulator.faults.clear()
            key.write_text("sk-new")
            gateway.process.send_signal(signal.SIGHUP)
            accepted = await operator.told("upstream.recovered")
        assert await gateway.stop() == 0
    assert failing.about == recovered.about == f"default {world.receiver.url}"
    assert refused.about == accepted.about == "aigptimage"
    assert [event.recovered for event in (failing, recovered, refused, accepted)] == [False, True, False, True]
    assert all(event.what_to_do for event in operator.events)
    assert set(Counter(event.type for event in operator.events).values()) == {1}
    assert "/events" not in "".join(gateway.text), "the URL may hold a key"


class Service:
    """Takes what Slack and PagerDuty are sent."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.posts.append((request.url.path, await request.json()))
        await JSONResponse({"status": "success"}, 202)(scope, receive, send)


async def test_the_program_of_the_manual_hands_events_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An incident opens and resolves under one key, chat has a line for each, and nobody else may send one."""
    service = Service()
    async with serve_asgi(service) as url:
        for name, value in {
            "SLACK_URL": f"{url}/slack",
            "PAGERDUTY_URL": f"{url}/pagerduty",
            "PAGERDUTY_KEY": "routing-key",
            "WEBHOOK_SECRET": SECRET,
        }.items():
            monkeypatch.setenv(name, value)
        program: dict[str, Any] = {}
        exec(compile(block("events", '"""Operator events to Slack'), "operator_events.py", "exec"), program)
        transport = httpx.ASGITransport(program["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://program") as client:
            for number, event in enumerate(EXAMPLES.values()):
                body, headers = signed(f"evt_{number}", event)
                assert (await client.post("/events", content=body, headers=headers)).status_code == 204
            forged = await client.post("/events", content=body + b" ", headers=headers)
    assert forged.status_code == 401
    assert [path for path, _ in service.posts] == ["/slack", "/pagerduty"] * 5
    incidents = [body for path, body in service.posts if path == "/pagerduty"]
    assert [body["event_action"] for body in incidents] == ["trigger", "trigger", "resolve", "trigger", "resolve"]
    keys = [body["dedup_key"] for body in incidents]
    assert (keys[1], keys[3]) == (keys[2], keys[4])
    assert len(set(keys)) == 3
    said = [body["text"] for path, body in service.posts if path == "/slack"]
    assert all("https://gateway.example.com/manual/" in text for text in said)


def signed(event_id: str, event: Any) -> tuple[bytes, dict[str, str]]:
    body = json.dumps(event).encode()
    return body, dict(Signer(parse_secrets(SECRET)).headers(event_id, int(time.time()), body))


def test_an_event_and_a_callbacks_webhook_are_not_taken_for_one_another() -> None:
    """Each function names the other; a signature that does not hold is refused by both."""
    body, headers = signed("evt_1", EXAMPLES["callback.dead"])
    with pytest.raises(UnknownBody, match=r"verify_operator_event\(\)"):
        verify(body, headers, SECRET)
    event = verify_operator_event(body, headers, SECRET)
    assert (event.webhook_id, event.count, event.dropped) == ("evt_1", 1, 0)
    body, headers = signed("cb_1", {"type": "task.succeeded", "data": {}})
    with pytest.raises(UnknownBody, match=r"verify\(\)"):
        verify_operator_event(body, headers, SECRET)
    with pytest.raises(VerificationError):
        verify_operator_event(body + b" ", headers, SECRET)


def test_each_link_leads_to_a_heading_or_a_row_of_the_manual() -> None:
    """What an event says is read by somebody who was woken."""
    for target in MANUAL.values():
        name, _, anchor = target.partition("#")
        assert f'id="{anchor}"' in read_page(name, page(name), lambda path: path).html, target


def test_the_manuals_example_is_an_event() -> None:
    """With the members that the document tells of, shortened."""
    event = json.loads(block("events", '{"type": "receiver.failing"'))
    assert event["data"].keys() == EXAMPLES["receiver.failing"]["data"].keys()
    assert {**event["data"], "whatToDo": ""} == {**EXAMPLES["receiver.failing"]["data"], "whatToDo": ""}
