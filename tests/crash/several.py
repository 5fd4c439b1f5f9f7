"""The runs with several replicas on one PostgreSQL, and their summaries. Called by ``python -m tests.crash``."""

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import uvloop

from tests.crash.cluster import Cluster
from tests.crash.failover import failovers
from tests.crash.rolling import rolling
from tests.crash.turmoil import KINDS, turmoil
from tests.pgpair import pair
from tests.postgres import from_wheel, running

__all__ = ["Several", "play_several"]

Several = Literal["replicas", "failover", "rolling"]
Play = Callable[[Path, int, int], Coroutine[Any, Any, tuple[Cluster, dict[str, Any]]]]
_CYCLES: Mapping[Several, int] = {"replicas": 10, "failover": 5, "rolling": 3}
_SAY_S = 20.0


def play_several(what: Several, folder: Path, seed: int, cycles: int | None, *, pooled: bool = False) -> bool:
    """Play so many rounds, print what was seen, and return whether all held. The files stay where it did not.

    ``pooled``: the replicas that are killed, stopped and cut off have a PgBouncer before the database.
    """
    cycles = cycles or _CYCLES[what]
    started = time.monotonic()
    plays: Mapping[Several, Play] = {
        "replicas": partial(_replicas, pooled=pooled),
        "failover": _failover,
        "rolling": _rolling,
    }
    run, figures = uvloop.run(plays[what](folder, seed, cycles))
    for name, value in (figures | _figures(run) | {"seconds": round(time.monotonic() - started)}).items():
        click.echo(f"{name:<34} {value}")
    if run.ok:
        shutil.rmtree(folder)
        return True
    for place in run.places:
        for number, gateway in enumerate(place.gateways, 1):
            (folder / f"{place.name}.{number}.log").write_text("".join(gateway.text), "utf-8")
    click.echo(run.report())
    what_again = f"--{what}{' --pooler' if pooled else ''} --seed {seed} --cycles {cycles}"
    click.echo(f"FAILED. The files are in {folder}. Again: make crash ARGS='{what_again}'")
    return False


def _figures(run: Cluster) -> dict[str, Any]:
    checker, clients = run.checker, run.clients
    return {
        "answered 201": checker.created,
        "webhooks": len(run.sides.arrivals),
        "arrivals": sum(map(len, run.sides.arrivals.values())),
        "arrived and not recorded": checker.repeated,
        "repeated after a 2xx": checker.duplicates,
        "tries to register that failed": f"{len(clients.first)}, once more {len(clients.second)}",
        "reads and creates": ", ".join(f"{count} {what}" for what, count in sorted(clients.others.items())),
        "requests to upstreams": sum(map(len, run.sides.asked.values())),
        "a key's fullest window": f"{run.sides.fullest():.0%} of its limit",
        "stale writes fenced off": f"{run.stale_writes:g}",
        "stale writes that changed a row": len(run.audit.wrong),
        "lost": len(checker.lost),
        "corrupted": len(checker.corrupted),
    }


async def _replicas(folder: Path, seed: int, cycles: int, *, pooled: bool) -> tuple[Cluster, dict[str, Any]]:
    with running(from_wheel()) as server:
        async with turmoil(folder, server, seed, pooled=pooled) as run:
            await _telling(run.play(cycles), lambda: f"{run.rounds}/{cycles}")
            figures: dict[str, Any] = {"rounds": run.rounds, "faults with nothing under way": len(run.idle)}
            for kind in KINDS:
                faults = sum(fault.kind == kind for fault in run.cluster.checker.faults)
                polls, webhooks = run.polls_taken_s.get(kind, []), run.webhooks_taken_s.get(kind, [])
                said = [f"{faults} times"]
                said += [f"polls taken over in {max(polls):.1f} s at most ({len(polls)})"] if polls else []
                said += [f"webhooks in {max(webhooks):.1f} s ({len(webhooks)})"] if webhooks else []
                figures[kind] = "; ".join(said)
            return run.cluster, figures


async def _failover(folder: Path, seed: int, cycles: int) -> tuple[Cluster, dict[str, Any]]:
    with pair(from_wheel()) as both:
        async with failovers(folder, both, seed) as run:
            await _telling(run.play(cycles), lambda: f"{len(run.done)}/{cycles}")
            return run.cluster, {
                "failovers": len(run.done),
                "promotions took": _seconds([one.took_s for one in run.done]),
                "last error after the promotion": _seconds(run.errors_s),
                "the same of who asked once more": _seconds(run.second_errors_s),
            }


async def _rolling(folder: Path, seed: int, cycles: int) -> tuple[Cluster, dict[str, Any]]:
    with running(from_wheel()) as server:
        async with rolling(folder, server, seed) as run:
            await _telling(run.play(cycles), lambda: f"{run.replaced}/{3 * cycles}")
            return run.cluster, {"replaced": run.replaced, "exits took": _seconds(run.exits_s)}


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values) + " s"


async def _telling(play: Coroutine[Any, Any, None], how_far: Callable[[], str]) -> None:
    playing = asyncio.ensure_future(play)
    while not playing.done():
        await asyncio.wait([playing], timeout=_SAY_S)
        click.echo(f"  {how_far()} …", err=True)
    await playing
