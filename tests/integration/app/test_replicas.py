"""Whole gateways side by side on one PostgreSQL: one polls, all answer and deliver, and one takes over from another."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Fault, FaultKind, Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.store.postgres import session
from gateway.store.postgres.copyside import PostgresCopySide
from tests.integration.app.test_clients import Hooks
from tests.postgres import Database
from tests.running import LIMIT_S, Running, running
from tests.waiting import a_moment, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Upstream(SimulatedUpstream):
    """The simulator, which may hold back what it answers to its next read: what was so when that came."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.holds = False
        self.held, self.may_answer = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def later(message: Any) -> None:
            self.held.set()
            await self.may_answer.wait()
            await send(message)

        holds, self.holds = self.holds, False
        await super().__call__(scope, receive, later if holds else send)


class Stand:
    """An upstream, a receiver, and as many replicas as are asked for."""

    hooks: Hooks
    upstream_url: str

    def __init__(self, stack: AsyncExitStack, folder: Path, database: Database) -> None:
        self._stack = stack
        self._folder = folder
        self._database = database
        self.simulator = Upstream()

    async def replica(self, stack: AsyncExitStack | None = None, **environ: str) -> Running:
        return await (stack or self._stack).enter_async_context(
            running(
                self._folder,
                self.upstream_url,
                **{
                    "GATEWAY_DATABASE_URL": self._database.url,
                    "GATEWAY_WEBHOOK_SECRET": SECRET,
                    "GATEWAY_DRAIN_S": "5",
                    **environ,
                },
            )
        )


def leads(replica: Running) -> bool:
    return replica.gateway.watches[0].poller.lease.current is not None


@pytest.fixture
async def stand(tmp_path: Path, postgres: Database) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        made = Stand(stack, tmp_path, postgres)
        made.upstream_url = await stack.enter_async_context(serve_simulator(made.simulator))
        made.hooks = Hooks()
        made.hooks.url = await stack.enter_async_context(serve_asgi(made.hooks))
        yield made


async def test_one_replica_polls_and_all_answer(stand: Stand) -> None:
    """What is registered with the one that does not poll is delivered as fast; either tells of it, held reads too."""
    first = await stand.replica()
    await until(lambda: leads(first))
    second = await stand.replica()
    for number, replica in enumerate([second, first] * 3):
        task_id = f"sim-success-300-{number}"
        callback_id = await replica.registered(task_id, stand.hooks.url)
        other = first if replica is second else second
        told = (await other.client.get(f"/v1/tasks/{task_id}?wait=10")).json()
        assert told["state"] == "success"
        await other.delivered(callback_id)
    assert (leads(first), leads(second)) == (True, False)
    for replica, polls in ((first, True), (second, False)):
        metrics = (await replica.client.get("/metrics")).text
        assert f'gateway_leading{{upstream="aigptimage"}} {float(polls)}' in metrics
        ready = await replica.client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (200, [])


async def test_the_other_polls_when_one_is_stopped(stand: Stand) -> None:
    """At once, whatever was under way; what the first had learned is known."""
    async with AsyncExitStack() as stack:
        first = await stand.replica(stack)
        await until(lambda: leads(first))
        second = await stand.replica()
        callbacks = [await first.registered(f"sim-success-{number * 200}-x", stand.hooks.url) for number in range(10)]
        stopping = asyncio.create_task(stack.aclose())
        await until(lambda: leads(second))
        await asyncio.wait_for(stopping, LIMIT_S)
    for callback_id in callbacks:
        await second.delivered(callback_id)


async def test_reads_are_answered_by_who_does_not_poll(stand: Stand) -> None:
    """A program that reads is told of a task's end by either, and costs one stream of polls."""
    first = await stand.replica()
    await until(lambda: leads(first))
    second = await stand.replica()
    path = "/api/v1/jobs/recordInfo?taskId=sim-success-500-read"
    told: Any = None
    async with asyncio.timeout(LIMIT_S):
        while told is None or told["data"]["state"] != "success":
            answers = await asyncio.gather(first.client.get(path), second.client.get(path))
            told = answers[1].json()
            await a_moment()
    assert isinstance(answers[0], httpx.Response)
    await first.becomes(path, lambda answer: answer.json()["data"]["state"] == "success")


