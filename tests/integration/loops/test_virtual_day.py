"""Limits over a long time and in a large crowd: a day with crashes, and a thousand tasks at once. In virtual time."""

import asyncio
import math
import random
import sqlite3
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from gateway.core.model import Outcome, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.simulator.app import SimulatedUpstream
from gateway.simulator.faults import Fault, FaultKind
from gateway.simulator.scenario import Plan, parse_windows
from gateway.upstream.answer import PollKind, PollResult
from gateway.webhook.sender import SendResult
from tests.life import Life, ScriptedSender, ScriptedUpstream, Transport, until
from tests.storing import new
from tests.virtualtime import EPOCH, VirtualClock, run_virtual

DAY_S = 86_400.0
TASKS = 500


def faults_now_and_then() -> list[Fault]:
    """Return what goes wrong with one answer in twenty or so."""
    return [
        Fault(kind=FaultKind.HTML, probability=0.01),
        Fault(kind=FaultKind.ERROR, status=500, probability=0.01),
        Fault(kind=FaultKind.ERROR, status=200, code=422, msg="recordInfo is null", probability=0.01),
        Fault(kind=FaultKind.TRUNCATED, probability=0.01),
        Fault(kind=FaultKind.SLOW, delay_s=8.0, probability=0.01),
        Fault(kind=FaultKind.HANG, probability=0.002),
    ]


