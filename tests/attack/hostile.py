"""``python -m tests.attack.hostile``: the attackers' own process, lest their work slow the innocent's clock.

Owns the attackers' start and end. Speaks in lines of JSON with the harness: the choice comes in, where they listen goes
out, the gateway's URL comes in, and once the input ends what each has done goes out.
"""

import asyncio
import json
import os
import resource
import sys
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
_NICE = 2
_PROOF_LIMIT_S = 60.0
_LOOK_S = 0.05


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
        running = [asyncio.create_task(attacker.run(), name=attacker.name) for attacker in attackers]
        await lines.readline()
        await _proven(attackers)
        failed = {task.get_name(): repr(task.exception()) for task in running if task.done()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for attacker in attackers:
            await attacker.close()
        _tell(
            {
                "did": {attacker.name: dict(attacker.did) for attacker in attackers},
                "found": {attacker.name: sorted(set(attacker.found))[:20] for attacker in attackers if attacker.found},
                "failed": failed,
            }
        )


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
