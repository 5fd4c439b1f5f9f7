"""The figures of a gateway: each function starts what it measures, and returns one run's values by name.

Owns what is measured and how; no target and no table. Every gateway here is a process of its own on one core, durable
with SQLite's ``synchronous=FULL``; load and simulated sides are on the other core.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from gatewayprocess import NO_POLLS, GatewayProcess, start_gateway
from harness import MEASURED, Sides, pinned
from load import register_batches, register_singly

from gateway.model import NewCallback, Outcome, Settlement, TaskState, new_callback_id
from gateway.store.sqlite import SqliteStore

LIMIT_S = 300
WARM_UP = 1000


def lives(sides: Sides, count: int, *, singly: bool = False) -> dict[str, float]:
    """Register → one poll → signed delivery → recorded, from the first registration to the last webhook."""
    with start_gateway(sides.upstream_url) as gateway:
        for number, name in ((WARM_UP, "warm"), (count, "life")):
            sides.reset()
            cpu_s, started = gateway.cpu_s(), time.monotonic()
            register = register_singly if singly else register_batches
            register(gateway.url, task_ids(name, number), sides.receiver_url + "/hook")
            seconds = sides.wait(number, LIMIT_S).last_at - started
            # What is delivered is to be recorded as well: the next figure must not pay for it.
            cpu_s = gateway.cpu_s() - cpu_s
        return {"lives_per_s": count / seconds, "cpu_us": cpu_s / count * 1e6}


def registrations(sides: Sides, count: int, *, singly: bool) -> dict[str, float]:
    """Registrations alone: the tasks' first polls come after the measurement."""
    with start_gateway(sides.upstream_url, settings=NO_POLLS) as gateway:
        register = register_singly if singly else register_batches
        register(gateway.url, task_ids("run-warm", WARM_UP), sides.receiver_url + "/hook")
        return {"per_s": count / register(gateway.url, task_ids("run", count), sides.receiver_url + "/hook")}


