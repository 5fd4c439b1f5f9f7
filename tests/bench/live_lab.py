"""The live laboratory: the gateway's own poller, timetable, shares, budget and task queue on virtual time.

Owns the course of one run: tasks that teach, tasks that are measured, and an upstream that answers each poll at once
with what the API family says. Nothing of the policy is copied: a registration gets its first poll from the timetable,
and all that follows is the poller's. Called by ``live_rows`` and by the tests; ``real_lab`` runs the same orders in a
process, in real time, with the same upstream.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from gateway.config.profilefile import parse_profile
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateWindow
from gateway.simulator.scenario import Plan, SimTask
from gateway.upstream.answer import PollResult, read_answer
from tests.bench.policies import MAX_S, MIN_S, Figures, figures
from tests.life import PROFILE_FILE, Life, ScriptedUpstream
from tests.virtualtime import VirtualClock, run_virtual

__all__ = ["Job", "Orders", "Seen", "Upstream", "measured", "play"]


class Job(NamedTuple):
    """A task to come."""

    at_s: float
    """When it is created and registered, from the start of its lot."""
    duration_s: float
    model: str = "m"
    fails: bool = False


@dataclass
class Orders:
    """What a run consists of."""

    taught: Sequence[Job]
    """What comes first and is only learned from."""
    measured: Sequence[Job]
    waits: bool = True
    """Whether those that are measured come once the others have ended; else as the last of them has come."""
    told: bool = False
    """Whether a registration says which model works on its task, as a create through the proxy does."""
    rate: tuple[RateWindow, ...] = ()
    """The key's limits; none: there is no limit."""
    restart_s: float | None = None
    """When, after the first that is measured, the gateway is killed and started again."""
    min_s: float = MIN_S
    max_s: float = MAX_S
    """Between two polls of a task."""


@dataclass
class Seen:
    """One task, as its upstream saw it."""

    task: SimTask
    polls: list[int] = field(default_factory=list)
    """When it was asked about (ms)."""

    @property
    def ends_at(self) -> int:
        return self.task.created_at + round(self.task.plan.duration_s * 1000)

    @property
    def noticed(self) -> bool:
        return bool(self.polls) and self.polls[-1] >= self.ends_at

    @property
    def lag_s(self) -> float:
        return (self.polls[-1] - self.ends_at) / 1000


class Upstream:
    """The tasks and the polls: what the upstream knows and saw."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._profile = parse_profile(PROFILE_FILE.read_text("utf-8"), PROFILE_FILE.name)
        self._open = 0
        self._ended = asyncio.Event()
        self.tasks: dict[str, Seen] = {}

    def create(self, task_id: str, job: Job) -> Seen:
        plan = Plan(duration_s=job.duration_s, outcome="fail" if job.fails else "success")
        seen = self.tasks[task_id] = Seen(SimTask(self._clock.now(), plan, job.model))
        self._open += 1
        return seen

    async def poll(self, task_id: str) -> PollResult:
        return read_answer(self._profile, task_id, 200, None, self.answer(task_id))

    def answer(self, task_id: str) -> bytes:
        """Note a poll that is answered now, and return the answer's body."""
        seen, now = self.tasks[task_id], self._clock.now()
        if not seen.noticed:
            seen.polls.append(now)
            if seen.noticed:
                self._open -= 1
                self._ended.set()
        return msgspec.json.encode(seen.task.envelope(task_id, now))

    async def all_noticed(self, limit_s: float = 86_400.0) -> None:
        """Return once every task's end was seen by a poll."""
        async with asyncio.timeout(limit_s):
            while self._open:
                self._ended.clear()
                await self._ended.wait()


def play(orders: Orders, seed: int) -> list[Seen]:
    """Run it all; return what became of the tasks that are measured, in their order."""
    with TemporaryDirectory() as folder:
        return run_virtual(_Run(orders, seed, Path(folder) / "gateway.db").played())


def measured(tasks: Sequence[Seen]) -> Figures:
    """Return polls per task, each one counted, and the lag."""
    return figures(sum(len(task.polls) for task in tasks), [task.lag_s for task in tasks])


class _Run:
    def __init__(self, orders: Orders, seed: int, path: Path) -> None:
        self._orders = orders
        self._seed = seed
        self._path = path
        self._clock = VirtualClock()
        self._life: Life

    async def played(self) -> list[Seen]:
        orders = self._orders
        self._upstream = Upstream(self._clock)
        await self._begin(self._seed)
        await self._register("taught", orders.taught)
        if orders.waits:
            await self._upstream.all_noticed()
        if orders.restart_s is None:
            seen = await self._register("measured", orders.measured)
        else:
            registering = asyncio.create_task(self._register("measured", orders.measured), name="registering")
            await asyncio.sleep(orders.restart_s)
            await self._life.kill()
            await self._begin(self._seed + 1_000_000)
            seen = await registering
        await self._upstream.all_noticed()
        await self._life.stop()
        return seen

    async def _begin(self, seed: int) -> None:
        orders, upstream = self._orders, ScriptedUpstream(self._upstream.poll)
        life = Life(
            self._path,
            self._clock,
            upstream=upstream,
            rate=orders.rate,
            min_s=orders.min_s,
            max_s=orders.max_s,
            seed=seed,
        )
        self._life = await life.start()

    async def _register(self, name: str, jobs: Sequence[Job]) -> list[Seen]:
        began_s = self._clock.monotonic()
        seen = []
        for number, job in enumerate(jobs):
            await asyncio.sleep(began_s + job.at_s - self._clock.monotonic())
            task_id = f"{name}-{number}"
            seen.append(self._upstream.create(task_id, job))
            await self._registered(task_id, job.model if self._orders.told else None)
        return seen

    async def _registered(self, task_id: str, model: str | None) -> None:
        """Register until it is stored: the gateway may be on its way down."""
        while True:
            try:
                await self._life.register(task_id, model=model, at_once=False)
            except StoreError:
                await asyncio.sleep(0.1)
            else:
                return
