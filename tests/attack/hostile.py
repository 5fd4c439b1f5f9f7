"""``python -m tests.attack.hostile``: the attackers' own process, lest their work slow the innocent's clock.

Owns the attackers' start and end. Speaks in lines of JSON with the harness: the choice comes in, where they listen goes
out, the gateway's URL comes in, and once the input ends what each has done goes out.
"""

import asyncio
import json
import os
import resource
import sys
from random import Random
from typing import Any

import uvloop

from tests.attack.attacker import Attacker, World
from tests.attack.clients import CLIENTS
from tests.attack.neighbours import NEIGHBOURS
from tests.attack.receivers import RECEIVERS
from tests.attack.upstreams import UPSTREAMS
from tests.nameserver import serve_names

__all__ = ["ATTACKERS", "ROLES"]

ATTACKERS: dict[str, type[Attacker]] = {
    attacker.name: attacker for attacker in (*CLIENTS, *RECEIVERS, *UPSTREAMS, *NEIGHBOURS)
}
ROLES = tuple(sorted({attacker.role for attacker in ATTACKERS.values()} - {"nobody"}))
_NICE = 19  # elsewhere they have machines of their own
_PROOF_LIMIT_S = 60.0
_LOOK_S = 0.05
_SHIFT_S = 20.0


async def main() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    choice = json.loads(await lines.readline())
    world = World(seed=choice["seed"])
    attackers = [ATTACKERS[name](world) for name in choice["names"]]
    async with serve_names() as nameserver:
        for attacker in attackers:
            await attacker.prepare()
        nameserver.names = world.names
        _tell({"upstreams": world.upstreams, "nameserver": nameserver.address})
        world.url = json.loads(await lines.readline())["gateway"]
        failed: dict[str, str] = {}
        running = asyncio.create_task(_in_shifts(attackers, choice["at_once"], Random(choice["seed"]), failed))
        await lines.readline()
        await _proven(attackers)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for attacker in attackers:
            await attacker.close()
        _tell(
            {
                "did": {attacker.name: dict(attacker.did) for attacker in attackers},
                "found": {attacker.name: sorted(set(attacker.found))[:20] for attacker in attackers if attacker.found},
                "failed": failed,
            }
        )


async def _in_shifts(attackers: list[Attacker], at_once: int, random: Random, failed: dict[str, str]) -> None:
    """Have so many at a time attack, until cancelled: all of them in turn, and each time in another company."""
    while True:
        mixed = random.sample(attackers, len(attackers))
        for start in range(0, len(mixed), at_once):
            shift = [asyncio.create_task(one.run(), name=one.name) for one in mixed[start : start + at_once]]
            try:
                await asyncio.wait(shift, timeout=_SHIFT_S)
            finally:
                failed |= {one.get_name(): repr(one.exception()) for one in shift if one.done()}
                for one in shift:
                    one.cancel()
                await asyncio.gather(*shift, return_exceptions=True)


async def _proven(attackers: list[Attacker]) -> None:
    """Wait until each has done what proves it, but not for ever: a busy machine must not make it a bystander."""
    for _ in range(round(_PROOF_LIMIT_S / _LOOK_S)):
        if all(attacker.did[attacker.proof] for attacker in attackers):
            return
        await asyncio.sleep(_LOOK_S)


def _tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    os.nice(_NICE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main())