def bare_starlette(count: int) -> dict[str, float]:
    """The same requests to Starlette alone, which stores and checks nothing."""
    command = [sys.executable, str(Path(__file__).with_name("bare.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=pinned(MEASURED)) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            register_singly(url, task_ids("warm", WARM_UP), "http://127.0.0.1:9/hook")
            return {"per_s": count / register_singly(url, task_ids("run", count), "http://127.0.0.1:9/hook")}
        finally:
            process.kill()


def polls(sides: Sides, tasks: int, seconds: float) -> dict[str, float]:
    """Polls of tasks that run on: more are always due than can be made."""
    settings = {"GATEWAY_POLL_MIN_S": "0.05", "GATEWAY_POLL_MAX_S": "0.05"}
    with start_gateway(sides.upstream_url, settings=settings) as gateway:
        register_batches(gateway.url, task_ids("run", tasks), sides.receiver_url + "/hook")
        per_s, cpu_us = polled(gateway, sides, seconds)
        return {"per_s": per_s, "cpu_us": cpu_us}


def polled(gateway: GatewayProcess, sides: Sides, seconds: float) -> tuple[float, float]:
    """Return polls per second and their CPU time, µs each, over some seconds after a warm-up of one."""
    time.sleep(1)
    count, cpu_s, started = sides.polls(), gateway.cpu_s(), time.monotonic()
    time.sleep(seconds)
    made = sides.polls() - count
    return made / (time.monotonic() - started), (gateway.cpu_s() - cpu_s) / max(made, 1) * 1e6


def backlog(sides: Sides, count: int, receivers: int) -> dict[str, float]:
    """Deliveries of webhooks that were owed when the gateway started, from the first to the last."""
    with TemporaryDirectory() as folder:
        database = Path(folder) / "gateway.db"
        port = sides.receiver_url.rpartition(":")[2]
        urls = [f"http://127.0.0.{number + 1}:{port}/hook" for number in range(receivers)]
        uvloop.run(_owe(database, urls, count))
        sides.reset()
        with start_gateway(sides.upstream_url, database=database):
            counts = sides.wait(count, LIMIT_S)
        return {"per_s": (count - 1) / (counts.last_at - counts.first_at)}


async def _owe(database: Path, urls: list[str], count: int) -> None:
    store = SqliteStore(database)
    await store.open()
    now = int(time.time() * 1000)
    data = (
        b'{"taskId":"task_xxx","model":"gpt-image-2-text-to-image","state":"success","result":{"resultUrls":'
        b'["https://cdn.example.com/result.png"]},"param":{"model":"gpt-image-2-text-to-image","input":{"prompt":'
        b'"A cat"}},"failCode":null,"failMsg":null,"costTime":32241,"createTime":1777459967759,"completeTime":'
        b"1777460000000}"
    )
    for start in range(0, count, 1000):
        made = await store.register(
            [
                new_callback(f"task-{number}", urls[number % len(urls)], now)
                for number in range(start, min(start + 1000, count))
            ]
        )
        seqs = [registration.callback.task.seq for registration in made]
        outcome = Outcome(state=TaskState.SUCCESS, data=data)
        await asyncio.gather(
            *(
                store.settle(Settlement(seq=seq, upstream="aigptimage", outcome=outcome, settled_at=now, polls=1))
                for seq in seqs
            )
        )
    await store.close()


def new_callback(task_id: str, url: str, now: int, first_poll_at: int | None = None) -> NewCallback:
    return NewCallback(
        id=new_callback_id(now),
        client="default",
        upstream="aigptimage",
        task_id=task_id,
        url=url,
        metadata=b"{}",
        timeout_s=30 * 86_400,
        created_at=now,
        first_poll_at=now if first_poll_at is None else first_poll_at,
    )


def notice_to_delivery(sides: Sides, count: int) -> dict[str, float]:
    """From the upstream having written that a task has ended to its webhook having come, one task at a time; in ms."""
    took_ms = []
    with start_gateway(sides.upstream_url) as gateway:
        for number in range(count + 20):
            sides.reset()
            register_singly(gateway.url, [f"one-{number}"], sides.receiver_url + "/hook", connections=1)
            sides.wait(1, LIMIT_S)
            (ended_at,), (arrived_at,) = sides.ended().values(), sides.arrivals().values()
            took_ms.append((arrived_at - ended_at) * 1000)
    took_ms = took_ms[20:]  # the first ones open connections and files
    return {"median_ms": statistics.median(took_ms), "p99_ms": statistics.quantiles(took_ms, n=100)[98]}


def idle(idle_s: float) -> dict[str, float]:
    """What a sidecar costs that has nothing to do: time until ready, resident memory, share of a core."""
    with start_gateway(core=None) as gateway:
        ready_s = time.monotonic() - gateway.started
        time.sleep(1)  # what the start leaves to do is not idling
        cpu_s, started = gateway.cpu_s(), time.monotonic()
        time.sleep(idle_s)
        share = (gateway.cpu_s() - cpu_s) / (time.monotonic() - started)
        return {"ready_s": ready_s, "resident_mb": gateway.resident_mb(), "cpu_percent": share * 100}


def million(sides: Sides, tasks: int, few: int = 1000, per_s: int = 500, seconds: float = 20.0) -> dict[str, float]:
    """A million watched tasks beside a thousand: memory, disk, start, and what a poll costs at the same rate."""
    values: dict[str, float] = {}
    # More is due all the time than the rate allows, so that both are polled equally often.
    rate = {"GATEWAY_UPSTREAM_RATE": f"{per_s}/1", "GATEWAY_POLL_MIN_S": "1", "GATEWAY_POLL_MAX_S": "1"}
    for number in (few, tasks):
        with TemporaryDirectory() as folder:
            database = Path(folder) / "gateway.db"
            uvloop.run(_watch(database, number, spread_ms=int(number / per_s * 1000)))
            size = database.stat().st_size
            sides.reset()
            with start_gateway(sides.upstream_url, database=database, settings=rate) as gateway:
                while not sides.polls():
                    time.sleep(0.01)
                first_poll_s = time.monotonic() - gateway.started
                _, cpu_us = polled(gateway, sides, seconds)
                if number == few:
                    values["cpu_us_few"] = cpu_us
                else:
                    values |= {
                        "cpu_us": cpu_us,
                        "resident_mb": gateway.resident_mb(),
                        "first_poll_s": first_poll_s,
                        "bytes_per_task": size / number,
                    }
    return values | {"ratio": values["cpu_us"] / values["cpu_us_few"]}


async def _watch(database: Path, count: int, spread_ms: int) -> None:
    store = SqliteStore(database)
    await store.open()
    now = int(time.time() * 1000)
    for start in range(0, count, 5000):
        await store.register(
            [
                # Ids as the upstream makes them: random, so that the index is not filled from one end.
                new_callback(
                    f"run-{os.urandom(16).hex()}",
                    f"https://app.example.com/hooks/{number}",
                    now,
                    now + spread_ms * number // count,
                )
                for number in range(start, min(start + 5000, count))
            ]
        )
    await store.close()


def task_ids(name: str, count: int) -> list[str]:
    prefix = os.urandom(4).hex()
    return [f"{name}-{prefix}-{number}" for number in range(count)]
