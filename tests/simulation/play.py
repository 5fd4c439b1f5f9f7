"""Plays one scenario: the gateway's loops, store and retry logic as they are, in virtual time, in a world that is not.

Owns the course of a run: who registers, what happens when, and that afterwards all is well until nothing is owed.
"""

import asyncio
import random
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway.core.errors import StoreError
from gateway.core.model import Callback, CallbackState, Format
from gateway.webhook.sender import Sender
from tests.life import FORGETS, PROFILE, Life, Transport, until
from tests.simulation.asks import Ask
from tests.simulation.callbacklaws import ATTEMPT_S, SCHEDULE_S
from tests.simulation.invariants import Invariants
from tests.simulation.readers import Readers
from tests.simulation.scenario import LENGTH_S, MOMENTS, Event, Reader, Registration, Scenario
from tests.simulation.tasklaws import POLL_MAX_S, POLL_MIN_S
from tests.simulation.world import Mood, ShiftedClock, World
from tests.virtualtime import run_virtual

__all__ = ["play"]

DRAIN_S = 10.0
MOMENT_S = 20.0
"""So long a moment is waited for."""
SOME_TIME_MS = 4_000
SPANS = ((100, -1), (1, -1), (100, 1))
"""Of the dead ones that ended from then until then, in so much time before now."""
QUIET_S = 3 * 3600.0
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
        self.laws = Invariants(self.world)
        self.acknowledged: dict[str, Callback] = {}
        self.asked_about: str | None = None
        self.meanwhile: set[asyncio.Task[None]] = set()
        self.life: Life | None = None
        self.readers: Readers | None = None
        self.created: set[str] = set()

    async def play(self) -> Invariants:
        try:
            await self._play()
        finally:
            if self.life is not None:  # a law was broken: what is left open would be the next test's fault
                await self.life.kill()
        return self.laws

    async def _play(self) -> None:
        await self._start()
        clients = [asyncio.create_task(self._client(wish), name="client") for wish in self.scenario.registrations]
        clients += [asyncio.create_task(self._reader(wish), name="client") for wish in self.scenario.readers]
        for event in sorted(self.scenario.events, key=lambda event: event.at_s):
            await asyncio.sleep(max(event.at_s - self.clock.monotonic(), 0))
            await self._happen(event)
        await asyncio.sleep(max(LENGTH_S + 600 - self.clock.monotonic(), 0))
        await asyncio.gather(*clients)
        await until(self._nothing_owed, limit_s=QUIET_S, step_s=10)
        assert self.life is not None
        self.laws.at_the_end(set(self.acknowledged))
        owed = {row.task_id for row in self.laws.rows.callbacks.values()}
        assert self.created <= owed, (self.created - owed, "was promised a webhook")
        assert not self.life.claims
        store = self.life.store
        assert not [*store.tasks._claimed, *store._engine.webhooks._claimed], "a claim that nobody holds"
        assert self.life.supervisor.problem() is None
        life, self.life = self.life, None
        await self._stop(life, DRAIN_S)

    async def _start(self) -> None:
        self.world.life += 1
        began_s = self.clock.monotonic()
        sender = Sender(Transport(self.world.receive), self.world, timeout_s=ATTEMPT_S)
        life = Life(
            self.path,
            self.clock,
            upstream=Transport(self.world.poll),
            profile=PROFILE if self.scenario.honours else FORGETS,
            sender=sender,
            min_s=POLL_MIN_S,
            max_s=POLL_MAX_S,
            schedule_s=SCHEDULE_S,
            seed=self.rng.getrandbits(32),
        )
        life.store.events.kept = True
        self.world.now = life.clock.now
        await life.start()
        connection = life.connection
        self.laws.watch(connection._conn, life.clock, began_s, lambda: life.key.refusal is not None)
        connection.latency_s = lambda: self.rng.choice((0.0, 0.0, 0.002, 0.05))
        connection.after = self.laws.look
        self.life, self.readers = life, Readers(life)

    async def _stop(self, life: Life, drain_s: float) -> None:
        if self.readers is not None:
            readers, self.readers = self.readers, None
            await readers.stop(drain_s)
        self.laws.drain()
        await life.stop(drain_s)
        self.laws.stopped(disk_was_well=self.world.disk_is_well)

    async def _client(self, wish: Registration) -> None:
        await asyncio.sleep(wish.at_s)
        task_id = self.world.begin(wish.task)
        while True:
            with suppress(StoreError, TimeoutError, Exception):
                if self.life is not None:
                    async with asyncio.timeout(wish.patience_s):
                        url = f"https://receiver-{wish.receiver}.example/hook"
                        shape = Format.RECORD if wish.receiver == 1 else Format.STANDARD
                        callback = await self.life.register(task_id, url=url, timeout_s=wish.timeout_s, shape=shape)
                    self.acknowledged[callback.id] = callback
                    return
            await asyncio.sleep(1.0)
            if wish.patience_s < 1 and self.clock.monotonic() > LENGTH_S:
                return  # it never waits long enough: what it asked for may be there all the same

    async def _reader(self, wish: Reader) -> None:
        await asyncio.sleep(wish.at_s)
        task_id = f"task-{wish.task}"
        if not wish.creates:
            self.world.begin(wish.task)
        while wish.creates and task_id not in self.world.made:
            readers = self.readers
            answer = None if readers is None else await readers.create(wish.task, wish.receiver, wish.patience_s)
            if answer is not None and answer.status_code == 200 and readers is self.readers:
                self.world.made.add(task_id)
                if wish.receiver is not None:
                    self.created.add(task_id)
            if answer is not None and answer.headers.get("x-should-retry") == "false":
                self.laws.hold(not self.scenario.honours, (answer.text, "is left in doubt, and the upstream knows"))
                return
            await asyncio.sleep(1.0)
            if self.clock.monotonic() > LENGTH_S + 300:
                return
        for _ in range(wish.times):
            readers = self.readers
            if readers is not None:
                look = self.laws.reads.begin(task_id)
                answer = await readers.read(task_id, wish.patience_s)
                if answer is not None and readers is self.readers:
                    self.laws.told(look, answer)
            await asyncio.sleep(wish.every_s)

    async def _happen(self, event: Event) -> None:
        now_s = self.clock.monotonic()
        match event.kind:
            case "kill" | "restart":
                if event.what in MOMENTS:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(MOMENT_S):
                            await self.world.next(event.what)
                life, self.life = self.life, None
                assert life is not None
                if event.kind == "kill":
                    self.readers = None
                    self.laws.killed()
                    await life.kill()
                else:
                    await self._stop(life, min(event.seconds, DRAIN_S))
                await asyncio.sleep(event.seconds)
                await self._start()
            case "clock":
                self.clock.shift_ms += round(event.seconds * 1000)
                self.world.clock_was_set(event.seconds)
                self.laws.clock_was_set()
            case "disk":
                self._meanwhile(self._break_the_disk(event.seconds))
            case "upstream":
                self.world.upstream = Mood(event.what, now_s + event.seconds)
            case "receiver":
                self.world.receivers[event.number] = Mood(event.what, now_s + event.seconds)
            case _:
                self._meanwhile(self._ask(event))

    def _meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="client")
        self.meanwhile.add(task)
        task.add_done_callback(self.meanwhile.discard)

    async def _break_the_disk(self, seconds: float) -> None:
        if self.life is None:
            return
        connection = self.life.connection
        connection.broken = "disk I/O error"
        self.world.disk_broken_until_s = max(self.world.disk_broken_until_s, self.clock.monotonic() + seconds)
        await asyncio.sleep(seconds)
        connection.broken = None

    async def _ask(self, event: Event) -> None:
        """Ask what a client asks, when it is time, of the life that there is then."""
        callback_id = await self._whom(event)
        life = self.life
        if callback_id is None or life is None:
            return
        self.asked_about = callback_id
        store, now = life.store, life.clock.now()
        everything = event.kind == "redeliver dead"
        since, until = (now - SOME_TIME_MS * back for back in SPANS[event.number % len(SPANS)])
        ask = self.laws.asks.begin(Ask(event.kind, None if everything else callback_id, now, since, until))
        asked: Awaitable[CallbackState | tuple[CallbackState, Callback] | int | None]
        if everything:
            asked = store.registry.redeliver_dead(None, ask.since, ask.until, now)
        elif event.kind == "cancel":
            asked = store.registry.cancel(None, callback_id, now)
        else:
            asked = store.registry.redeliver(None, callback_id, now)
        try:
            found = await asked
            self.laws.asks.answered(ask, found[0] if isinstance(found, tuple) else found)
        except StoreError as error:
            self.laws.asks.refused(ask)
            excused = life is not self.life or life.connection.broken is not None
            self.laws.hold(excused, (ask, error, "was refused, and the disk is well"))
        except AssertionError as error:
            self.laws.hold(False, error)

    async def _whom(self, event: Event) -> str | None:
        known = list(self.acknowledged)
        match event.what:
            case "again" if self.asked_about is not None:
                return self.asked_about
            case "attempt" | "recording":
                return await self.world.next(event.what)
            case "poll":
                task_id = await self.world.next(event.what)
                known = [callback.id for callback in self.acknowledged.values() if callback.task.task_id == task_id]
        return known[event.number % len(known)] if known else None

    async def _nothing_owed(self) -> bool:
        assert self.life is not None
        if self.laws.broken is not None:
            raise self.laws.broken
        states = [state for (state,) in self.life.connection._conn.execute("SELECT state FROM callbacks").fetchall()]
        return not {CallbackState.WAITING, CallbackState.PENDING} & set(states) and not self.life.claims
