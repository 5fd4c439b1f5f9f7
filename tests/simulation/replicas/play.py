"""Plays one scenario: whole gateways on one PostgreSQL, in virtual time, each with its own clock and its own troubles.

Owns the course of a run: who registers where, what happens when and to whom, and that afterwards all is well until
nothing is owed.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import msgspec

from gateway.config.load import load
from gateway.config.settings import Settings
from tests.life import FORGETS, SECRET
from tests.simulation.replicas.cluster import Cluster
from tests.simulation.replicas.driver import Network
from tests.simulation.replicas.laws import WINDOWS, Laws
from tests.simulation.replicas.loops import Time
from tests.simulation.replicas.machines import Machine, wired
from tests.simulation.replicas.scenario import (
    LENGTH_S,
    OPERATOR,
    REPLICAS,
    WHOEVER,
    Reader,
    Registration,
    Scenario,
    Trouble,
)
from tests.simulation.replicas.world import Mood, World
from tests.simulation.telling import progress_of

__all__ = ["play"]

MOMENT_S = 10.0
"""So long a moment is waited for."""
DRAIN_S = 5.0
QUIET_S = 1500.0
"""Within so long after the last trouble everything must be over: every time-out, a new leader's grace, every retry."""
AFTER_S = 5.0
"""Whoever stood still to the end has gone on by then."""
OWED = "SELECT count(*) FROM callbacks WHERE state IN ('waiting', 'pending')"
READ = "SELECT state, record FROM tasks WHERE task_id = '{}'"
CALLBACKS = "SELECT c.*, t.task_id FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq"


def play(scenario: Scenario, cluster: Cluster) -> Laws:
    """Play a scenario to its end; raises AssertionError where a law is broken."""
    return _Run(scenario, cluster).play()


def _settings(url: str, *, honours: bool) -> Settings:
    settings = load(
        {
            "GATEWAY_DATABASE_URL": url,
            "GATEWAY_WEBHOOK_SECRET": SECRET,
            "GATEWAY_UPSTREAM_URL": "https://up.example",
            "GATEWAY_UPSTREAM_RATE": ",".join(f"{limit}/{length_s:g}" for limit, length_s in WINDOWS),
            "GATEWAY_CALLBACK_ALLOW": "10.0.0.0/8",
            "GATEWAY_RETRY_SCHEDULE": "1,5,20,60",
            "GATEWAY_ATTEMPT_TIMEOUT_S": "6",
            "GATEWAY_DRAIN_S": f"{DRAIN_S:g}",
            "GATEWAY_EVENTS_URL": f"http://10.0.0.{OPERATOR}/events",
        }
    )
    if honours:
        return settings
    (upstream,) = settings.upstreams
    return msgspec.structs.replace(settings, upstreams=(msgspec.structs.replace(upstream, profile=FORGETS),))


