"""Creates through the proxy while the gateway is killed, each repeated under its X-Request-ID until it is answered.

Owns the rounds, the upstream's and the clients' sides of them, and the judgement: what the manual says of a repetition
("Create again, pay once") holds wherever the process was killed, for an upstream that knows the header and for one that
does not. What a killed process had stored, a copy of its database tells.
"""

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from gateway.simulator import Plan
from tests.crash.harness import http_client
from tests.crash.process import LIMIT_S, GatewayProcess, environment, run_gateway
from tests.crash.sides import Sides, serve_sides
from tests.crash.snapshot import copy_of

__all__ = ["POINTS", "Create", "CreateKill", "Creates", "create_kills", "creates"]

CREATE = "/api/v1/jobs/createTask"
POINTS = ("begun", "sent", "created", "kept")
"""``sent``: the upstream has made the task, and its answer has not arrived; ``killable`` has the others."""
_EACH = 8  # creates of a round
_CLIENTS = 5
_PLAN = Plan(duration_s=0.2)
_CREATES = "SELECT request_id, status, task_id FROM creates"
_CALLBACKS = "SELECT c.url, t.task_id FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq"


@dataclass(frozen=True)
class Create:
    """One create: its key is in its request, in its id and in its callback's URL."""

    key: int
    callback: bool
    twice: bool = False
    """Whether its client sends it twice at once."""

    @property
    def request_id(self) -> str:
        return f"r-{self.key}"


@dataclass(frozen=True)
class CreateKill:
    """One life of the gateway process: what is created in it, and where it is killed."""

    creates: Sequence[Create]
    at: str
    nth: int


def create_kills(seed: int, cycles: int) -> list[CreateKill]:
    """Draw so many lives, with each point as often as the others."""
    rng = Random(seed)
    points = [POINTS[number % len(POINTS)] for number in range(cycles)]
    rng.shuffle(points)
    rounds = []
    for number, point in enumerate(points):
        keys = range(number * _EACH, (number + 1) * _EACH)
        its = [Create(key, callback=rng.random() < 0.7, twice=rng.random() < 0.2) for key in keys]
        rounds.append(CreateKill(its, point, rng.randint(1, _CLIENTS - 1)))
    return rounds


class CreateSides(Sides):
    """The upstream that remembers who created what, and may keep its answers to itself; and the receiver."""

    def __init__(self, *, honours: bool) -> None:
        """``honours``: X-Request-ID is known, and the task that exists returned."""
        super().__init__(_PLAN)
        self._honours = honours
        self.asked: Counter[int] = Counter()
        """Creates that arrived, by key."""
        self.made: defaultdict[int, set[str]] = defaultdict(set)
        """The tasks by key: more than one is paid for twice."""
        self.silent_after: int | None = None
        """After so many more creates no answer to one is sent any more."""
        self.silent = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != CREATE:
            await super().__call__(scope, receive, send)
            return
        body = bytearray()
        answer: list[Any] = []

        async def heard() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def told(message: Any) -> None:
            answer.append(message)

        if not self._honours:
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"x-request-id"]
        await super().__call__(scope, heard, told)
        key = json.loads(body)["input"]["key"]
        self.asked[key] += 1
        self.made[key].add(json.loads(answer[-1]["body"])["data"]["taskId"])
        if self.silent_after is not None:
            self.silent_after -= 1
            if self.silent_after <= 0:
                self.silent.set()
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
        for message in answer:
            await send(message)


