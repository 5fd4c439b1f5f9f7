"""Registrations alone, each answered once its commit is on disk; and a bare Starlette application, which keeps nothing.

The upstream's rate is 1 request in 60 s and the tasks never end, so that polls and webhooks take no part.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import load
from figures import Figure, at_least, compare
from gatewayprocess import start_gateway
from harness import MEASURED, pinned
from session import Session

WARM_UP = 2000
HOOK = "http://127.0.0.1:9/hook"


def measure(session: Session) -> list[Figure]:
    singles = Figure(
        "registrations.singles",
        "registrations one by one",
        "/s",
        [],
        at_least(8000),
        "32 connections, each 201 after its commit; no polls: the tasks run on, and the rate is 1/60; "
        "the peer has the same load and keeps nothing",
    )
    batches = Figure(
        "registrations.batches",
        "registrations in batches of 500",
        "/s",
        [],
        at_least(40_000),
        "callbacks per second over 2 connections; no polls",
    )
    bare = [
        Figure(f"registrations.starlette_{name}", title, "/s", [], peer=True)
        for name, title in (("singles", "bare Starlette"), ("batches", "bare Starlette, batches"))
    ]
    for _ in session.rounds("registrations"):
        with (
            session.folder() as folder,
            start_gateway(folder, upstream_url=session.sides.upstream_url, upstream_rate="1/60") as gateway,
        ):
            for figure, per_s in zip((singles, batches), run(session, gateway.url), strict=True):
                figure.runs.append(per_s)
        with start_starlette() as url:
            for figure, per_s in zip(bare, run(session, url), strict=True):
                figure.runs.append(per_s)
    compare(singles, bare[0])
    compare(batches, bare[1])
    return [singles, batches, *bare]


def run(session: Session, url: str) -> tuple[float, float]:
    """Return registrations per second: one by one, and in batches."""
    one_by_one(url, "run-warm", WARM_UP)
    singles = session.count(30_000, 4000)
    seconds = one_by_one(url, "run-single", singles)
    batched = session.count(100_000, 10_000)
    requests = load.batch_registrations([f"run-batch-{number}" for number in range(batched)], HOOK)
    return singles / seconds, batched / load.send(url, requests, 2, load.all_created())


def one_by_one(url: str, name: str, count: int) -> float:
    requests = load.registrations([f"{name}-{number}" for number in range(count)], HOOK)
    return load.send(url, requests, 32, load.created)


@contextmanager
def start_starlette() -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).parent / "peers" / "starlette_app.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=pinned(MEASURED)) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.kill()