class _Run:
    def __init__(self, scenario: Scenario, cluster: Cluster) -> None:
        self.scenario = scenario
        self.cluster = cluster
        self.rng = random.Random(scenario.seed)
        self.time = Time(self.rng)
        self.home = self.time.loop()
        self.world = World(scenario, self.time, self.rng)
        self.network = Network(self.time, cluster, self.rng, self.home)
        settings = _settings(cluster.url, honours=scenario.honours)
        self.machines = [Machine(number, self.world, self.network, settings) for number in range(REPLICAS)]
        self.laws = Laws(self.world, self.network, self.machines)
        self.moments: dict[str, list[tuple[str, asyncio.Future[str]]]] = {}
        """By moment, whose it is to be (empty: anybody's), and who waits for it and is told whose it was."""
        self.world.at = self._moment
        self.promised: set[str] = set()
        self.made: set[int] = set()
        self.created: set[str] = set()
        cluster.now = self.world.now

    def play(self) -> Laws:
        self.cluster.empty()
        try:
            with wired(self.world, self.network, self.machines, self.rng):
                try:
                    self.time.run(self.home, self._play())
                finally:
                    for machine in self.machines:
                        machine.end()
                    self.time.work.append(lambda: self.time.end(self.home))
                    self.time.finish()
        finally:
            self.time.finish()
        return self.laws

    async def _play(self) -> None:
        for machine in self.machines:
            self._start(machine)
        watching = asyncio.create_task(self._watch())
        work: list[Coroutine[Any, Any, None]] = [self._client(wish) for wish in self.scenario.registrations]
        work += [self._reader(wish) for wish in self.scenario.readers]
        work += [self._trouble(trouble) for trouble in self.scenario.troubles]
        left = {watching, *(asyncio.create_task(one) for one in work)}
        while len(left) > 1:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        async with asyncio.timeout(QUIET_S):
            await asyncio.sleep(AFTER_S)
            while (await self._ask(lambda: self.cluster.query(OWED)))[0][0]:
                await asyncio.sleep(5)
                if watching.done():
                    watching.result()
        watching.cancel()
        changes, callbacks = (
            await self._ask(self.cluster.changes),
            await self._ask(lambda: self.cluster.query(CALLBACKS)),
        )
        self.laws.at_the_end(self.promised, self.created, changes, callbacks)

    async def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask the database, while the time stands still."""
        answered = self.home.create_future()
        self.time.work.append(lambda: answered.set_result(question()))
        return await answered

    async def _watch(self) -> None:
        while True:
            self.laws.every_second()
            await asyncio.sleep(1)

    def _start(self, machine: Machine) -> None:
        machine.start()
        assert machine.link is not None
        life = machine.life
        machine.link.at = lambda moment: self._moment(life, moment)

    # Clients

    async def _client(self, wish: Registration) -> None:
        await asyncio.sleep(wish.at_s)
        body = {
            "taskId": self.world.begin(wish.task),
            "callbackUrl": f"http://10.0.0.{wish.receiver + 1}/hook/{wish.timeout_s}",
            "timeoutSeconds": wish.timeout_s,
        }

        async def register(client: httpx.AsyncClient) -> httpx.Response:
            return await client.post("/v1/callbacks", json=body)

        while True:
            answer = await self.rng.choice(self.machines).call(register, wish.patience_s)
            if answer is not None and answer.status_code in (200, 201):
                self.promised.add(answer.json()["id"])
                return
            assert answer is None or answer.status_code == 503, (answer.status_code, answer.text)
            await asyncio.sleep(0.5)
            if wish.patience_s < 1 and self.time.now_s > LENGTH_S:
                return  # it never waits long enough: what it asked for may be there all the same

    async def _reader(self, wish: Reader) -> None:
        await asyncio.sleep(wish.at_s)
        task_id = f"task-{wish.task}"
        if not wish.creates:
            self.world.begin(wish.task)

        async def create(client: httpx.AsyncClient) -> httpx.Response:
            body = {"model": "m", "input": {"task": wish.task}, "callBackUrl": "http://10.0.0.1/hook"}
            headers = {"x-request-id": f"create-{wish.task}"}
            return await client.post("/api/v1/jobs/createTask", json=body, headers=headers)

        async def read(client: httpx.AsyncClient) -> httpx.Response:
            return await client.get("/api/v1/jobs/recordInfo", params={"taskId": task_id})

        while wish.creates and wish.task not in self.made:
            answer = await self.rng.choice(self.machines).call(create, 10.0)
            if answer is not None and answer.status_code == 200 and answer.json().get("code") == 200:
                self.made.add(wish.task)
                self.created.add(task_id)
            if answer is not None and answer.headers.get("x-should-retry") == "false":
                assert not self.scenario.honours, (answer.text, "is left in doubt, and the upstream knows")
                return
            await asyncio.sleep(1.0)
            if self.time.now_s > LENGTH_S:
                return
        for _ in range(wish.times):
            machine = self.rng.choice(self.machines)
            rows = await self._ask(lambda: self.cluster.query(READ.format(task_id)))
            state, record = rows[0] if rows else (None, None)
            stored = progress_of(record if state == "waiting" else None)
            life, look = machine.life, self.world.telling.begin(task_id, state, stored, self.time.now_s)
            if (answer := await machine.call(read, 10.0)) is not None:
                self.laws.told(look, life, answer)
            await asyncio.sleep(wish.every_s)
            if self.time.now_s > LENGTH_S:
                return

    # Troubles

    def _moment(self, life: str, moment: str) -> None:
        """Let it be now for whoever waits for it: the loop stands still until what is to happen has."""
        for whose, future in self.moments.pop(moment, []):
            machine = self.machines[int(life.partition(".")[0])]
            if future.done():
                continue
            if machine.life != life or machine.loop is None or (not whose and machine.busy) or whose not in ("", life):
                self.moments.setdefault(moment, []).append((whose, future))
                continue
            machine.busy = True
            machine.loop.paused = True
            future.set_result(life)

    async def _wait_for(self, moment: str, whose: str) -> str:
        """Return whose moment it is, that of ``whose`` or of anybody; or after a while ``whose``."""
        future: asyncio.Future[str] = self.home.create_future()
        self.moments.setdefault(moment, []).append((whose, future))
        try:
            async with asyncio.timeout(MOMENT_S):
                return await future
        except TimeoutError:
            return whose

    async def _trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at_s)
        until_s = self.time.now_s + trouble.seconds
        if trouble.kind == "upstream":
            self.world.upstream = Mood(trouble.mode, until_s)
        elif trouble.kind == "operator":
            self.world.operator = Mood(trouble.mode, until_s)
        elif trouble.kind == "receiver":
            self.world.receivers[trouble.replica] = Mood(trouble.mode, until_s)
        elif trouble.kind == "database":
            await self._restart_database(trouble.seconds)
        elif trouble.kind == "clock":
            self._whom(trouble.replica).clock.set_by_ms += round(trouble.seconds * 1000)
        elif trouble.replica == WHOEVER:
            if life := await self._wait_for(trouble.moment, ""):
                await self._befalls(self.machines[int(life.partition(".")[0])], trouble)
        else:
            machine = self._whom(trouble.replica)
            if machine.busy or machine.loop is None:
                return
            machine.busy = True
            if trouble.moment != "at once":
                await self._wait_for(trouble.moment, machine.life)
            await self._befalls(machine, trouble)

    def _whom(self, number: int) -> Machine:
        if number >= 0:
            return self.machines[number]
        led = next((life for name, (life, _) in self.network.leads.items() if name.startswith("polls:")), "0.0")
        return self.machines[int(led.partition(".")[0])]

    async def _befalls(self, machine: Machine, trouble: Trouble) -> None:
        """Have it happen to a machine that is busy with that alone."""
        try:
            with machine.trouble():
                await self._happens_to(machine, trouble)
        finally:
            machine.busy = False

    async def _happens_to(self, machine: Machine, trouble: Trouble) -> None:
        loop, link = machine.loop, machine.link
        assert loop is not None
        assert link is not None
        if trouble.kind == "pause":
            loop.paused = True
            await asyncio.sleep(trouble.seconds)
            loop.paused = False
            return
        loop.paused = False
        if trouble.kind in ("refused", "silent"):
            self.network.cut(link, trouble.kind)
            await asyncio.sleep(trouble.seconds)
            self.network.cut(link, "")
            return
        if trouble.kind == "restart":
            stopping = loop.create_task(machine.stop(), name="process")
            for _ in range(40):
                if stopping.done():
                    break
                await asyncio.sleep(0.5)
        machine.end()
        await asyncio.sleep(trouble.seconds if trouble.kind == "kill" else min(trouble.seconds, 2.0))
        self._start(machine)

    async def _restart_database(self, seconds: float) -> None:
        lives = [machine for machine in self.machines if machine.link is not None and not machine.link.cut]
        links = [machine.link for machine in lives if machine.link is not None]
        for machine in lives:
            machine.troubles.append((machine.life, self.time.now_s, self.time.now_s + seconds + 1.0))
            machine.well_since_s = self.time.now_s + seconds + 1.0
        for link in links:
            self.network.cut(link, "refused")
        await asyncio.sleep(seconds)
        for link in links:
            self.network.cut(link, "")
