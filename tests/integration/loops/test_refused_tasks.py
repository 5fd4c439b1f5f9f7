"""A task that the upstream refuses (401, 403), and a key that it accepts: nobody else waits. In virtual time."""

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from gateway.config.profile import Profile
from gateway.core.model import TaskState
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.key import NEUTRAL_TASK_ID
from tests.lanes import body_sent, claim_webhooks
from tests.life import FREE, Life, until
from tests.refusals import AMPLE, EACH_WAY, EVERY_WAY, NEVER_S, REFUSALS, Jobs, Verdicts, settled_s
from tests.virtualtime import VirtualClock, run_virtual


@pytest.mark.parametrize(("profile", "refusal"), EVERY_WAY)
def test_one_refused_task_of_ten(profile: str, refusal: Callable[[Profile], httpx.Response], tmp_path: Path) -> None:
    """The nine others are noticed within two seconds; the tenth is asked about ever more seldom, and says why."""

    async def main() -> None:
        jobs = Jobs({"t0"}, refusal, profile)
        life = Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE, min_s=0.5, max_s=1.5)
        await life.start()
        verdicts = Verdicts(life)
        jobs.ends_s = {f"t{number}": 3.0 * number for number in range(10)}
        callbacks = {task_id: await life.register(task_id) for task_id in jobs.ends_s}
        lags = await asyncio.gather(
            *(settled_s(life, callbacks[f"t{number}"], 3.0 * number) for number in range(1, 10))
        )
        assert max(lags) <= 2.0
        await asyncio.sleep(3600)
        assert not verdicts.refusals
        task = (await life.look(callbacks["t0"])).task
        assert task.state is TaskState.WAITING
        assert task.last_error is not None
        gaps = [later - sooner for sooner, later in pairwise(jobs.asked["t0"])]
        assert gaps[0] < 1.5
        assert 300 <= gaps[-1] <= 331
        assert len(gaps) < 25
        assert len(jobs.asked.get(NEUTRAL_TASK_ID, [])) <= len(gaps)
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("slow_s", [0.5, 4.0, 12.0])
def test_accepted_answers_that_come_after_the_refusals(slow_s: float, first: bool, tmp_path: Path) -> None:
    """Asked together with one that is refused at once, like any unknown id: they end what that has begun."""

    async def main() -> None:
        jobs = Jobs({"bad", NEUTRAL_TASK_ID}, REFUSALS["HTTP 403"])
        jobs.tells_after_s = slow_s
        good = [f"t{number}" for number in range(9)]
        jobs.ends_s = dict.fromkeys(good, 60.0)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        callbacks = {task_id: await life.register(task_id) for task_id in (["bad", *good] if first else [*good, "bad"])}
        await asyncio.sleep(slow_s + 0.5)
        assert life.key.refusal is None
        verdicts = Verdicts(life)
        lags = await asyncio.gather(*(settled_s(life, callbacks[task_id], 60.0) for task_id in good))
        assert max(lags) <= 30.1 + 2 * slow_s
        assert not verdicts.refusals
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("neutral", [True, False])
def test_one_accepted_task_of_ten(neutral: bool, tmp_path: Path) -> None:
    """The key is accepted for it, so it is polled on time, even where the upstream refuses ids that there are not."""

    async def main() -> None:
        jobs = Jobs({f"t{number}" for number in range(9)}, REFUSALS["HTTP 403"])
        jobs.refused |= set() if neutral else {NEUTRAL_TASK_ID}
        life = Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE)
        await life.start()
        verdicts = Verdicts(life)
        jobs.ends_s = {"t9": 700.0, "t10": 1400.0}
        callback = await life.register("t9")
        await until(lambda: "t9" in jobs.asked)
        for number in range(9):
            await life.register(f"t{number}")
        assert await settled_s(life, callback, 700) <= 30.0
        assert max(later - sooner for sooner, later in pairwise(jobs.asked["t9"])) <= 30.1
        # One that has ended vouches for the key as well.
        assert await settled_s(life, await life.register("t10"), 1400) <= 30.0
        assert not verdicts.refusals
        await life.stop()

    run_virtual(main())