async def test_what_alerts_of_replicas_are_made_of(stand: Stand, postgres: Database) -> None:
    """A webhook that another has claimed meanwhile: GatewayStaleWrites. One leads that never polls: GatewayNobodyPolls.

    As after a replica that stood still past its leases, and beside one that is cut off once it leads.
    """
    called, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await may_answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serve_asgi(slow) as url:
        first = await stand.replica()
        second = await stand.replica()
        await first.registered("sim-success-0-x", url)
        await asyncio.wait_for(called.wait(), LIMIT_S)
        await asyncio.to_thread(postgres.execute, "UPDATE callbacks SET fence = fence + 1")
        may_answer.set()
        await shows(lambda metrics: "gateway_stale_writes_total 1.0" in metrics, first, second)
    leading = 'gateway_leading{upstream="aigptimage"} 1.0'
    await shows(lambda metrics: leading in metrics, first, second)
    await asyncio.to_thread(postgres.execute, "UPDATE leads SET holder = 'another', epoch = epoch + 1")
    await shows(lambda metrics: leading not in metrics, first, second)


async def shows(condition: Callable[[str], bool], *replicas: Running) -> None:
    """Wait until a condition holds of the metrics of all of them."""

    async def holds() -> bool:
        return condition("".join([(await replica.client.get("/metrics")).text for replica in replicas]))

    await until(holds)


async def test_an_end_that_one_replica_is_told_all_tell(stand: Stand) -> None:
    """Also where the one that polls is answered afterwards what was so before; and the webhook goes out at once."""
    simulator = stand.simulator
    simulator.add_task("t", Plan(outcome="never"))
    first = await stand.replica()
    await until(lambda: leads(first))
    second = await stand.replica()
    callback_id = await first.registered("t", stand.hooks.url)
    await first.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["task"]["polls"] > 0)
    simulator.holds = True
    await asyncio.wait_for(simulator.held.wait(), LIMIT_S)
    simulator.add_task("t", Plan())

    async def tells(replica: Running) -> str:
        answer = await replica.client.get("/api/v1/jobs/recordInfo?taskId=t")
        return str(answer.json()["data"]["state"])

    assert await tells(second) == "success"
    simulator.may_answer.set()
    delivered = asyncio.create_task(second.delivered(callback_id))
    while not delivered.done():
        assert [await tells(replica) for replica in (first, second)] == ["success", "success"]
    await delivered


