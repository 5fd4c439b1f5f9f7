"""Plays one scenario: the gateway's loops, store and retry logic as they are, in virtual time, in a world that is not.

Owns the course of a run: who registers, what happens when, and that afterwards all is well until nothing is owed.
"""

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.errors import StoreError
from gateway.model import Callback, CallbackState
from gateway.sender import Sender
from tests.life import Life, Transport, until
from tests.simulation.invariants import Invariants
from tests.simulation.scenario import LENGTH_S, Event, Registration, Scenario
from tests.simulation.world import Mood, ShiftedClock, World
from tests.virtualtime import run_virtual

__all__ = ["play"]

SCHEDULE_S = (0.0, 5.0, 60.0, 300.0)
ATTEMPT_S = 15.0
QUIET_S = 4 * 86_400.0
"""Within so long after the last event everything must be over: an hour's time-out, an hour's jump, every retry."""


def play(scenario: Scenario) -> Invariants:
    """Play a scenario to its end; raises AssertionError where a law is broken."""
    with TemporaryDirectory() as folder:
        return run_virtual(_Run(scenario, Path(folder) / "db").play())


class _Run:
    def __init__(self, scenario: Scenario, path: Path) -> None:
        self.scenario = scenario
        self.path = path
        self.rng = random.Random(scenario.seed)
        self.clock = ShiftedClock()
        self.world = World(scenario, self.clock, self.rng)
        self.laws = Invariants(self.world, len(SCHEDULE_S))
        self.acknowledged: dict[str, Callback] = {}
        self.life: Life | None = None

    async def play(self) -> Invariants:
        await self._start()
        clients = [asyncio.create_task(self._client(wish), name="client") for wish in self.scenario.registrations]
        for event in sorted(self.scenario.events, key=lambda event: event.at_s):
            await asyncio.sleep(max(event.at_s - self.clock.monotonic(), 0))
            await self._happen(event)
        await asyncio.sleep(max(LENGTH_S + 600 - self.clock.monotonic(), 0))
        await asyncio.gather(*clients)
        await until(self._nothing_owed, limit_s=QUIET_S, step_s=10)
        assert self.life is not None
        self.laws.at_the_end(set(self.acknowledged))
        assert not self.life.claims, "a claim that nobody holds"
        await self.life.stop()
        return self.laws

    async def _start(self) -> None:
        sender = Sender(Transport(self.world.receive), self.clock, timeout_s=ATTEMPT_S, user_agent="simulation")
        self.life = Life(
            self.path,
            self.clock,
            upstream=Transport(self.world.poll),
            sender=sender,
            schedule_s=SCHEDULE_S,
            seed=self.rng.getrandbits(32),
        )
        await self.life.start()
        connection = self.life.connection
        connection.latency_s = lambda: self.rng.choice((0.0, 0.0, 0.002, 0.05))
        connection.after = self.laws.look
        self.laws.watch(connection._conn)

    async def _client(self, wish: Registration) -> None:
        await asyncio.sleep(wish.at_s)
        task_id = self.world.begin(wish.task)
        while True:
            with suppress(StoreError, TimeoutError, Exception):
                if self.life is not None:
                    async with asyncio.timeout(wish.patience_s):
                        url = f"https://receiver-{wish.receiver}.example/hook"
                        callback = await self.life.register(task_id, url=url, timeout_s=wish.timeout_s)
                    self.acknowledged[callback.id] = callback
                    return
            await asyncio.sleep(1.0)
            if wish.patience_s < 1 and self.clock.monotonic() > LENGTH_S:
                return  # it never waits long enough: what it asked for may be there all the same

    async def _happen(self, event: Event) -> None:
        now_s = self.clock.monotonic()
        match event.kind:
            case "kill" | "restart":
                life, self.life = self.life, None
                assert life is not None
                if event.kind == "kill":
                    self.laws.killed()
                    await life.kill()
                else:
                    await life.stop(min(event.seconds, 10))
                self.world.running.clear()
                await asyncio.sleep(event.seconds)
                await self._start()
            case "clock":
                self.clock.shift_ms += round(event.seconds * 1000)
            case "disk":
                connection = self.life.connection if self.life is not None else None
                if connection is not None:
                    connection.broken = "disk I/O error"
                    await asyncio.sleep(event.seconds)
                    connection.broken = None
            case "upstream":
                self.world.upstream = Mood(event.what, now_s + event.seconds)
            case "receiver":
                self.world.receivers[event.number] = Mood(event.what, now_s + event.seconds)
            case "cancel" | "redeliver":
                await self._ask(event)

    async def _ask(self, event: Event) -> None:
        if not self.acknowledged or self.life is None:
            return
        callback = list(self.acknowledged.values())[event.number % len(self.acknowledged)]
        with suppress(StoreError):
            ask = self.life.store.cancel if event.kind == "cancel" else self.life.store.redeliver
            await ask("", callback.id, self.clock.now())

    async def _nothing_owed(self) -> bool:
        assert self.life is not None
        if self.laws.broken is not None:
            raise self.laws.broken
        states = [state for (state,) in self.life.connection._conn.execute("SELECT state FROM callbacks").fetchall()]
        return not {CallbackState.WAITING, CallbackState.PENDING} & set(states) and not self.life.claims
