"""Replicas of which one after the other is killed, stopped past its leases, cut off from the database and restarted.

Owns what is done to whom, and how soon the others have taken over what it had.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gateway.loops import leading
from gateway.store.postgres import webhookleases
from tests.crash.audit import claimed_by, led_by
from tests.crash.cluster import Cluster, cluster, until
from tests.crash.replicas import ATTEMPT_S, Replica
from tests.crash.sharedchecker import Fault
from tests.crash.sharedsides import SharedSides
from tests.pooler import pgbouncer
from tests.postgres import Server
from tests.tcpproxy import tcp_proxy

__all__ = ["KINDS", "LEASES", "Leases", "Turmoil", "turmoil"]

KINDS = ("kill", "stop", "silence", "reset", "restart")
_BUSY_S = 5.0
_POOL = 4
"""Connections of a PgBouncer to the server, for each replica: fewer than it has to PgBouncer."""
_DUE = "SELECT count(*) FROM tasks WHERE upstream = $1 AND next_poll_at <= gateway_now()"


@dataclass(frozen=True)
class Leases:
    """How long what a dead replica had is left to it, in seconds."""

    polls_s: float
    webhooks_s: float
    module: Sequence[str] = ("gateway",)
    """What runs a gateway with these."""
    polled_s: float = 5.0
    """How long after its lease another has polled what a dead replica led."""


LEASES = Leases(leading.LEASE_S, ATTEMPT_S + webhookleases.TAKEN_OVER_S)


@dataclass
class Turmoil:
    """The faults, and what was seen of them."""

    cluster: Cluster
    leases: Leases
    rounds: int = 0
    idle: list[str] = field(default_factory=list)
    """Faults that met nothing under way."""
    polls_taken_s: dict[str, list[float]] = field(default_factory=dict)
    """How long an upstream was not polled, by the kind of fault."""
    webhooks_taken_s: dict[str, list[float]] = field(default_factory=dict)
    """How long after the fault what was claimed was recorded or claimed by another."""

    async def play(self, rounds: int, kinds: Sequence[str] = KINDS) -> None:
        """Do each of these to a replica, in each round to others, then let them finish, and judge it all."""
        replicas = self.cluster.replicas
        await self.cluster.begin()
        for number in range(rounds):
            for place, kind in enumerate(kinds):
                # Not who was restarted last, and so leads nothing yet.
                await self._do(kind, replicas[(2 * number + place) % len(replicas)])
                if not self.cluster.ok:
                    self.cluster.problems.append(f"seen after round {number}: {kind}")
                    return
            self.rounds += 1
        await self.cluster.end()
        self._check_claims()

    async def _do(self, kind: str, victim: Replica) -> None:
        run = self.cluster
        run.round(len(run.checker.faults))
        async with run.admin() as db:
            if not await until(lambda: run.sides.under_way(victim.name), _BUSY_S):
                self.idle.append(f"{kind} of {victim.life}")
            led = [name for name, life in (await led_by(db)).items() if life == victim.life]
            at, wall_at = time.monotonic(), time.time()
            fault = Fault(kind, victim.name, at, float("inf"), led, wall_at=wall_at)
            run.checker.faults.append(fault)
            await self._begin(kind, victim)
            fault.claimed = await claimed_by(db, victim.life)
        if kind == "restart" and fault.claimed:
            left = f"{len(fault.claimed)} webhooks are left claimed"
            run.problems.append(f"{victim.life}: {left} after its exit\n{victim.tail()}")
        await self._taken_over(fault)
        await self._end(kind, victim, fault)
        await victim.ready()
        await run.look()

    async def _begin(self, kind: str, victim: Replica) -> None:
        assert victim.proxy is not None
        match kind:
            case "kill":
                await victim.kill()
            case "stop":
                victim.pause()
            case "silence":
                victim.proxy.silence()
            case "reset":
                victim.proxy.reset()
            case "restart":
                if (status := await victim.terminate()) != 0:
                    self.cluster.problems.append(f"{victim.life}: exit status {status}\n{victim.tail()}")

    async def _end(self, kind: str, victim: Replica, fault: Fault) -> None:
        assert victim.proxy is not None
        match kind:
            case "kill" | "restart":
                fault.until = fault.at if kind == "kill" else time.monotonic()
                await victim.start()
                return
            case "stop":
                await until(lambda: time.monotonic() > fault.at + self.leases.webhooks_s + 1, float("inf"))
                victim.go_on()
            case "silence":
                late = sum(one.kind == kind for one in self.cluster.checker.faults) % 2 == 1
                victim.proxy.mend(late=late)
            case "reset":
                victim.proxy.mend()
        fault.until = time.monotonic()

    async def _taken_over(self, fault: Fault) -> None:
        """Wait until what it led is polled by others."""
        sides, within_s = self.cluster.sides, self.leases.polls_s + self.leases.polled_s
        for name in fault.led:

            def polled(name: str = name) -> bool:
                return sides.polled_since(name, fault.at, but=fault.replica) is not None

            left_s = fault.at + within_s + 1 - time.monotonic()
            taken = await until(polled, max(0.0, left_s))
            taken_s = (sides.polled_since(name, fault.at, but=fault.replica) or float("inf")) - fault.at
            self.polls_taken_s.setdefault(fault.kind, []).append(taken_s)
            if not taken or taken_s > within_s:
                async with self.cluster.admin() as db:
                    leader = (await led_by(db)).get(name)
                    due = await db.fetchval(_DUE, name)
                said = f"{name} was not polled for {taken_s} s; {leader} took it last, {due} tasks are due"
                self.cluster.problems.append(f"{fault.kind} of {fault.replica}: {said}")

    def _check_claims(self) -> None:
        """What it had claimed was recorded, or claimed by another once its lease was over."""
        for fault in self.cluster.checker.faults:
            for seq, fence in fault.claimed:
                entry = self.cluster.audit.next_of(seq, fence)
                if entry is None:
                    continue  # it was given back, and nobody claimed it again: then it is lost, as the checker says
                taken_s = entry.at - fault.wall_at
                self.webhooks_taken_s.setdefault(fault.kind, []).append(taken_s)
                if taken_s > self.leases.webhooks_s:
                    self.cluster.problems.append(f"{fault.kind} of {fault.replica}: webhook {seq} after {taken_s} s")


@asynccontextmanager
async def turmoil(
    folder: Path, server: Server, seed: int, leases: Leases = LEASES, count: int = 3, *, pooled: bool = False
) -> AsyncIterator[Turmoil]:
    """Run so many replicas on a server, each behind a proxy of its own; ``pooled``: all of these before a PgBouncer."""

    async def make(stack: AsyncExitStack, sides: SharedSides) -> list[Replica]:
        replicas, port = [], server.port
        if pooled:
            port = urlsplit(await stack.enter_async_context(pgbouncer(server, _POOL * count))).port or 0
        for number in range(count):
            proxy = await stack.enter_async_context(tcp_proxy(port))
            url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
            replicas.append(Replica(f"r{number}", url, sides, folder, proxy))
            replicas[-1].module = leases.module
        return replicas

    async with cluster(lambda: server.url(user="postgres"), seed, make) as run:
        yield Turmoil(run, leases)
