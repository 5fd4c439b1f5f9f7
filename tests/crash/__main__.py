"""``python -m tests.crash``: kill a gateway under load again and again, or stop it, and say whether anything was lost.

Owns the command line and the summary. Exit 0: nothing was lost or corrupted, and each named point was met often enough.
"""

import asyncio
import random
import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import click
import uvloop

from tests.crash.harness import DRAIN_S, Harness, harness
from tests.crash.scenario import EXTRA_POINTS, NAMED_POINTS, kills, shutdowns

_LEAST_SHARE = 0.05  # of all cycles, at each named point: 10 of 200


@click.command()
@click.option(
    "--cycles", default=None, type=click.IntRange(1), help="How often it is ended.  [200; 50 with --terminate]"
)
@click.option("--seed", default=None, type=int, help="Replays a scenario; without it a new one is drawn.")
@click.option("--terminate", is_flag=True, help="End it with SIGTERM and see that it goes cleanly and in time.")
def main(cycles: int | None, seed: int | None, terminate: bool) -> None:
    """Run a gateway under load, end it again and again on one database, and check what was promised."""
    cycles = cycles or (50 if terminate else 200)
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    folder = Path(mkdtemp(prefix="gateway-crash-"))
    started = time.monotonic()
    run = uvloop.run(_run(folder, seed, cycles, terminate=terminate))
    ok = _report(run, time.monotonic() - started, cycles, terminate=terminate)
    if ok:
        shutil.rmtree(folder)
        return
    replay = f"make crash ARGS='--seed {seed} --cycles {cycles}{' --terminate' if terminate else ''}'"
    click.echo(f"FAILED. The files are in {folder}. Replay: {replay}")
    sys.exit(1)


async def _run(folder: Path, seed: int, cycles: int, *, terminate: bool) -> Harness:
    rounds = (shutdowns if terminate else kills)(seed, cycles)
    async with harness(folder) as run:
        playing = asyncio.create_task(run.play(rounds))
        while not playing.done():
            await asyncio.wait([playing], timeout=10)
            click.echo(f"  {run.cycles}/{cycles} …", err=True)
        await playing
    return run


def _report(run: Harness, took_s: float, cycles: int, *, terminate: bool) -> bool:
    checker, points = run.checker, NAMED_POINTS + EXTRA_POINTS
    figures = {
        "cycles": run.cycles,
        "answered 201": checker.created,
        "webhooks": len(run.sides.arrivals),
        "arrivals": sum(map(len, run.sides.arrivals.values())),
        "duplicates": checker.duplicates,
    }
    ok = run.ok and run.cycles == cycles
    if terminate:
        seen = run.shutdowns
        figures |= {
            "clean exits": seen.clean,
            "longest exit": f"{seen.longest_s:.2f} s of {DRAIN_S + 2:g} s",
            "last request": f"{seen.latest_s:.3f} s after SIGTERM",
            "interrupted": seen.interrupted,
            "held answered": seen.held_answers,
            "batches under way": seen.batches,
            "not answered": seen.cut,
        }
        ok = ok and seen.clean == cycles
    else:
        least = max(1, round(cycles * _LEAST_SHARE))
        figures |= {f"killed: {point}": run.killed[point] for point in points}
        figures |= {f"killed: after {what}": count for what, count in run.killed.items() if what not in points}
        figures["points missed"] = len(run.missed)
        ok = ok and all(run.killed[point] >= least for point in NAMED_POINTS)
    figures |= {"lost": len(checker.lost), "corrupted": len(checker.corrupted), "seconds": round(took_s)}
    for name, value in figures.items():
        click.echo(f"{name:<24} {value}")
    if report := run.report():
        click.echo(report)
    return ok


if __name__ == "__main__":
    main()