async def test_a_refused_key_is_so_at_every_replica(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever polls finds it out, the next one too; the others are as unready, and forward no read meanwhile."""
    monkeypatch.setattr("gateway.upstream.key._PROBE_S", (0.3,))
    async with AsyncExitStack() as stack:
        first = await stand.replica(stack)
        await until(lambda: leads(first))
        second = await stand.replica()
        stand.simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED, endpoint="recordInfo"))
        await first.registered("sim-success-0-x", stand.hooks.url)
        for replica in (first, second):
            await replica.becomes("/readyz", lambda answer: answer.status_code == 503)
            ready = (await replica.client.get("/readyz")).json()
            assert ready["reasons"] == ["the upstream aigptimage refuses the key"]
            assert 'gateway_upstream_refused{upstream="aigptimage"} 1.0' in (await replica.client.get("/metrics")).text
        path = "/api/v1/jobs/recordInfo?taskId=sim-success-0-y"
        refused = await second.client.get(path)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert "sim-success-0-y" not in stand.simulator.stats.polls
    await until(lambda: leads(second))
    assert (await second.client.get("/readyz")).status_code == 503
    stand.simulator.faults.clear()
    await second.becomes("/readyz", lambda answer: answer.status_code == 200)
    assert (await second.client.get(path)).status_code == 200


async def test_a_task_that_is_denied_is_so_at_every_replica(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that polls finds it out; each forwards its reads from then on, until one of them is told of it."""
    monkeypatch.setattr("gateway.upstream.troubled._DENIED_AFTER_S", 0.2)
    first = await stand.replica()
    await until(lambda: leads(first))
    second = await stand.replica()
    path = "/api/v1/jobs/recordInfo?taskId=sim-never-0-x"
    for replica in (first, second):
        assert (await replica.client.get(path)).json()["data"]["state"] == "waiting"
    denial = Fault(kind=FaultKind.ERROR, status=404, endpoint="recordInfo", task_id="sim-never-0-x")
    stand.simulator.faults.add(denial)
    await second.becomes(path, lambda answer: answer.status_code == 404)
    await first.becomes(path, lambda answer: answer.status_code == 404)
    stand.simulator.faults.clear()
    assert (await second.client.get(path)).json()["data"]["state"] == "waiting"
    await first.becomes(path, lambda answer: answer.status_code == 200)


async def test_a_row_that_somebody_holds_is_one_clients_trouble(
    stand: Stand, postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's forgotten transaction: who needs the row is told to come again, all others are answered."""
    monkeypatch.setitem(session._LIMITS, "lock_timeout", "400ms")
    replica = await stand.replica()
    await replica.registered("sim-never-0-held", stand.hooks.url)
    operator = await asyncpg.connect(postgres.url)
    try:
        await operator.execute("BEGIN; SELECT FROM tasks FOR UPDATE")
        tasks = [f"sim-success-0-{number}" for number in range(8)]
        url = f"{stand.hooks.url}/second"
        *answers, held = await asyncio.gather(*(replica.register(task, url) for task in (*tasks, "sim-never-0-held")))
        assert [answer.status_code for answer in answers] == [201] * 8
        assert (held.status_code, held.headers["retry-after"]) == (503, "5")
        items = [{"taskId": task, "callbackUrl": f"{url}/3"} for task in ("sim-never-0-held", *tasks)]
        batch = (await replica.client.post("/v1/callbacks/batch", json={"callbacks": items})).json()["data"]
        assert [one["status"] for one in batch] == [503, *[201] * 8]
        assert (await replica.client.get("/readyz")).status_code == 200
    finally:
        await operator.close()
    answer = await replica.register("sim-never-0-held", f"{stand.hooks.url}/second")
    assert answer.status_code == 201


async def test_a_replica_that_is_stopped_leaves_its_database_to_be_copied(stand: Stand, postgres: Database) -> None:
    """At once: nothing says any more that somebody is at work on it."""
    async with AsyncExitStack() as stack:
        replica = await stand.replica(stack)
        await until(lambda: leads(replica))
        await replica.delivered(await replica.registered("sim-success-0-x", stand.hooks.url))
    side = PostgresCopySide(postgres.url)
    await side.open_source()
    await side.close()


async def test_all_together_keep_to_the_keys_limit(stand: Stand) -> None:
    """Four replicas that poll and forward as fast as they may, also while one is stopped and another takes over."""
    rate = {"GATEWAY_UPSTREAM_RATE": "30/1"}
    async with AsyncExitStack() as first_stack:
        first = await stand.replica(first_stack, **rate)
        await until(lambda: leads(first))
        others = [await stand.replica(**rate) for _ in range(3)]
        for number in range(60):
            await first.registered(f"sim-success-60000-{number}", stand.hooks.url)

        async def read(replica: Running, name: str) -> int:
            """Ask for tasks of which nothing is known; return how many reads the upstream answered."""
            statuses = []
            for number in range(25):
                answer = await replica.client.get(f"/api/v1/jobs/recordInfo?taskId=sim-success-60000-{name}{number}")
                statuses.append(answer.status_code)
            return statuses.count(200)

        reading = asyncio.gather(*(read(replica, f"r{place}-") for place, replica in enumerate(others)))
        await until(lambda: stand.simulator.stats.requests["recordInfo"] > 60)
        await first_stack.aclose()
        await until(lambda: any(leads(replica) for replica in others))
        answered = await asyncio.wait_for(reading, 4 * LIMIT_S)
    assert stand.simulator.stats._rates["recordInfo"].peak <= 30
    assert min(answered) > 5, "each has its part"