@dataclass
class Creates:
    """One upstream, one database, and the processes that live on it one after the other."""

    folder: Path
    sides: CreateSides
    honours: bool
    cycles: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    """By the point."""
    missed: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    """What creates were answered: ``created``, ``repeated``, ``forwarded again``, ``in doubt``."""
    problems: list[str] = field(default_factory=list)
    _stored: dict[int, tuple[int | None, str | None]] = field(default_factory=dict)
    """Status and task of each create that the last process had taken down."""
    _asked: Counter[int] = field(default_factory=Counter)
    """How often each had reached the upstream by then."""
    _answered: dict[int, str] = field(default_factory=dict)
    """The task that each create's client was told."""
    _doubted: set[int] = field(default_factory=set)
    """Those that were answered 409: nobody can tell whether they made a task."""
    _sent: dict[int, Create] = field(default_factory=dict)
    _unanswered: list[Create] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def paid_twice(self) -> int:
        return sum(len(tasks) > 1 for tasks in self.sides.made.values())

    async def play(self, rounds: Sequence[CreateKill]) -> None:
        """Play the rounds, then let a last process answer and deliver what is owed, and judge it all."""
        for round_ in rounds:
            await self._kill_round(round_)
            self.cycles += 1
            if not self.ok:
                self.problems.append(f"seen after {round_.at}:{round_.nth}")
                return
        await self._finish()

    async def _kill_round(self, round_: CreateKill) -> None:
        sides = self.sides
        dies_at = None if round_.at == "sent" else f"{round_.at}:{round_.nth}"
        sides.silent_after = round_.nth if round_.at == "sent" else None
        async with self._gateway(dies_at) as gateway:
            load = asyncio.create_task(self._load(gateway, [*self._again(), *round_.creates]))
            end = asyncio.create_task(sides.silent.wait() if dies_at is None else gateway.ended())
            await asyncio.wait([load, end], return_when=asyncio.FIRST_COMPLETED)
            await gateway.kill()
            await load
            end.cancel()
        if sides.silent.is_set() if dies_at is None else gateway.logged("crash.killed"):
            self.killed[round_.at] += 1
        else:
            self.missed.append(f"{round_.at}:{round_.nth}")
        sides.silent_after = None
        sides.silent.clear()
        await self._after_end(gateway)

    async def _finish(self) -> None:
        anew = [Create(-1 - key, callback=self._sent[key].callback) for key in self._doubted]
        async with self._gateway() as gateway, http_client() as client:
            await self._load(gateway, [*self._again(), *anew])
            try:
                async with asyncio.timeout(2 * LIMIT_S):
                    for state in ("waiting", "pending"):
                        url = f"{gateway.url}/v1/callbacks?state={state}&limit=1"
                        while (await client.get(url)).json()["data"]:
                            with suppress(TimeoutError):
                                await asyncio.wait_for(self.sides.moments.next(), 0.25)
            except TimeoutError:
                self.problems.append(f"{state} callbacks were left after {2 * LIMIT_S} s")
            if (status := await gateway.stop()) != 0:
                self.problems.append(f"exit status {status} at the end")
        await self._after_end(gateway)
        if self._unanswered:
            self.problems.append(f"{len(self._unanswered)} creates have no answer at the end")
        self._check_webhooks()

    def _again(self) -> list[Create]:
        again, self._unanswered = self._unanswered, []
        return again

    # The load

    async def _load(self, gateway: GatewayProcess, wanted: Sequence[Create]) -> None:
        """Let a few clients at once send all of these, each of them until one gets no answer."""
        waiting = deque(wanted)

        async def work() -> None:
            while waiting:
                one = waiting.popleft()
                self._sent[one.key] = one
                answers = await asyncio.gather(*(self._post(http, gateway, one) for _ in range(1 + one.twice)))
                if None in answers:
                    self._unanswered.append(one)
                    return
                for answer in answers:
                    assert answer is not None
                    self._judge(one, answer)

        if await gateway.listening():
            async with http_client() as http, asyncio.TaskGroup() as group:
                for number in range(_CLIENTS):
                    group.create_task(work(), name=f"client-{number}")
        # Those that nobody came to are new all the same.
        self._unanswered += waiting

    async def _post(self, http: httpx.AsyncClient, gateway: GatewayProcess, one: Create) -> httpx.Response | None:
        body: dict[str, Any] = {"model": "m", "input": {"key": one.key}}
        if one.callback:
            body["callBackUrl"] = self._url_of(one)
        try:
            return await http.post(f"{gateway.url}{CREATE}", json=body, headers={"x-request-id": one.request_id})
        except httpx.TransportError:
            return None

    def _url_of(self, one: Create) -> str:
        return f"{self.sides.receiver_urls[-1]}/ok/{one.key}"

    # The judgement

    def _judge(self, one: Create, answer: httpx.Response) -> None:
        """Hold an answer against what was stored of this create when the process began."""
        key, wrong = one.key, []
        stored = self._stored.get(key)
        in_doubt = stored is not None and stored[0] is None
        more = self.sides.asked[key] - self._asked[key]
        expected = 409 if in_doubt and not self.honours else 200
        if answer.status_code != expected:
            wrong.append(f"was answered {answer.status_code}: {answer.text[:200]}")
        elif expected == 409:
            self._doubted.add(key)
        elif {task_id := answer.json()["data"]["taskId"]} != self.sides.made[key]:
            wrong.append(f"was answered {task_id}, and made {self.sides.made[key]}")
        elif self._answered.setdefault(key, task_id) != task_id:
            wrong.append(f"was answered {task_id}, and {self._answered[key]} before")
        if more != (stored is None or (in_doubt and self.honours)):
            wrong.append(f"was forwarded {more} times")
        self.problems += [f"create {key}, of which {stored} was stored, {what}" for what in wrong]
        outcome = "repeated" if stored is not None else "created"
        self.outcomes["in doubt" if expected == 409 else "forwarded again" if in_doubt else outcome] += 1

    async def _after_end(self, gateway: GatewayProcess) -> None:
        """Judge what a process that has ended has left."""
        await self.sides.settled()
        errors = [line for line in gateway.log if line.get("level") in ("error", "critical")]
        if errors or "Traceback" in "".join(gateway.text):
            self.problems.append(f"the log has errors:\n{''.join(gateway.text[-20:])}")
        with closing(sqlite3.connect(copy_of(self.folder / "gateway.db", self.folder / "copies"))) as db:
            found = db.execute("PRAGMA integrity_check").fetchall()
            creates = {int(name.removeprefix("r-")): (status, task) for name, status, task in db.execute(_CREATES)}
            callbacks = {int(url.rpartition("/")[2]): task_id for url, task_id in db.execute(_CALLBACKS)}
        self._asked = Counter(self.sides.asked)
        self._stored = creates
        told = [f"integrity_check: {found}"] if found != [("ok",)] else []
        for key, tasks in self.sides.made.items():
            if len(tasks) > 1:
                told.append(f"create {key} was paid for {len(tasks)} times")
            if key not in creates:
                told.append(f"create {key} was forwarded, and is not taken down")
        for key, (status, task_id) in creates.items():
            if status is not None and self._sent[key].callback and callbacks.get(key) != task_id:
                told.append(f"create {key} has its answer, and its callback is of {callbacks.get(key)}")
            if key in callbacks and status is None:
                told.append(f"create {key} has its callback, and no answer")
        for key, task_id in self._answered.items():
            if creates.get(key) != (200, task_id):
                told.append(f"create {key} was answered {task_id}, and {creates.get(key)} is stored")
        self.problems += told + self.sides.bad
        self.sides.bad.clear()

    def _check_webhooks(self) -> None:
        arrived = defaultdict(list)
        for webhook_id, key in self.sides.keys.items():
            arrived[key].append(self.sides.events[webhook_id]["data"]["taskId"])
        for key, one in self._sent.items():
            expected = [self._answered[key]] if one.callback and key in self._answered else []
            if arrived[key] != expected:
                self.problems.append(f"create {key} brought webhooks of {arrived[key]}, not of {expected}")

    @asynccontextmanager
    async def _gateway(self, dies_at: str | None = None) -> AsyncIterator[GatewayProcess]:
        name = "aigptimage" if self.honours else "kie"
        config = self.folder / "gateway.toml"
        config.write_text(f'[upstreams.{name}]\ncreate_rate = "1000/1"\n')
        environ = environment(self.folder / "gateway.db", self.sides.upstream_url)
        environ |= {"GATEWAY_CONFIG": str(config), "GATEWAY_UPSTREAM": name, "GATEWAY_DRAIN_S": "1"}
        async with run_gateway(environ, self.folder, dies_at=dies_at, ready=False) as gateway:
            yield gateway


@asynccontextmanager
async def creates(folder: Path, *, honours: bool) -> AsyncIterator[Creates]:
    """Serve the two sides for creates whose files are in ``folder``."""
    (folder / "copies").mkdir(parents=True)
    async with serve_sides(CreateSides(honours=honours)) as sides:
        yield Creates(folder, sides, honours)
