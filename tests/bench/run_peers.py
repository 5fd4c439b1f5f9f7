"""Compare the peers: the same whole life of a task, by the script people write, durable libraries, and bare HTTP.

Runs each file of ``peers/`` as a process of its own on one core, the simulated sides on another, in rounds that take
turns (A B C, A B C, …) so that a noisy minute hits all of them. Owns no figure: a peer measures itself, and the
receiver must have counted as many distinct webhooks as the peer says.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import MEASURED, Sides, median_of, pinned, start_sides

PEERS = Path(__file__).with_name("peers")
# About five seconds each, so that a start's and an end's share of a figure is small.
COUNTS = {"script": 2000, "floor": 30000}
LIMIT_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COUNTS, default=list(COUNTS), metavar="PEER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, help=f"lives in each run; otherwise {COUNTS}")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers' packages")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    with start_sides() as sides:
        for _ in range(options.rounds):
            for name in options.only:
                count = options.count or COUNTS[name]
                rounds[name].append(run(options.python, name, sides, count, options.concurrency))
    figures = {name: summary(runs) for name, runs in rounds.items()}
    print(json.dumps(figures) if options.json else table(figures))


def run(python: str, name: str, sides: Sides, count: int, concurrency: int) -> dict[str, Any]:
    """Run one peer once; return what it said, with the share of a core that the sides used in its measured seconds."""
    sides.reset()
    command = [python, str(PEERS / f"{name}.py"), "--upstream", sides.upstream_url, "--receiver", sides.receiver_url]
    command += ["--count", str(count), "--concurrency", str(concurrency)]
    busy_s = sides.cpu_s()
    done = subprocess.run(command, stdout=subprocess.PIPE, preexec_fn=pinned(MEASURED), timeout=LIMIT_S, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    arrived, expected = sides.count().distinct, count + figures["warm_up"]
    if arrived != expected:
        raise SystemExit(f"{name}: {arrived} distinct webhooks arrived, not {expected}")
    busy_s = (sides.cpu_s() - busy_s) * count / expected
    return figures | {"sides_busy": round(busy_s / figures["seconds"], 3)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    lives = median_of(run["lives_per_s"] for run in runs)
    return {
        "lives_per_s": lives.median,
        "low": lives.low,
        "high": lives.high,
        "spread": round(lives.spread, 3),
        "sides_busy": median_of(run["sides_busy"] for run in runs).median,
        "runs": runs,
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'peer':<14} {'lives/s':>9} {'lowest':>9} {'highest':>9} {'spread':>7}   sides' core"]
    for name, peer in figures.items():
        lines.append(
            f"{name:<14} {peer['lives_per_s']:>9.0f} {peer['low']:>9.0f} {peer['high']:>9.0f} {peer['spread']:>7.0%}"
            f"   {peer['sides_busy']:.0%} busy"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
