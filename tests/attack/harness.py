"""One run: a gateway under a memory limit, an innocent client, first alone and then among attackers; the verdict.

Owns the order of things and what counts as broken. Called by ``__main__`` and by the short form in the tests.
"""

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.core.clock import SystemClock
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.scenario import Plan
from tests.attack import innocent
from tests.attack.gateway import Attacked, attacked, settings
from tests.attack.hostile import ATTACKERS, ROLES
from tests.attack.innocent import Innocent

__all__ = ["LIMIT_BYTES", "MOST_TIMES_CALM", "Run", "p99", "play"]

LIMIT_BYTES = 256 * 2**20
MOST_TIMES_CALM = 5.0
_ROOT = Path(__file__).parents[2]
_FINISH_S = 90.0
_TIMED = ("registering", "creating", "notice to delivery", "a whole life")
"""What must stay within so many times its calm figure; the others are told."""
_SOON_S = 0.1
"""Nobody calls it waiting; below it the machine's own scheduling makes the figure."""


@dataclass
class Run:
    """What was seen."""

    names: Sequence[str]
    did: dict[str, dict[str, int]] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Attackers that broke down themselves."""
    innocent: Innocent = field(default_factory=Innocent)
    how_limited: str = ""
    peak_bytes: int = 0
    exit_status: int | None = None
    broken: list[str] = field(default_factory=list)
    """Sentences, each a reason why the gateway has not held."""

    def judge(self, gateway: Attacked) -> None:
        """Say what must not have happened; times are another matter."""
        him = self.innocent
        told = {
            "webhook(s) of the innocent's are lost": him.lost,
            "answer(s) and webhook(s) of the innocent's are wrong": him.wrong,
            "request(s) of the innocent's failed": him.failed,
            "time(s) it did not say that it is well": gateway.unhealthy,
            "traceback(s) in the log": gateway.tracebacks(),
        }
        self.broken += [f"{len(what)} {words}: {'; '.join(what[:3])[:600]}" for words, what in told.items() if what]
        if gateway.over:
            self.broken.append(f"it had {self.peak_bytes / 2**20:.0f} MB of {LIMIT_BYTES / 2**20:.0f}")
        if self.exit_status != 0:
            killed = ": killed, as for want of memory" if self.exit_status == -9 else ""
            self.broken.append(f"it ended with {self.exit_status}{killed}")
        if not him.arrived:
            self.broken.append("nothing of the innocent's arrived")
        self.broken += [f"{name} found: {'; '.join(what[:3])}" for name, what in self.found.items()]
        self.broken += [f"{name} broke down: {why}" for name, why in self.failed.items()]
        self.broken += [
            f"{name} did nothing that counts: {self.did.get(name)}"
            for name in self.names
            if not self.did.get(name, {}).get(ATTACKERS[name].proof)
        ]

    def times(self) -> list[tuple[str, float, float, bool]]:
        """Return for each thing that was timed its p99 when calm, under attack, and whether that is within bounds."""
        calm, attack = self.innocent.seconds["calm"], self.innocent.seconds["attack"]
        rows = []
        for what in sorted(calm.keys() | attack.keys()):
            before, under = p99(calm[what]), p99(attack[what])
            rows.append((what, before, under, what not in _TIMED or under <= max(MOST_TIMES_CALM * before, _SOON_S)))
        return rows


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile; NaN of nothing."""
    return sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1] if seconds else math.nan


async def play(
    folder: Path, names: Sequence[str], *, seed: int, calm_s: float, attack_s: float, at_once: int = len(ATTACKERS)
) -> Run:
    """Run it all, and judge; the files stay in the folder."""
    run = Run(names)
    simulator = SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0.3), seed=seed)
    async with (
        serve_simulator(simulator) as good_url,
        innocent.working() as run.innocent,
        _hostile(names, seed, at_once) as hostile,
    ):
        toml = settings(folder, good_url, hostile.upstreams, (innocent.NAME, *ROLES))
        async with attacked(folder, toml, hostile.nameserver, LIMIT_BYTES) as gateway:
            run.how_limited = gateway.limit.how
            watches = [asyncio.create_task(gateway.watch_memory()), asyncio.create_task(gateway.watch_health())]
            work = asyncio.create_task(run.innocent.work(gateway.url))
            await asyncio.wait([work], timeout=calm_s)
            run.innocent.phase = "attack"
            hostile.tell({"gateway": gateway.url})
            await asyncio.wait([work, *watches], timeout=attack_s, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            told = await hostile.ended()
            await run.innocent.finish(0.0 if gateway.process.returncode is not None else _FINISH_S)
            for watch in watches:
                watch.cancel()
            run.exit_status = gateway.process.returncode or await gateway.stop()
            run.peak_bytes = gateway.peak_bytes
            run.did, run.found, run.failed = told["did"], told["found"], told["failed"]
            run.judge(gateway)
    return run


class _Hostile:
    """The attackers' process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.upstreams: dict[str, str] = {}
        self.nameserver = ""

    def tell(self, what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")

    async def told(self) -> Any:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "the attackers' process ended"
        return json.loads(line)

    async def ended(self) -> Any:
        """End the attack; return what was done."""
        self.tell("stop")
        told = await self.told()
        await self.process.wait()
        return told


@asynccontextmanager
async def _hostile(names: Sequence[str], seed: int, at_once: int) -> AsyncIterator[_Hostile]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.attack.hostile"),
        env={name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        | {"PYTHONPATH": str(_ROOT)},
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    hostile = _Hostile(process)
    try:
        hostile.tell({"names": list(names), "seed": seed, "at_once": at_once})
        listening = await hostile.told()
        hostile.upstreams, hostile.nameserver = listening["upstreams"], listening["nameserver"]
        yield hostile
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
