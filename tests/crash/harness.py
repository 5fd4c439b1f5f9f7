"""The gateway under load, killed or stopped again and again on one database.

Owns the life of each round: start, load, end, and what the checker is shown. What happens in a round comes from the
scenario; whether it was right is the checker's to say.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import httpx

from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.simulator import Plan
from tests.crash.checker import Checker
from tests.crash.process import LIMIT_S, GatewayProcess, environment, run_gateway
from tests.crash.scenario import Item, Kill, Round, Stop
from tests.crash.sides import Sides, serve_sides

__all__ = ["DRAIN_S", "Harness", "Shutdowns", "harness", "http_client"]

DRAIN_S = 1.0
_BEYOND_DRAIN_S = 2.0
_LATE_S = 0.5
"""So long after a SIGTERM was heard what had been claimed before it may still arrive. A gateway that went on claiming
would show throughout the drain."""
_QUIET_S = 1.0
_WORKERS = 8


@dataclass
class Shutdowns:
    """What was seen of SIGTERMs."""

    clean: int = 0
    longest_s: float = 0.0
    latest_s: float = 0.0
    """The last request that arrived after a SIGTERM, at the upstream or at the receiver."""
    interrupted: int = 0
    held_answers: int = 0
    batches: int = 0
    """How many batches were under way at a SIGTERM."""
    cut: int = 0
    """Requests to register that got no answer, or 503."""


@dataclass
class Harness:
    """One database, its two sides, and the processes that live on it one after the other."""

    folder: Path
    sides: Sides
    checker: Checker
    cycles: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    """By the place where it was killed."""
    missed: list[str] = field(default_factory=list)
    """Named points that were not passed often enough before everything was done."""
    problems: list[str] = field(default_factory=list)
    """What went wrong otherwise: an exit status, an answer that may not be."""
    shutdowns: Shutdowns = field(default_factory=Shutdowns)
    _unanswered: list[list[Item]] = field(default_factory=list)
    _batches: int = 0
    """Under way."""
    _start_s: float = 0.5

    @property
    def ok(self) -> bool:
        return self.checker.ok and not self.problems

    def report(self) -> str:
        """Return what was wrong, a sentence a line."""
        kinds = {"lost": self.checker.lost, "corrupted": self.checker.corrupted, "problem": self.problems}
        return "\n".join(f"{kind}: {sentence}" for kind, sentences in kinds.items() for sentence in sentences[:20])

    async def play(self, rounds: Sequence[Round]) -> None:
        """Play the rounds, then let a last process finish what is owed, and judge it all."""
        for number, round_ in enumerate(rounds):
            self.sides.round = number
            self.sides.moments.reset()
            if isinstance(round_.end, Kill):
                await self._kill_round(round_, round_.end)
            else:
                await self._stop_round(round_, round_.end)
            self.cycles += 1
            if not self.ok:
                self.problems.append(f"seen after round {number}: {round_.end}")
                return
        self.sides.round = len(rounds)
        await self._finish()

    # Kills

    async def _kill_round(self, round_: Round, kill: Kill) -> None:
        started = time.monotonic()
        async with self._gateway(dies_at=str(kill) if kill.named else None) as gateway:
            load = asyncio.create_task(self._load(gateway, round_))
            if kill.at == "start":
                # In time, because nothing is to be seen of it.
                await asyncio.wait([load], timeout=kill.share * self._start_s)
            else:
                await self._until(load, gateway.ended() if kill.named else self._reached(kill))
                if kill.lag_s:
                    await asyncio.wait([load], timeout=kill.lag_s)
            if listening := gateway.logged("gateway.listening"):
                self._start_s = listening[0]["seen_at"] - started
            await gateway.kill()
            await load
        if gateway.process.returncode != -SIGKILL:
            self.problems.append(f"ended by itself with {gateway.process.returncode}:\n{''.join(gateway.text[-20:])}")
        hit = bool(gateway.logged("crash.killed"))
        if kill.named and not hit:
            self.missed.append(str(kill))
        else:
            self.killed[kill.at] += 1
        self._check_log(gateway)
        await self.sides.settled()
        self.checker.after_end(self._database, clean=False)

    # Shutdowns

    async def _stop_round(self, round_: Round, stop: Stop) -> None:
        self.sides.hung_tasks = round_.hung_tasks
        async with self._gateway() as gateway, http_client() as client:
            assert await gateway.listening()
            idle = [await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2])) for _ in range(3)]
            for _, writer in idle:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            held = await self._hold(client, gateway.url)
            load = asyncio.create_task(self._load(gateway, round_))
            await self._until(load, self._reached(stop))
            await asyncio.wait([load], timeout=stop.lag_s)
            self.shutdowns.batches += self._batches
            gateway.process.send_signal(SIGTERM)
            at = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(gateway.ended(), DRAIN_S + _BEYOND_DRAIN_S)
            took_s = time.monotonic() - at
            await gateway.kill()
            await load
            self._check_held(await asyncio.gather(held, return_exceptions=True))
            self.sides.add_task(_held_task(self.sides.round), Plan())
            for _, writer in idle:
                writer.close()
        self.sides.hung_tasks = frozenset()
        await self.sides.settled()
        self._check_stop(gateway, at, took_s)
        self._check_log(gateway)
        self.shutdowns.interrupted += len(gateway.logged("attempt.interrupted"))
        self.checker.after_end(self._database, clean=True)

    async def _hold(self, client: httpx.AsyncClient, url: str) -> "asyncio.Task[httpx.Response]":
        """Ask for a task that does not end meanwhile, with the longest wait."""
        task_id = _held_task(self.sides.round)
        self.sides.add_task(task_id, Plan(outcome="never"))
        await self._register(
            client, url, [Item(-1 - self.sides.round, self.sides.round, task_id, "ok", None, None, again=True)]
        )
        return asyncio.create_task(client.get(f"{url}/v1/tasks/{task_id}?wait=60"))

    def _check_held(self, answers: list[Any]) -> None:
        (answer,) = answers
        if isinstance(answer, httpx.Response) and answer.status_code == 200 and answer.json()["state"] == "waiting":
            self.shutdowns.held_answers += 1
        else:
            self.problems.append(f"the request that was held got {answer!r}")

    def _check_stop(self, gateway: GatewayProcess, at: float, took_s: float) -> None:
        seen = self.shutdowns
        # From when it was heard: a busy machine may take its time to deliver a signal.
        draining = gateway.logged("gateway.draining")
        heard_at = draining[0]["seen_at"] if draining else at
        arrivals = [arrival.at for found in self.sides.arrivals.values() for arrival in found]
        late_s = max([*arrivals, *self.sides.polls_at], default=heard_at) - heard_at
        seen.longest_s, seen.latest_s = max(seen.longest_s, took_s), max(seen.latest_s, late_s)
        if gateway.process.returncode != 0:
            what = f"exit status {gateway.process.returncode} {took_s:.2f} s after SIGTERM"
            self.problems.append(f"{what}:\n{''.join(gateway.text[-20:])}")
        elif late_s > _LATE_S:
            self.problems.append(f"a request arrived {late_s:.2f} s after SIGTERM")
        else:
            seen.clean += 1

    # The end

    async def _finish(self) -> None:
        """Let a process that nobody kills deliver what is owed; every round's losses would show here."""
        self.sides.released.set()
        async with self._gateway() as gateway, http_client() as client:
            assert await gateway.listening()
            unanswered, self._unanswered = self._unanswered, []
            for items in unanswered:
                await self._register(client, gateway.url, items)
            try:
                async with asyncio.timeout(2 * LIMIT_S):
                    for state in ("waiting", "pending"):
                        await self._none_left(client, gateway.url, state)
            except TimeoutError:
                self.problems.append(f"{state} callbacks were left after {2 * LIMIT_S} s")
            if (status := await gateway.stop()) != 0:
                self.problems.append(f"exit status {status} at the end")
            self._check_log(gateway)
        await self.sides.settled()
        self.checker.after_end(self._database, clean=True)
        self.checker.at_the_end()

    async def _none_left(self, client: httpx.AsyncClient, url: str, state: str) -> None:
        while (await client.get(f"{url}/v1/callbacks?state={state}&limit=1")).json()["data"]:
            # An event that comes with every step towards it, or a look at the clock.
            with suppress(TimeoutError):
                await asyncio.wait_for(self.sides.moments.next(), 0.25)

    # The load

    async def _load(self, gateway: GatewayProcess, round_: Round) -> None:
        """Register a round's items through a few clients at once, until all are, or one of them gets no answer."""
        if not await gateway.listening():
            return
        repeats = [[self.checker.sent[key]] for key in round_.repeats if key in self.checker.sent]
        waiting = iter([*round_.requests[:8], *repeats, *self._unanswered, *round_.requests[8:]])
        self._unanswered = []

        async def work() -> None:
            for items in waiting:
                if not await self._register(client, gateway.url, items):
                    break

        async with http_client() as client, asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(work(), name=f"client-{number}")
        # Those that it did not come to were never asked for; what is asked for again still is.
        self._unanswered += [items for items in waiting if items[0].key in self.checker.sent]

    async def _register(self, client: httpx.AsyncClient, url: str, items: list[Item]) -> bool:
        """Register by themselves, or as a batch, and take down the answer; return whether there was one."""
        self.checker.sent |= {item.key: item for item in items}
        response = await self._post(client, url, items)
        if response is None or response.status_code == 503:
            self.shutdowns.cut += 1
            if again := [item for item in items if item.again]:
                self._unanswered.append(again)
            return False
        if response.status_code not in (200, 201):
            self.problems.append(f"a registration was answered {response.status_code}: {response.text[:300]}")
            return False
        answers = [{"status": response.status_code, "callback": response.json()}]
        if len(items) > 1:
            answers = response.json()["data"]
        for item, answer in zip(items, answers, strict=True):
            if answer["status"] in (200, 201):
                self.checker.answered(item, answer["status"], answer["callback"])
                self.sides.moments.count("answer")
            else:
                self.problems.append(f"a registration in a batch was answered {answer}")
        return True

    async def _post(self, client: httpx.AsyncClient, url: str, items: list[Item]) -> httpx.Response | None:
        requests = [item.request(self.sides.url_of(item)) for item in items]
        batch = len(items) > 1
        if batch:
            self.sides.moments.count("batch")
        self._batches += batch
        try:
            if batch:
                return await client.post(f"{url}/v1/callbacks/batch", json={"callbacks": requests})
            return await client.post(f"{url}/v1/callbacks", json=requests[0])
        except httpx.TransportError:
            return None
        finally:
            self._batches -= batch

    # The moment

    async def _reached(self, end: Kill | Stop) -> None:
        await self.sides.moments.reached(end.at, end.nth)

    async def _until(self, load: asyncio.Task[None], end: Coroutine[Any, Any, Any]) -> None:
        """Return with ``end``, or when the load is done and nothing happens any more: then it would never come."""
        ending = asyncio.create_task(end)
        await asyncio.wait([ending, load], return_when=asyncio.FIRST_COMPLETED)
        quiet = False
        while not ending.done() and not quiet:
            news = asyncio.create_task(self.sides.moments.next())
            await asyncio.wait([ending, news], timeout=_QUIET_S, return_when=asyncio.FIRST_COMPLETED)
            quiet = not news.done()
            news.cancel()
        ending.cancel()

    # The process

    @property
    def _database(self) -> Path:
        return self.folder / "gateway.db"

    @asynccontextmanager
    async def _gateway(self, dies_at: str | None = None) -> AsyncIterator[GatewayProcess]:
        environ = environment(self._database, self.sides.upstream_url)
        environ |= {"GATEWAY_DRAIN_S": str(DRAIN_S), "GATEWAY_RETRY_SCHEDULE": "0,0.05,0.05,0.1,0.1,0.2"}
        async with run_gateway(environ, self.folder, dies_at=dies_at, ready=False) as gateway:
            yield gateway

    def _check_log(self, gateway: GatewayProcess) -> None:
        """Nothing that happens here is the gateway's error: it may log none."""
        errors = [line for line in gateway.log if line.get("level") in ("error", "critical")]
        if errors or "Traceback" in "".join(gateway.text):
            self.problems.append(f"the log has errors:\n{''.join(gateway.text[-20:])}")


def _held_task(round_: int) -> str:
    return f"sim-success-held-{round_}"


@asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    """Give a client; over the gateway's own transport, as httpx's raises AttributeError on some connections cut."""
    resolver = Resolver()
    transport = PooledTransport(guard=None, resolve=resolver.resolve, limit=4 * _WORKERS, limit_idle=_WORKERS)
    try:
        async with httpx.AsyncClient(transport=transport) as client:
            yield client
    finally:
        await resolver.close()


@asynccontextmanager
async def harness(folder: Path) -> AsyncIterator[Harness]:
    """Serve the two sides for a harness whose files are in ``folder``."""
    scratch = folder / "copies"
    scratch.mkdir()
    async with serve_sides(Sides()) as sides:
        yield Harness(folder, sides, Checker(sides, scratch))
