"""The wall clock is set an hour forward or back while the gateway runs: all goes on at its pace. In virtual time."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from gateway.api.createrequest import CreateRequest
from gateway.api.creating import Outgoing
from gateway.api.proxied import Proxied
from gateway.api.proxy import UpstreamProxy
from gateway.api.registering import Registering
from gateway.core.claims import Lane
from gateway.core.creates import CreateAnswer
from gateway.core.errors import StoreError
from gateway.core.model import Callback, CallbackState, Format, Outcome, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.core.shares import Shares
from gateway.store.sqlite import sql
from gateway.upstream.answer import PollKind, PollResult
from gateway.webhook.sender import SendResult
from tests.lanes import well
from tests.life import Life, ScriptedSender, ScriptedUpstream, Transport, until
from tests.virtualtime import VirtualClock, run_virtual

HOUR_S = 3600.0
STEPS = pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
FAST = (RateWindow(1000, 1.0),)


class World:
    """A clock that can be set, an upstream whose tasks end when told, and a receiver that answers when told."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.path = folder / "db"
        self.ended: set[str] = set()
        self.status = 204
        self.polls: list[tuple[float, str]] = []
        self.posts: list[tuple[float, int]] = []  # when, and the timestamp that was signed
        self.bodies: list[bytes] = []

    async def poll(self, task_id: str, whose: str = "", **_: object) -> PollResult:
        self.polls.append((self.clock.monotonic(), task_id))
        await asyncio.sleep(0.05)
        if task_id in self.ended:
            return PollResult(
                kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}'), model="m"
            )
        return PollResult(kind=PollKind.RUNNING, model="m")

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        self.posts.append((self.clock.monotonic(), int(headers["webhook-timestamp"])))
        self.bodies.append(body)
        started_at = self.clock.now()
        await asyncio.sleep(0.1)
        failed = self.status != 204
        return SendResult(
            started_at=started_at,
            duration_ms=100,
            status_code=self.status,
            reason="status" if failed else None,
            error="The receiver answered." if failed else None,
            retry_after_s=None,
            excerpt=b"",
        )

    async def life(self, **options: Any) -> Life:
        options = {"rate": FAST, **options}
        upstream, sender = ScriptedUpstream(self.poll), ScriptedSender(self.send)
        return await Life(self.path, self.clock, upstream=upstream, sender=sender, **options).start()

    def polled_between(self, first_s: float, last_s: float, task_id: str | None = None) -> int:
        return sum(1 for at, polled in self.polls if first_s <= at < last_s and task_id in (None, polled))


async def state(life: Life, callback: Callback) -> CallbackState:
    return (await life.look(callback)).state


@STEPS
def test_polls_go_on_at_their_pace(step_s: float, tmp_path: Path) -> None:
    """Running tasks are polled as often after the step as before it; what ends is delivered within its minute."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        callbacks = [await life.register(f"t{number}") for number in range(25)]
        await asyncio.sleep(600)
        before = world.polled_between(300, 600)
        world.clock.step(step_s)
        await asyncio.sleep(300)
        after = world.polled_between(600, 900)
        assert 0.8 * before <= after <= 1.2 * before
        assert max(world.polled_between(at, at + 10) for at in range(600, 900)) <= 25
        world.ended = {f"t{number}" for number in range(25)}
        await asyncio.sleep(60)
        assert {await state(life, callback) for callback in callbacks} == {CallbackState.DELIVERED}
        assert len(world.posts) == 25
        assert life.claims == 0
        await life.stop()

    run_virtual(main())


@STEPS
def test_webhooks_are_tried_again_on_their_schedule(step_s: float, tmp_path: Path) -> None:
    """A hundred that failed come neither an hour late nor all at once; they are signed with the time it is now."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        world.status = 500
        world.ended = {f"t{number}" for number in range(100)}
        callbacks = [await life.register(f"t{number}", url=f"https://r{number}.example/hook") for number in range(100)]
        await until(lambda: len(world.posts) == 200)  # at once, and after 5 s: then after 5 minutes
        second_s = world.clock.monotonic()
        world.clock.step(step_s)
        await asyncio.sleep(290)
        assert len(world.posts) == 200
        world.status = 204
        await until(lambda: len(world.posts) == 300, limit_s=60)
        for at, signed_at in world.posts[200:]:
            assert 295 <= at - second_s <= 340
            now_s = (world.clock.now() - round((world.clock.monotonic() - at) * 1000)) // 1000
            assert abs(signed_at - now_s) <= 1
        await asyncio.sleep(10)
        assert {await state(life, callback) for callback in callbacks} == {CallbackState.DELIVERED}
        assert len(world.posts) == 300
        await life.stop()

    run_virtual(main())