@pytest.mark.parametrize("seed", [1])
def test_a_day_without_a_429(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An upstream that refuses above 60 a minute never does, through bursts, faults, restarts and kills; all settle."""
    rng = random.Random(seed)
    ends: dict[str, int] = {}

    async def main() -> SimulatedUpstream:
        clock = VirtualClock()
        upstream = SimulatedUpstream(clock, rate=parse_windows("2/1,60/60"), seed=seed)
        upstream.faults.add(*faults_now_and_then())
        inner = httpx.ASGITransport(app=upstream)

        async def far_away(request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(rng.uniform(0.01, 0.2))
            response = await inner.handle_async_request(request)
            await asyncio.sleep(rng.uniform(0.01, 0.2))
            return response

        async def new_life() -> Life:
            return await Life(tmp_path / "db", clock, upstream=Transport(far_away), seed=rng.getrandbits(32)).start()

        life = await new_life()

        async def arrive(number: int, at_s: float) -> None:
            await asyncio.sleep(at_s)
            task_id = f"task-{number}"
            duration_s = 32 * math.exp(0.35 * rng.gauss(0, 1))
            upstream.add_task(task_id, Plan(duration_s=duration_s, outcome="fail" if number % 7 == 0 else "success"))
            ends[task_id] = clock.now() + round(duration_s * 1000)
            while True:  # as a client does, until it has its 201
                try:
                    async with asyncio.timeout(5):
                        await life.register(task_id)
                        return
                except Exception:  # noqa: BLE001 - whatever a gateway that is being killed answers
                    await asyncio.sleep(1)

        # Half of them through the day, half in bursts of fifty.
        bursts = [rng.uniform(0, DAY_S) for _ in range(TASKS // 100)]
        times = [rng.uniform(0, DAY_S) if i % 2 else rng.choice(bursts) + rng.uniform(0, 20) for i in range(TASKS)]
        arrivals = [asyncio.create_task(arrive(i, at_s)) for i, at_s in enumerate(times)]
        moments = sorted([rng.uniform(0, DAY_S) for _ in range(12)] + [at + rng.uniform(5, 60) for at in bursts * 3])
        for moment_s in moments:
            await asyncio.sleep(max(moment_s - clock.monotonic(), 0))
            if rng.random() < 0.3:
                await life.stop()
            else:
                await life.kill()
            await asyncio.sleep(rng.choice([0.0, 0.5, 30.0]) * rng.random())
            life = await new_life()
        await asyncio.gather(*arrivals)
        await asyncio.sleep(600)
        await life.stop()
        return upstream

    began = time.perf_counter()
    upstream = run_virtual(main())
    took_s = time.perf_counter() - began
    with sqlite3.connect(tmp_path / "db") as db:
        settled = db.execute("SELECT task_id, state, settled_at FROM tasks").fetchall()
    db.close()
    lags = {task_id: (settled_at - ends[task_id]) / 1000 for task_id, _, settled_at in settled}
    alone = [lag for task_id, lag in lags.items() if int(task_id.removeprefix("task-")) % 2]
    polls = upstream.stats.requests["recordInfo"]
    with capsys.disabled():
        print(
            f"\n  a day: {polls / TASKS:.1f} polls per task, mean lag {sum(lags.values()) / TASKS:.1f} s, "
            f"outside the bursts {sum(alone) / len(alone):.1f} s; in {took_s:.1f} s"
        )
    assert upstream.stats.statuses[429] == 0
    assert sum(upstream.stats.faults.values()) > 50
    assert len(settled) == TASKS
    assert {state for _, state, _ in settled} == {"success", "fail"}
    assert min(lags.values()) >= 0
    assert sum(alone) / len(alone) < 8
    assert max(lags.values()) < 180


class Meter:
    """What happens beside what, and the most of it within any one second."""

    def __init__(self) -> None:
        self.count = 0
        self.now = 0
        self.most = 0
        self.peak = 0
        self._recent: deque[float] = deque()

    async def during(self, seconds: float) -> None:
        at = VirtualClock().monotonic()
        self._recent.append(at)
        while self._recent[0] <= at - 1.0 + 1e-9:
            self._recent.popleft()
        self.peak = max(self.peak, len(self._recent))
        self.count += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1


def test_a_thousand_tasks_that_finish_at_the_same_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither polls nor deliveries arrive in a burst above their limits, and every webhook is delivered once."""
    many, end_s = 1_000, 45.0
    polls, sends = Meter(), Meter()
    delivered: list[str] = []

    async def poll(task_id: str) -> PollResult:
        ended = VirtualClock().monotonic() >= end_s
        await polls.during(0.05)
        if not ended:
            return PollResult(kind=PollKind.RUNNING, task_created_at=EPOCH, model="m")
        outcome = Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}')
        return PollResult(kind=PollKind.TERMINAL, outcome=outcome, model="m", duration_s=end_s, task_created_at=EPOCH)

    async def send(url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        started_at = VirtualClock().now()
        await sends.during(0.1)
        delivered.append(headers["webhook-id"])
        return SendResult(
            started_at=started_at,
            duration_ms=100,
            status_code=200,
            reason=None,
            error=None,
            retry_after_s=None,
            excerpt=b"",
        )

    async def main() -> float:
        rate = (RateWindow(500, 1.0), RateWindow(30_000, 60.0))
        clock = VirtualClock()
        life = Life(tmp_path / "db", clock, upstream=ScriptedUpstream(poll), sender=ScriptedSender(send), rate=rate)
        await life.start()
        now = clock.now()
        await life.store.registry.register(
            [
                new(
                    f"t{i}",
                    client="",
                    timeout_s=86_400,
                    at=now,
                    first_poll_at=life.timetable.first_poll_at(now, "", None),
                )
                for i in range(many)
            ]
        )
        await until(lambda: len(delivered) == many, limit_s=600)
        ended_s = clock.monotonic()
        await life.stop()
        return ended_s

    began = time.perf_counter()
    ended_s = run_virtual(main())
    took_s = time.perf_counter() - began
    with capsys.disabled():
        print(
            f"\n  {many} at once: {polls.count / many:.1f} polls per task, at most {polls.peak} a second; "
            f"at most {sends.most} deliveries at a time, all done in {ended_s - end_s:.0f} s; took {took_s:.1f} s"
        )
    assert polls.peak <= 500
    assert polls.most <= 64
    assert sends.most <= 128
    assert len(set(delivered)) == len(delivered) == many
