"""A long time at a steady rate: whether memory, write-ahead log, files and threads stay as they are.

Tasks are registered in small batches at fixed times, whatever the gateway does; each is polled once and delivered. A
sample of it all every 10 seconds. Growth is counted after the first minutes, in which caches fill.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import load
import uvloop
from figures import Figure, at_least, at_most
from gatewayprocess import GatewayProcess, start_gateway
from harness import Sides
from session import Session

PER_S = 1000
BATCH = 100
SAMPLE_S = 10.0
FIRST_S = 300.0
"""In which caches fill; a sixth of a shorter time."""
KEPT_UP = 0.99  # the last batch is on its way when the last sample is taken

Sample = dict[str, float]


def measure(session: Session) -> list[Figure]:
    seconds = session.minutes * 60
    session.say(f"soak, {session.minutes:g} minutes")
    with session.folder() as folder, start_gateway(folder, upstream_url=session.sides.upstream_url) as gateway:
        samples = uvloop.run(_soak(gateway, session.sides, seconds, session.say))
        arrived = session.sides.wait(round(seconds * PER_S / BATCH) * BATCH)
    session.samples.extend(samples)
    settled = [sample for sample in samples if sample["at_s"] >= min(FIRST_S, seconds / 6)]
    how = f"{session.minutes:g} minutes, after the first {min(FIRST_S, seconds / 6):g} s; a sample every {SAMPLE_S:g} s"
    per_s = (settled[-1]["lives"] - settled[0]["lives"]) / (settled[-1]["at_s"] - settled[0]["at_s"])
    return [
        Figure("soak.lives", "soak: whole lives", "/s", [per_s], at_least(PER_S * KEPT_UP), how),
        Figure(
            "soak.repeated", "soak: webhooks sent twice", "", [float(arrived.webhooks - arrived.distinct)], at_most(0)
        ),
        Figure("soak.resident", "soak: resident memory's growth", "MB", [_growth(settled, "resident_mb")], at_most(10)),
        Figure("soak.wal", "soak: largest write-ahead log", "MB", [max(s["wal_mb"] for s in samples)], at_most(64)),
        _constant("soak.files", "soak: growth of open files", settled, "files"),
        _constant("soak.threads", "soak: growth of threads", settled, "threads"),
    ]


def _growth(samples: list[Sample], name: str) -> float:
    """From the first sample to the highest of them."""
    return max(sample[name] for sample in samples) - samples[0][name]


def _constant(name: str, title: str, samples: list[Sample], what: str) -> Figure:
    """From the highest of the first half to the highest of the second: connections come and go with the load."""
    half = len(samples) // 2
    first, second = (max(sample[what] for sample in part) for part in (samples[: half or 1], samples[half:]))
    how = f"highest of each half of the samples: {first:.0f}, then {second:.0f}"
    return Figure(name, title, "", [second - first], at_most(0), how)


async def _soak(gateway: GatewayProcess, sides: Sides, seconds: float, say: Callable[[str], None]) -> list[Sample]:
    started = time.monotonic()
    sampling = asyncio.create_task(_sample(gateway, sides, started, say), name="samples")
    try:
        hook = f"{sides.receiver_url}/hook"
        await load.pace(
            gateway.url, _batches(round(seconds * PER_S / BATCH), hook), BATCH / PER_S, load.all_created(BATCH)
        )
    finally:
        sampling.cancel()
    return await sampling


def _batches(count: int, hook: str) -> Iterator[bytes]:
    for number in range(count):
        yield from load.batch_registrations([f"soak-{number}-{n}" for n in range(BATCH)], hook, BATCH)


async def _sample(gateway: GatewayProcess, sides: Sides, started: float, say: Callable[[str], None]) -> list[Sample]:
    samples: list[Sample] = []
    try:
        while True:
            samples.append(await asyncio.to_thread(_take, gateway, sides, started))
            say(_line(samples[-2 if len(samples) > 1 else -1], samples[-1]))
            os.truncate(gateway.log, 0)  # it would be a gigabyte in half an hour
            await asyncio.sleep(SAMPLE_S - (time.monotonic() - started) % SAMPLE_S)
    except asyncio.CancelledError:
        return samples


def _take(gateway: GatewayProcess, sides: Sides, started: float) -> Sample:
    return {
        "at_s": round(time.monotonic() - started, 2),
        "lives": sides.count().distinct,
        "cpu_s": gateway.cpu_s(),
        "resident_mb": round(gateway.resident_mb(), 2),
        "wal_mb": round(gateway.wal_mb(), 2),
        "database_mb": round(gateway.database.stat().st_size / 2**20, 1),
        "files": gateway.open_files(),
        "threads": gateway.threads(),
    }


def _line(before: Sample, sample: Sample) -> str:
    took_s = max(sample["at_s"] - before["at_s"], 0.001)
    values: dict[str, Any] = {
        "lives/s": f"{(sample['lives'] - before['lives']) / took_s:7.0f}",
        "CPU": f"{(sample['cpu_s'] - before['cpu_s']) / took_s:5.0%}",
        "resident MB": f"{sample['resident_mb']:6.1f}",
        "WAL MB": f"{sample['wal_mb']:5.1f}",
        "database MB": f"{sample['database_mb']:7.0f}",
        "files": f"{sample['files']:4.0f}",
        "threads": f"{sample['threads']:2.0f}",
    }
    return "  ".join(f"{name} {value}" for name, value in values.items())
