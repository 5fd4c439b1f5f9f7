"""A key that the upstream refuses: how that is found out, what is asked meanwhile, and how it ends. In virtual time."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.profile import Profile
from gateway.core.claims import DueTask
from gateway.core.ratelimit import RateWindow
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.key import NEUTRAL_TASK_ID
from tests.life import Life, ScriptedUpstream, until
from tests.refusals import AMPLE, EACH_WAY, NEVER_S, REFUSALS, Jobs, Verdicts, settled_s
from tests.virtualtime import VirtualClock, run_virtual


def most_within(span_s: float, jobs: Jobs, since_s: float) -> int:
    """Return how many questions there were at most within so long."""
    times = sorted(at for asked in jobs.asked.values() for at in asked if at > since_s)
    return max((sum(at <= other < at + span_s for other in times) for at in times), default=0)


@pytest.mark.parametrize("later_s", [0.0, 1.0, 7.0, 200.0])
def test_a_new_task_is_asked_about_in_the_pause_of_others(later_s: float, tmp_path: Path) -> None:
    """One refused task alone refused the key: those registered later are asked about soon, and end that."""

    async def main() -> None:
        jobs = Jobs({"bad", NEUTRAL_TASK_ID}, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        await life.register("bad")
        await until(lambda: life.key.refusal is not None)
        await asyncio.sleep(later_s)
        registered_s = VirtualClock().monotonic()
        jobs.ends_s = {f"t{number}": registered_s for number in range(9)}
        callbacks = [await life.register(task_id) for task_id in jobs.ends_s]
        lags = await asyncio.gather(*(settled_s(life, callback, registered_s) for callback in callbacks))
        assert max(lags) <= max(5.0 - later_s, 1.0) + 1.0
        assert life.key.refusal is None
        await life.stop()

    run_virtual(main())


def test_new_tasks_of_a_refused_key_are_asked_about_now_and_then(tmp_path: Path) -> None:
    """However many are registered: one every five seconds, and the pauses grow as ever."""

    async def main() -> None:
        jobs = Jobs({NEUTRAL_TASK_ID}, REFUSALS["HTTP 401"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        for number in range(600):
            jobs.refused.add(f"t{number}")
            await life.register(f"t{number}")
            await asyncio.sleep(1.0)
        assert life.key.refusal is not None
        times = sorted(at for asked in jobs.asked.values() for at in asked if at > 10)
        assert sum(at > 10 for at in jobs.asked[NEUTRAL_TASK_ID]) == 4
        assert 600 / 7 <= len(times) <= 600 / 5 + 8
        await life.stop()

    run_virtual(main())


def test_a_new_task_waits_for_the_limits_in_a_pause_too(tmp_path: Path) -> None:
    """What a refused key has asked counts as ever; when that is over the new one is asked about, in the pause still."""

    async def main() -> None:
        jobs = Jobs({"bad", NEUTRAL_TASK_ID}, REFUSALS["HTTP 403"])
        rate = (RateWindow(2, 15.0),)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=rate).start()
        await life.register("bad")
        await until(lambda: life.key.refusal is not None)
        assert [len(times) for times in jobs.asked.values()] == [1, 1]
        jobs.ends_s["new"] = NEVER_S
        await life.register("new")
        await until(lambda: "new" in jobs.asked, limit_s=60)
        assert 15.0 <= jobs.asked["new"][0] <= 16.2
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("others", [0, 9])
def test_a_key_that_was_accepted_and_is_refused_for_all(others: int, tmp_path: Path) -> None:
    """It is noticed within seconds, paused as a whole, and taken up again as soon as a probe says so."""

    async def main() -> None:
        jobs = Jobs(set(), REFUSALS["HTTP 401"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        jobs.ends_s = {"t": 400.0, "ended": 0.0, **{f"o{number}": NEVER_S for number in range(others)}}
        callbacks = [await life.register(task_id) for task_id in jobs.ends_s]
        await asyncio.sleep(100)
        jobs.refused = {*jobs.ends_s, NEUTRAL_TASK_ID}
        await until(lambda: life.key.refusal is not None, limit_s=30)
        at_s = VirtualClock().monotonic()
        await asyncio.sleep(29)
        assert not [at for times in jobs.asked.values() for at in times if at > at_s]
        jobs.refused = set()
        await until(lambda: life.key.refusal is None, limit_s=1.2)
        assert await settled_s(life, callbacks[0], 400.0) <= 30.1
        await life.stop()

    run_virtual(main())


def test_a_probe_that_fails_is_not_made_in_a_tight_circle(tmp_path: Path) -> None:
    """A defect on the way to it: the key stays doubted, and is asked about again after a pause."""

    async def main() -> None:
        jobs = Jobs({"t"}, REFUSALS["HTTP 403"])
        poll, failures = jobs.upstream.poll, 0

        async def fails(task_id: str, whose: str = "", **_: object) -> Any:
            nonlocal failures
            if task_id == NEUTRAL_TASK_ID and VirtualClock().monotonic() < 10:
                failures += 1
                raise RuntimeError("a defect")
            return await poll(task_id)

        jobs.upstream.poll = fails  # type: ignore[method-assign]
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        await life.register("t")
        await asyncio.sleep(9)
        assert life.key.doubted
        assert 2 <= failures <= 10
        await until(lambda: not life.key.doubted, limit_s=20)
        assert life.key.queries._limiter.in_flight == 0
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("probe", [False, True])
def test_the_stop_waits_for_no_pause_after_a_defect(probe: bool, tmp_path: Path) -> None:
    """On the way to a task's answer, or to the key's: nothing is under way any more."""

    async def main() -> None:
        jobs = Jobs({"t"}, REFUSALS["HTTP 403"])
        poll, failed = jobs.upstream.poll, asyncio.Event()

        async def fails(task_id: str, whose: str = "", **_: object) -> Any:
            if (task_id == NEUTRAL_TASK_ID) is probe:
                failed.set()
                raise RuntimeError("a defect")
            return await poll(task_id)

        jobs.upstream.poll = fails  # type: ignore[method-assign]
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        await life.register("t")
        await failed.wait()
        began_s = VirtualClock().monotonic()
        await life.stop(30)
        assert VirtualClock().monotonic() - began_s < 0.1
        assert life.claims == 0

    run_virtual(main())


def test_an_id_that_is_never_asked_about_vouches_for_no_key(tmp_path: Path) -> None:
    """A task named by dot segments is unknown without a question, and so says nothing of a refused key."""

    async def main() -> None:
        jobs = Jobs({"t", NEUTRAL_TASK_ID}, REFUSALS["HTTP 401"], "replicate")
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        await life.register("t")
        await until(lambda: life.key.refusal is not None)
        await life.register("..")
        await asyncio.sleep(1000)
        assert life.key.refusal is not None
        await life.stop()

    run_virtual(main())


def test_who_comes_just_after_a_look_for_new_tasks_waits_a_second_for_the_next(tmp_path: Path) -> None:
    """In a refused key's pause: neither is each one looked for by itself, nor does one wait for the heartbeat."""

    async def main() -> None:
        jobs = Jobs({"bad", NEUTRAL_TASK_ID}, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        await life.register("bad")
        await until(lambda: life.key.refusal is not None)
        look, looked_s = life.poller._shares.claim_new, list[float]()

        async def noted(since: int, now: int) -> list[DueTask]:
            looked_s.append(VirtualClock().monotonic())
            return await look(since, now)

        life.poller._shares.claim_new = noted  # type: ignore[method-assign]
        await until(lambda: len(looked_s) == 1, step_s=0.01)
        jobs.ends_s["new"] = NEVER_S
        await life.register("new")
        await until(lambda: len(looked_s) == 2, step_s=0.01)
        assert looked_s[1] - looked_s[0] == pytest.approx(1.0, abs=0.1)
        await until(lambda: "new" in jobs.asked, limit_s=1)
        await life.stop()

    run_virtual(main())


def test_a_pause_in_which_nothing_is_registered_is_slept_through(tmp_path: Path) -> None:
    """New tasks are looked for when one may have come: else no more often than the loop comes round anyway."""

    async def main() -> None:
        jobs = Jobs({"bad", NEUTRAL_TASK_ID}, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        look, looks = life.poller._shares.claim_new, 0

        async def counted(since: int, now: int) -> list[DueTask]:
            nonlocal looks
            looks += 1
            return await look(since, now)

        life.poller._shares.claim_new = counted  # type: ignore[method-assign]
        await life.register("bad")
        await until(lambda: life.key.refusal is not None)
        await asyncio.sleep(3600)
        assert life.key.refusal is not None
        assert 0 < looks <= 3600 / HEARTBEAT_S
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(("unknown", "known"), EACH_WAY)
def test_a_key_that_is_refused_for_all_tasks(
    unknown: Callable[[Profile], httpx.Response], known: bool, tmp_path: Path
) -> None:
    """It is paused, and found to be good again, also where an id that there is not is looked at before the key."""

    async def main() -> None:
        jobs = Jobs(set(), REFUSALS["HTTP 403"])
        jobs.unknown = unknown
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        jobs.ends_s = {f"t{number}": 3000.0 for number in range(20)}
        if not known:
            jobs.refused = set(jobs.ends_s)
        callbacks = [await life.register(task_id) for task_id in jobs.ends_s]
        await asyncio.sleep(100)
        jobs.refused = set(jobs.ends_s)
        await until(lambda: life.key.refusal is not None, limit_s=45)
        at_s = VirtualClock().monotonic()
        assert len([at for times in jobs.asked.values() for at in times if 100 < at <= at_s]) <= 60
        await asyncio.sleep(7200)
        assert life.key.refusal is not None
        assert most_within(29.9, jobs, at_s) == 1
        assert min(len(jobs.asked[task_id]) for task_id in jobs.ends_s) > 5, "each has its turn"
        jobs.refused.clear()
        good_s = VirtualClock().monotonic()
        await until(lambda: life.key.refusal is None, limit_s=31)
        assert max(await asyncio.gather(*(settled_s(life, callback, good_s) for callback in callbacks))) <= 62.0
        await life.stop()

    run_virtual(main())


def test_the_first_of_its_own_tasks_ends_a_refusal_by_others(tmp_path: Path) -> None:
    """Whatever else is due: who was never refused is asked about with the next pause."""

    async def main() -> None:
        refused = {f"t{number}" for number in range(50)}
        jobs = Jobs(refused, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        await asyncio.gather(*(life.register(task_id) for task_id in refused))
        await until(lambda: life.key.refusal is not None, limit_s=60)
        await asyncio.sleep(1000)
        assert life.key.refusal is not None
        jobs.ends_s["own"] = NEVER_S
        await life.register("own")
        await until(lambda: life.key.refusal is None, limit_s=31)
        verdicts = Verdicts(life)
        await asyncio.sleep(3600)
        assert not verdicts.refusals
        assert max(later - sooner for sooner, later in pairwise(jobs.asked["own"])) <= 30.1
        await life.stop()

    run_virtual(main())


def test_a_key_recovers_when_the_tasks_that_refused_it_are_gone(tmp_path: Path) -> None:
    """Readiness does not stay red with nobody left who could put it right."""

    async def main() -> None:
        jobs = Jobs({f"t{number}" for number in range(5)}, REFUSALS["HTTP 403"])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        callbacks = [await life.register(task_id) for task_id in sorted(jobs.refused)]
        await until(lambda: life.key.refusal is not None, limit_s=60)
        for callback in callbacks:
            await life.store.registry.cancel("", callback.id, life.clock.now())
        await until(lambda: life.key.refusal is None, limit_s=60)
        await life.stop()

    run_virtual(main())


def test_a_key_that_its_tasks_refuse_stays_refused_while_none_of_them_is_due(tmp_path: Path) -> None:
    """Nobody is asked meanwhile, as only their answers can tell; the first good one ends it."""

    async def main() -> None:
        jobs = Jobs({f"t{number}" for number in range(3)}, REFUSALS["HTTP 403"])
        upstream = jobs.upstream
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream, rate=AMPLE, min_s=20, max_s=200)
        await life.start()
        callbacks = [await life.register(task_id) for task_id in sorted(jobs.refused)]

        async def due_s() -> float:
            due_at = [(await life.look(callback)).task.next_poll_at or 0 for callback in callbacks]
            return (min(due_at) - life.clock.now()) / 1000

        async def none_is_due_for_long() -> bool:
            return life.key.refusal is not None and life.claims == 0 and await due_s() > 60

        await until(none_is_due_for_long, limit_s=300)
        since_s = VirtualClock().monotonic()
        await asyncio.sleep(await due_s() - 1)
        assert life.key.refusal is not None
        assert not [at for times in jobs.asked.values() for at in times if at > since_s]
        jobs.ends_s = dict.fromkeys(jobs.refused, NEVER_S)
        jobs.refused.clear()
        await until(lambda: life.key.refusal is None, limit_s=2)
        await life.stop()

    run_virtual(main())


def test_a_refused_key_is_left_alone_whoever_was_accepted_late(tmp_path: Path) -> None:
    """At most two questions a pause, one about the neutral task, also where a slow answer vouched in the doubt."""

    async def main() -> None:
        asked: list[tuple[float, str]] = []
        good: set[str] = set()

        async def reply(task_id: str) -> PollResult:
            at_s = VirtualClock().monotonic()
            asked.append((at_s, task_id))
            if at_s < 1:
                await asyncio.sleep(9.5)  # it arrives while the neutral task is asked about
                return PollResult(kind=PollKind.RUNNING)
            await asyncio.sleep(1)
            if task_id in good:
                return PollResult(kind=PollKind.RUNNING)
            return PollResult(kind=PollKind.KEY_REFUSED, error="The upstream answered 401: no")

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()
        await life.register("slow")
        await asyncio.sleep(7)
        await life.register("t")
        await until(lambda: life.key.refusal is not None, limit_s=20)
        at_s = VirtualClock().monotonic()
        await asyncio.sleep(3600)
        assert life.key.refusal is not None
        later = [(at, task_id) for at, task_id in asked if at > at_s]
        assert all(sum(at <= other < at + 29.9 for other, _ in later) <= 2 for at, _ in later)
        assert sum(task_id == NEUTRAL_TASK_ID for _, task_id in later) * 2 >= len(later) - 1
        good |= {"t", NEUTRAL_TASK_ID}
        await until(lambda: life.key.refusal is None, limit_s=305)
        await life.stop()

    run_virtual(main())


def test_a_clients_questions_about_the_neutral_task_do_not_refuse_the_key(tmp_path: Path) -> None:
    """Where unknown ids are refused: the task that is accepted is asked about first, and no poll is late."""

    async def main() -> None:
        jobs = Jobs({NEUTRAL_TASK_ID}, REFUSALS["HTTP 403"])
        jobs.ends_s = {"own": NEVER_S}
        life = await Life(tmp_path / "db", VirtualClock(), upstream=jobs.upstream, rate=AMPLE).start()
        verdicts = Verdicts(life)
        await life.register("own")

        async def read() -> None:
            """Ask as the proxy does."""
            at_s = VirtualClock().monotonic()
            life.key.judge(NEUTRAL_TASK_ID, at_s, await jobs.upstream.poll(NEUTRAL_TASK_ID))

        for _ in range(50):
            await asyncio.sleep(jobs.asked.get("own", [0.0])[-1] + 6 - VirtualClock().monotonic())
            await asyncio.gather(read(), read())
            await life.register(NEUTRAL_TASK_ID)
        assert not verdicts.refusals
        assert max(later - sooner for sooner, later in pairwise(jobs.asked["own"])) <= 30.1
        await life.stop()

    run_virtual(main())