def test_another_accounts_tasks_do_not_use_up_the_budget(tmp_path: Path) -> None:
    """A hundred refused tasks come to a tenth of the budget, with as many probes besides at most.

    With nothing else known the key counts as refused, until a task of its own is accepted.
    """

    async def main() -> None:
        refused = {f"t{number}" for number in range(100)}
        jobs = Jobs(refused, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=FREE).start()
        verdicts = Verdicts(life)
        await asyncio.gather(*(life.register(task_id) for task_id in refused))
        await asyncio.sleep(600)
        jobs.ends_s["early"] = VirtualClock().monotonic() + 30
        # It is asked about with the next pause, and then all that were kept back are, once.
        assert await settled_s(life, await life.register("early"), jobs.ends_s["early"]) <= 61.0
        verdicts.refusals.clear()
        await asyncio.sleep(600)
        jobs.ends_s["later"] = VirtualClock().monotonic() + 30
        assert await settled_s(life, await life.register("later"), jobs.ends_s["later"]) <= 31.0
        await asyncio.sleep(3 * 3600)
        since_s = VirtualClock().monotonic() - 3600
        asked = sum(at > since_s for task_id in refused for at in jobs.asked[task_id])
        probes = sum(at > since_s for task_id in jobs.asked.keys() - refused for at in jobs.asked[task_id])
        assert asked <= 3600 * 0.11
        assert 0 < probes <= asked
        assert not verdicts.refusals
        await life.stop()

    run_virtual(main())


def test_a_refused_task_that_is_accepted_later_gets_its_result(tmp_path: Path) -> None:
    """It is never given up before its time: with the first good answer it goes on like any other."""

    async def main() -> None:
        jobs = Jobs({"t"}, REFUSALS["HTTP 403"])
        jobs.ends_s["t"] = 1000.0
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        callback = await life.register("t")
        await asyncio.sleep(1000)
        assert life.poller.refuses_tasks
        jobs.refused.clear()
        assert await settled_s(life, callback, 1000.0) <= 331.0
        assert not life.poller.refuses_tasks
        await life.stop()

    run_virtual(main())


def test_the_webhook_of_a_refused_task_says_so(tmp_path: Path) -> None:
    """When its time has passed it is asked about a last time, and then given up as refused."""

    async def main() -> None:
        jobs = Jobs({"t"}, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        callback = await life.register("t", timeout_s=600)
        await asyncio.sleep(631)
        assert [at for at in jobs.asked["t"] if 600 <= at <= 601]
        claims, _ = await claim_webhooks(life.store, life.clock.now() + 1, 10)
        assert [claim.id for claim in claims] == [callback.id]
        data = json.loads(body_sent(claims[0]))["data"]
        assert (data["state"], data["reason"]) == ("abandoned", "refused")
        assert not life.poller._troubled.is_refused(callback.task.seq)
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(("unknown", "ample"), EACH_WAY)
def test_one_task_of_ten_is_its_own_from_the_start(
    unknown: Callable[[Profile], httpx.Response], ample: bool, tmp_path: Path
) -> None:
    """Registered at once with nine of another account, with answers that fail now and then: no word against the key."""

    async def main() -> None:
        jobs = Jobs({f"t{number}" for number in range(9)}, REFUSALS["HTTP 403"])
        jobs.unknown = unknown
        jobs.ends_s = {"t9": NEVER_S}
        poll, polls = jobs.upstream.poll, 0

        async def fails(task_id: str, whose: str = "", **_: object) -> PollResult:
            nonlocal polls
            polls += task_id not in jobs.refused
            if task_id not in jobs.refused and polls % 3 == 2:
                return PollResult(kind=PollKind.BROKEN, error="x")
            return await poll(task_id)

        jobs.upstream.poll = fails  # type: ignore[method-assign]
        life = await Life(
            tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE if ample else FREE
        ).start()
        verdicts = Verdicts(life)
        for number in range(10):
            await life.register(f"t{number}")
        await asyncio.sleep(3600)
        assert not verdicts.refusals
        assert max(later - sooner for sooner, later in pairwise(jobs.asked["t9"])) <= 75.0
        await life.stop()

    run_virtual(main())