@STEPS
def test_a_callback_lives_as_long_as_it_was_told_to(step_s: float, tmp_path: Path) -> None:
    """A budget of half an hour is half an hour: not over at once, and not an hour longer; ended tasks still count."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        short = await life.register("never", timeout_s=1800)
        ending = await life.register("ends", timeout_s=1800)
        await asyncio.sleep(60)
        world.clock.step(step_s)
        await asyncio.sleep(1680)
        assert await state(life, short) is CallbackState.WAITING
        world.ended = {"ends"}
        await asyncio.sleep(120)
        assert [await state(life, callback) for callback in (short, ending)] == [CallbackState.DELIVERED] * 2
        assert sum(b"task.abandoned" in body for body in world.bodies) == 1
        new = await life.register("later", timeout_s=600)
        await asyncio.sleep(590)
        assert await state(life, new) is CallbackState.WAITING
        await asyncio.sleep(30)
        assert await state(life, new) is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


@STEPS
def test_a_step_while_everything_is_in_flight(step_s: float, tmp_path: Path) -> None:
    """Polls and attempts that the step met half way are recorded with times that hold after it."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        world.status = 500
        world.ended = {f"t{number}" for number in range(20)}
        well(life.deliverer._bulkhead, *(Lane("", f"https://r{number}.example") for number in range(20)))
        running = [await life.register(f"r{number}") for number in range(20)]
        callbacks = [await life.register(f"t{number}", url=f"https://r{number}.example/hook") for number in range(20)]
        await until(lambda: len(world.posts) == 20, step_s=0.01)
        assert life.claims >= 20
        stepped_s = world.clock.monotonic()
        world.clock.step(step_s)
        await asyncio.sleep(30)
        assert len(world.posts) == 40
        assert all(4 <= at - stepped_s <= 7 for at, _ in world.posts[20:])
        assert all(world.polled_between(stepped_s, stepped_s + 30, f"r{number}") for number in range(20))
        world.status = 204
        world.ended |= {f"r{number}" for number in range(20)}
        await asyncio.sleep(400)
        states = {await state(life, callback) for callback in (*running, *callbacks)}
        assert states == {CallbackState.DELIVERED}
        await life.stop()

    run_virtual(main())


@STEPS
def test_a_step_that_cannot_be_stored_yet(step_s: float, tmp_path: Path) -> None:
    """While nothing can be written the old time goes on; with the first write that works everything has followed."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        callback = await life.register("never", timeout_s=1800)
        await asyncio.sleep(60)
        life.connection.broken = "disk I/O error"
        world.clock.step(step_s)
        await asyncio.sleep(60)
        with pytest.raises(StoreError):
            await life.register("refused")
        life.connection.broken = None
        asked = len(world.polls)
        await asyncio.sleep(60)
        assert len(world.polls) > asked
        await asyncio.sleep(1500)
        assert await state(life, callback) is CallbackState.WAITING
        await asyncio.sleep(180)
        assert await state(life, callback) is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


@STEPS
def test_what_comes_behind_a_step_that_cannot_be_stored(
    step_s: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A registration made while the step is being stored is refused with it: it would have moved with the next try."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        await life.register("never")
        await asyncio.sleep(60)
        follow, behind = life.store.follow_clock, []

        async def overtaken(step_ms: int) -> None:
            behind.append(asyncio.create_task(life.register("behind")))
            await follow(step_ms)

        with monkeypatch.context() as failing:
            failing.setattr(life.store, "follow_clock", overtaken)
            failing.setattr(sql, "MOVE_WEBHOOKS", "UPDATE absent SET x = :step")
            world.clock.step(step_s)
            await until(lambda: bool(behind) and all(task.done() for task in behind))
            assert {type(task.exception()) for task in behind} == {StoreError}
        callback = await life.register("behind", timeout_s=1800)
        await asyncio.sleep(1700)
        assert await state(life, callback) is CallbackState.WAITING
        assert world.polled_between(world.clock.monotonic() - 60, world.clock.monotonic(), "behind")
        await asyncio.sleep(200)
        assert await state(life, callback) is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


def test_a_clock_that_is_set_back_while_nothing_runs(tmp_path: Path) -> None:
    """What was due soon is due soon: polls, a retry, and the end of a budget; it is not made up for twice."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        world.status = 500
        world.ended = {"ended"}
        running, short, ended = [
            await life.register(task_id, timeout_s=timeout_s)
            for task_id, timeout_s in (("running", 86_400), ("short", 1800), ("ended", 86_400))
        ]
        await until(lambda: len(world.posts) == 2)  # the third attempt: five minutes later
        await life.stop()
        world.clock.step(-HOUR_S)
        written_ns = world.path.stat().st_mtime_ns + round(HOUR_S * 1e9)
        os.utime(world.path, ns=(written_ns, written_ns))
        for _ in range(2):
            life = await world.life()
            started_s = world.clock.monotonic()
            await asyncio.sleep(60)
            assert world.polled_between(started_s, started_s + 60, "running") > 1
            await life.stop()
        life = await world.life()
        world.status = 204
        world.ended |= {"running"}
        await asyncio.sleep(300)
        assert [await state(life, callback) for callback in (running, ended)] == [CallbackState.DELIVERED] * 2
        await asyncio.sleep(1000)
        assert await state(life, short) is CallbackState.WAITING
        await asyncio.sleep(600)
        assert await state(life, short) is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


