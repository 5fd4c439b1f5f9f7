"""The peers as processes: each file of ``peers/`` on the gateway's core, and what it needs beside it on the other.

Owns which peers there are and how one is run once. Owns no figure: a peer measures itself, and the receiver must have
counted as many webhooks as the peer says. Databases are files in a temporary folder, so ``TMPDIR`` says on which disk.
"""

import json
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databases import start_peers_database
from harness import MEASURED, Sides, pinned

LIMIT_S = 600
CONCURRENCY = 64


@dataclass(frozen=True)
class Peer:
    file: str
    title: str
    count: int
    """Lives, or whatever it does, in each run: some seconds' worth, so that the first and the last weigh little."""
    needs_postgres: bool = False
    delivers: bool = True
    """Whether each one ends with a webhook."""


LIVES = (
    Peer("script.py", "script", 2000),
    Peer("dbos_sqlite.py", "dbos", 1000),
    Peer("procrastinate_postgres.py", "procrastinate", 1000, needs_postgres=True),
    Peer("floor.py", "floor", 30000),
)
GETS = (
    Peer("gets_httpx.py", "httpx", 4000, delivers=False),
    Peer("gets_aiohttp.py", "aiohttp", 40000, delivers=False),
)


def run_peer(python: str, peer: Peer, sides: Sides, count: int) -> dict[str, Any]:
    """Run one peer once; return what it said. Raises NotAvailable where there is no PostgreSQL for it."""
    file = Path(__file__).parent / "peers" / peer.file
    command = [python, str(file), "--upstream", sides.upstream_url, "--receiver", sides.receiver_url]
    command += ["--count", str(count), "--concurrency", str(CONCURRENCY)]
    with ExitStack() as stack:
        if peer.needs_postgres:
            command += ["--database", stack.enter_context(start_peers_database())]
        sides.reset()
        done = subprocess.run(command, stdout=subprocess.PIPE, preexec_fn=pinned(MEASURED), timeout=LIMIT_S, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    expected = count + figures["warm_up"]
    if peer.delivers and (arrived := sides.count().distinct) != expected:
        raise RuntimeError(f"{peer.file}: {arrived} distinct webhooks arrived, not {expected}")
    return figures
