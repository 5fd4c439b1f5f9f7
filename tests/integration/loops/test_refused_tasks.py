"""A task that the upstream refuses (401, 403), and a key that it accepts: nobody else waits. In virtual time."""

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.profile import Profile
from gateway.config.profilefile import config_dir, read_profiles
from gateway.core.model import Callback, DueTask, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.api import Upstream
from gateway.upstream.key import NEUTRAL_TASK_ID
from tests.lanes import body_sent, claim_webhooks
from tests.life import FREE, Life, ScriptedUpstream, Transport, until
from tests.virtualtime import EPOCH, VirtualClock, run_virtual

PROFILES = read_profiles([config_dir() / "upstreams"])[0]
AMPLE = (RateWindow(50, 1.0),)
NEVER_S = 1e9


def page(status: int, body: bytes) -> Callable[[Profile], httpx.Response]:
    return lambda _: httpx.Response(status, content=body)


def envelope(status: int, code: int) -> Callable[[Profile], httpx.Response]:
    def answer(profile: Profile) -> httpx.Response:
        told = {} if profile.envelope.code is None else nested(profile.envelope.code, code)
        return httpx.Response(status, json={**told, "detail": "not yours"})

    return answer


def nested(path: str, value: object) -> dict[str, Any]:
    """Return an object that holds the value at this path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    return both | {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}


REFUSALS = {
    "HTTP 401": envelope(401, 401),
    "HTTP 403": envelope(403, 403),
    "a page with 403": page(403, b"<html><title>403 Forbidden</title></html>"),
    "the CDN's block": page(403, b"error code: 1010"),
    "nothing with 401": page(401, b""),
}
IN_THE_ENVELOPE = {"HTTP 200, code 401": envelope(200, 401), "HTTP 200, code 403": envelope(200, 403)}
EVERY_WAY = [
    pytest.param(name, refusal, id=f"{name}: {spelling}")
    for name, profile in PROFILES.items()
    for spelling, refusal in {**REFUSALS, **(IN_THE_ENVELOPE if profile.envelope.code else {})}.items()
    # What is no profile's own takes the same way through each.
    if name == "aigptimage" or spelling in ("HTTP 403", *IN_THE_ENVELOPE)
]


class Jobs:
    """An upstream whose tasks end at their times, and which refuses some ids."""

    def __init__(
        self, refused: set[str], refusal: Callable[[Profile], httpx.Response], profile: str = "aigptimage"
    ) -> None:
        self.refused = refused
        self.ends_s: dict[str, float] = {}
        self.asked: dict[str, list[float]] = {}
        self.unknown: Callable[[Profile], httpx.Response] = envelope(404, 404)
        self.tells_after_s = 0.05
        self._refusal = refusal
        self._profile = profile = PROFILES[profile]
        before, _, after = profile.request.status_path.partition("{task_id}")
        self._around = before, after
        transport = Transport(self._answer)
        self.upstream = Upstream(
            profile, transport, VirtualClock(), base_url="https://up.example", api_key="k", name="up"
        )

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        before, after = self._around
        task_id = request.url.raw_path.decode().removeprefix(before).removesuffix(after)
        self.asked.setdefault(task_id, []).append(VirtualClock().monotonic())
        await asyncio.sleep(0.05)
        if task_id in self.refused:
            return self._refusal(self._profile)
        if task_id not in self.ends_s:
            return self.unknown(self._profile)
        await asyncio.sleep(self.tells_after_s - 0.05)
        return httpx.Response(200, json=self._told(task_id))

    def _told(self, task_id: str) -> dict[str, Any]:
        states, fields, code = self._profile.states, self._profile.fields, self._profile.envelope.code
        over = VirtualClock().monotonic() >= self.ends_s[task_id]
        running: Any = 0 if type(states.success[0]) is int else "quite another word"
        told = nested(states.path, states.success[0] if over else running)
        told = merged(told, {} if code is None else nested(code, self._profile.envelope.ok[0]))
        told = merged(told, {} if fields.task_id is None else nested(fields.task_id, task_id))
        return merged(told, nested(states.success_if, {"is": "there"}) if over and states.success_if else {})


def most_within(span_s: float, jobs: Jobs, since_s: float) -> int:
    """Return how many questions there were at most within so long."""
    times = sorted(at for asked in jobs.asked.values() for at in asked if at > since_s)
    return max((sum(at <= other < at + span_s for other in times) for at in times), default=0)


class Verdicts:
    """What became of the key with each answer."""

    def __init__(self, life: Life) -> None:
        self.refusals: list[str] = []
        self._key, self._judge = life.key, life.key.judge
        life.key.judge = self._judged  # type: ignore[method-assign]

    def _judged(self, task_id: str, asked_at: float, result: PollResult, **how: bool) -> None:
        self._judge(task_id, asked_at, result, **how)
        if self._key.refusal is not None:
            self.refusals.append(self._key.refusal)


async def settled_s(life: Life, callback: Callback, ended_s: float) -> float:
    """Return how long after its end a task was known to have ended."""

    async def ended() -> bool:
        nonlocal task
        task = (await life.look(callback)).task
        return task.state is TaskState.SUCCESS

    task = callback.task
    await until(ended, limit_s=3000, step_s=1.0)
    assert task.settled_at is not None
    return (task.settled_at - EPOCH) / 1000 - ended_s


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

        async def fails(task_id: str, whose: str = "") -> Any:
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


# What is told of an id that there is not: 422 as 404, and 400 as 500, are the same word to the key.
EACH_WAY = [
    pytest.param(envelope(status, status), first, id=f"{status} for an id that there is not, {first}")
    for status, firsts in ((400, (True,)), (404, (True, False)), (422, (False,)), (500, (True, False)))
    for first in firsts
]


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

        async def fails(task_id: str, whose: str = "") -> PollResult:
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
