"""``python -m tests.crash``: kill a gateway under load again and again, or stop it, and say whether anything was lost.

Owns the command line and the summary, but for that of several replicas. Exit 0: nothing was lost, corrupted or paid for
twice, and each named point was met often enough.
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

from tests.crash.creates import POINTS, Creates, create_kills, creates
from tests.crash.harness import DRAIN_S, Harness, harness
from tests.crash.scenario import EXTRA_POINTS, NAMED_POINTS, kills, shutdowns
from tests.crash.several import Several, play_several
from tests.printing import report_output

_LEAST_SHARE = 0.05  # of all cycles, at each named point: 10 of 200
_CREATES_SHARE = 0.2  # so many more amid creates, for an upstream that knows X-Request-ID and for one that does not


@click.command()
@click.option(
    "--cycles",
    default=None,
    type=click.IntRange(1),
    help="How often it is ended.  [200; 50 with --terminate]  With several replicas: rounds.  [10; 5 failovers; 3]",
)
@click.option("--seed", default=None, type=int, help="Replays a scenario; without it a new one is drawn.")
@click.option("--terminate", is_flag=True, help="End it with SIGTERM and see that it goes cleanly and in time.")
@click.option("--replicas", "several", flag_value="replicas", help="Three on one PostgreSQL: kill, stop, cut off.")
@click.option("--failover", "several", flag_value="failover", help="Three on a primary, which is killed.")
@click.option("--rolling", "several", flag_value="rolling", help="Three that are replaced one at a time.")
@click.option("--pooler", is_flag=True, help="Those of --replicas reach PostgreSQL by a PgBouncer.")
def main(cycles: int | None, seed: int | None, several: Several | None, *, terminate: bool, pooler: bool) -> None:
    """Run a gateway under load, end it again and again on one database, and check what was promised."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    folder = Path(mkdtemp(prefix="gateway-crash-"))
    if several is not None:
        sys.exit(not play_several(several, folder, seed, cycles, pooled=pooler))
    cycles = cycles or (50 if terminate else 200)
    started = time.monotonic()
    run = uvloop.run(_run(folder, seed, cycles, terminate=terminate))
    ok = _report(run, time.monotonic() - started, cycles, terminate=terminate)
    if not terminate:
        for honours in (True, False):
            amid = max(len(POINTS), round(cycles * _CREATES_SHARE))
            ok = _report_creates(uvloop.run(_run_creates(folder, seed, amid, honours=honours)), amid) and ok
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


async def _run_creates(folder: Path, seed: int, cycles: int, *, honours: bool) -> Creates:
    async with creates(folder / f"creates-{'honoured' if honours else 'ignored'}", honours=honours) as run:
        await run.play(create_kills(seed, cycles))
    return run


def _report_creates(run: Creates, cycles: int) -> bool:
    click.echo(f"creates, X-Request-ID {'honoured' if run.honours else 'ignored'} by the upstream")
    figures: dict[str, int] = {"cycles": run.cycles}
    figures |= {f"killed: {point}": run.killed[point] for point in POINTS}
    figures |= {outcome: run.outcomes[outcome] for outcome in ("created", "repeated", "forwarded again", "in doubt")}
    figures |= {"points missed": len(run.missed), "paid twice": run.paid_twice, "problems": len(run.problems)}
    for name, value in figures.items():
        click.echo(f"  {name:<22} {value}")
    for problem in run.problems[:20]:
        click.echo(f"  problem: {problem}")
    return run.ok and run.cycles == cycles and all(run.killed[point] for point in POINTS)


if __name__ == "__main__":
    with report_output():
        main()