def test_a_clock_that_is_set_back_just_before_the_end(tmp_path: Path) -> None:
    """Told to stop before its next round, a gateway follows first: the next start could not tell any more."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        world.status = 500
        world.ended = {"ended"}
        callback = await life.register("ended")
        await until(lambda: len(world.posts) == 2)  # the third attempt: five minutes later
        await asyncio.sleep(23.3)
        world.clock.step(-HOUR_S)
        await life.stop()
        life = await world.life()
        world.status = 204
        await asyncio.sleep(310)
        assert await state(life, callback) is CallbackState.DELIVERED
        await life.stop()

    run_virtual(main())


@STEPS
@pytest.mark.parametrize("path", ["", "/batch"])
def test_registrations_whose_urls_are_looked_up_meanwhile(path: str, step_s: float, tmp_path: Path) -> None:
    """They count from when they are stored: polled at once, and timed out when that was asked for."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()

        async def look_up(_: str) -> None:
            await asyncio.sleep(15)

        registering = Registering(
            life.store.registry,
            life.clock,
            life.metrics,
            check_url=look_up,
            first_poll_at={"up": lambda _, *about: life.timetable.first_poll_at(*about)},
            default_upstream="up",
        )
        handler = registering.register_batch if path else registering.register
        app = Starlette()
        app.state.shares = Shares()
        asked = {"taskId": "t", "callbackUrl": "https://app.example.com/hooks", "timeoutSeconds": 600}
        body = json.dumps({"callbacks": [asked]} if path else asked).encode()
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "headers": headers, "app": app, "client_name": ""}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        storing = asyncio.create_task(handler(Request(scope, receive)))
        await asyncio.sleep(0.5)
        world.clock.step(step_s)
        assert (await storing).status_code in (200, 201)
        stored_s = world.clock.monotonic()
        await asyncio.sleep(5)
        assert world.polled_between(stored_s, stored_s + 5)
        ((expires_at,),) = await life.store._database.read("SELECT expires_at FROM callbacks")
        assert abs(expires_at - life.clock.now() - 595_000) < 1000
        await life.stop()

    run_virtual(main())


@STEPS
def test_a_creates_registration_that_is_tried_again(step_s: float, tmp_path: Path) -> None:
    """While the disk is full its time is the time of the try: its task is polled at once when there is room."""

    async def main() -> None:
        asked: list[float] = []

        async def answer(_: httpx.Request) -> httpx.Response:
            asked.append(machine.monotonic())
            return httpx.Response(503)

        machine = VirtualClock()
        life = await Life(tmp_path / "db", machine, upstream=Transport(answer), rate=FAST).start()
        upstream = life.poller._upstream
        proxied = Proxied(
            registry=life.store.registry, clock=life.clock, metrics=life.metrics, upstream=upstream, key=life.key,
            timetable=life.timetable, poller_wake=asyncio.Event(), draining=asyncio.Event(),
            polls_here=lambda: True, recheck_s=15.0, has_replicas=False,
        )  # fmt: skip
        proxy = UpstreamProxy(proxied, life.store, callback_format=Format.RECORD, check_url=AsyncMock(), watch_s=60.0)
        life.connection.broken = "disk full"
        url = "https://app.example.com/hooks"
        one = Outgoing(
            asked=CreateRequest(body=b"", content_type="", model=None, callback=("callBackUrl", url)),
            target="", headers={}, client="", request_id="r", create=None, trace=None, again=False,
        )  # fmt: skip
        told = CreateAnswer(status=200, content_type=None, task_id="t", body=None)
        registering = asyncio.create_task(proxy._creating._register(one, "t", url, told))
        await asyncio.sleep(1)
        machine.step(step_s)
        await asyncio.sleep(20)
        life.connection.broken = None
        await registering
        stored_s = machine.monotonic()
        ((expires_at,),) = await life.store._database.read("SELECT expires_at FROM callbacks")
        assert abs(expires_at - life.clock.now() - 86_400_000) < 20_000
        await asyncio.sleep(60)
        assert asked
        assert asked[0] < stored_s + 60
        await life.stop()

    run_virtual(main())


def test_small_corrections_change_nothing_that_is_stored(tmp_path: Path) -> None:
    """What a time server does all day is followed as it comes."""

    async def main() -> None:
        world = World(tmp_path)
        life = await world.life()
        callback = await life.register("never")
        for _ in range(50):
            world.clock.step(1.0)
            await asyncio.sleep(20)
        assert (await life.look(callback)).expires_at == callback.expires_at
        assert life.clock.now() == world.clock.now()
        await life.stop()

    run_virtual(main())
