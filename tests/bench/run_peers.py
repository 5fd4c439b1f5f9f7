"""Compare the peers: the same whole life of a task, by the script people write, durable libraries, and bare HTTP.

Run by ``make bench-peers``. Runs each file of ``peers/`` as a process of its own on one core, and beside it the
simulated sides and PostgreSQL on another, in rounds that take turns (A B C, A B C, …) so that a noisy minute hits all
of them. Owns no figure: a peer measures itself, and the receiver must have counted as many webhooks as the peer says.

Databases are files in a temporary folder, so ``TMPDIR`` says on which disk. What keeps its tasks waits for that disk at
each commit, hence the time of one write below the table. A peer's CPU time for one life is its own process's only, and
depends least on what else the machine does.
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import MEASURED, Sides, disk_write_ms, median_of, pinned, start_sides
from postgres import NotAvailableError, start_postgres

LIMIT_S = 600


@dataclass(frozen=True)
class Peer:
    file: str
    count: int
    """Lives in each run: some seconds' worth, so that the first and the last weigh little."""
    needs_postgres: bool = False


PEERS = {
    "script": Peer("script.py", 2000),
    "dbos": Peer("dbos_sqlite.py", 1000),
    "procrastinate": Peer("procrastinate_postgres.py", 1000, needs_postgres=True),
    "floor": Peer("floor.py", 30000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, help="lives in each run, otherwise as many as take a peer some seconds")
    parser.add_argument("--concurrency", type=int, default=64, help="lives at a time")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers' packages")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    missing: dict[str, str] = {}
    writes_ms = []
    with start_sides() as sides:
        for _ in range(options.rounds):
            writes_ms.append(disk_write_ms())
            for name in options.only:
                if name in missing:
                    continue
                try:
                    runs[name].append(run(options, PEERS[name], sides))
                except NotAvailableError as error:
                    missing[name] = str(error)
    figures = {name: {"not_available": missing[name]} if name in missing else summary(runs[name]) for name in runs}
    write = median_of(writes_ms)
    if options.json:
        print(json.dumps({"peers": figures, "disk_write_ms": {"median": write.median, "each": writes_ms}}))
        return
    print(table(figures))
    print(
        f"one write reached the disk in {write.median:.2f} ms (from {write.low:.2f} to {write.high:.2f} in the rounds)"
    )


def run(options: argparse.Namespace, peer: Peer, sides: Sides) -> dict[str, Any]:
    """Run one peer once; return what it said, with the share of a core that the sides used in its measured seconds."""
    count = options.count or peer.count
    file = Path(__file__).parent / "peers" / peer.file
    command = [options.python, str(file), "--upstream", sides.upstream_url, "--receiver", sides.receiver_url]
    command += ["--count", str(count), "--concurrency", str(options.concurrency)]
    with ExitStack() as stack:
        if peer.needs_postgres:
            command += ["--database", stack.enter_context(start_postgres())]
        sides.reset()
        busy_s = sides.cpu_s()
        done = subprocess.run(command, stdout=subprocess.PIPE, preexec_fn=pinned(MEASURED), timeout=LIMIT_S, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    expected = count + figures["warm_up"]
    arrived = sides.count()
    if arrived.distinct != expected:
        raise SystemExit(f"{peer.file}: {arrived.distinct} distinct webhooks arrived, not {expected}")
    busy_s = (sides.cpu_s() - busy_s) * count / expected
    return figures | {"sides_busy": round(busy_s / figures["seconds"], 3)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    lives = median_of(run["lives_per_s"] for run in runs)
    return {
        "lives_per_s": lives.median,
        "low": lives.low,
        "high": lives.high,
        "spread": round(lives.spread, 3),
        "cpu_ms_per_life": median_of(run["cpu_ms_per_life"] for run in runs).median,
        "sides_busy": median_of(run["sides_busy"] for run in runs).median,
        "runs": runs,
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'peer':<14} {'lives/s':>9} {'lowest':>9} {'highest':>9} {'spread':>7} {'CPU/life':>11}   sides' core"]
    for name, peer in figures.items():
        if "not_available" in peer:
            lines.append(f"{name:<14} not available here: {peer['not_available']}")
            continue
        lines.append(
            f"{name:<14} {peer['lives_per_s']:>9.0f} {peer['low']:>9.0f} {peer['high']:>9.0f} {peer['spread']:>7.0%}"
            f" {peer['cpu_ms_per_life']:>8.2f} ms   {peer['sides_busy']:.0%} busy"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
