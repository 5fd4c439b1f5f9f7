"""What the poller makes of every answer: the task's fate, the key's, and when it asks again. In virtual time."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.model import Callback, CallbackState, DueTask, ExpiredTask, Outcome, PollRecord, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.core.reads import ReadWatch
from gateway.loops.poller import MOST_POLLS
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.net.errors import ExchangeFailed
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.durations import of_model
from gateway.upstream.key import _PROBE_S, NEUTRAL_TASK_ID
from gateway.upstream.timetable import took_s
from gateway.upstream.turns import Waiter
from tests.lanes import body_sent, claim_webhooks
from tests.life import Life, ScriptedUpstream, Transport, teach, until
from tests.virtualtime import EPOCH, VirtualClock, run_virtual

FIXTURES = Path(__file__).parents[2] / "fixtures" / "aigptimage"
FAST = (RateWindow(1000, 1.0),)
DONE = {"code": 200, "msg": "success", "data": {"taskId": "t", "state": "success", "resultJson": '{"resultUrls":[]}'}}
SUCCESS = Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}')
RUNNING = {"code": 200, "msg": "success", "data": {"taskId": "t", "state": "waiting"}}


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, content=body if isinstance(body, bytes) else json.dumps(body))


def error(code: int, msg: str = "m", data: Any = None, **members: Any) -> dict[str, Any]:
    return {"code": code, "msg": msg, "data": data, **members}


class Upstream:
    """Answers from a script, its last word for ever; notes when it was asked about what, or about the neutral task."""

    def __init__(
        self, *script: Callable[[], httpx.Response], neutral: Callable[[], httpx.Response] | None = None
    ) -> None:
        self.script = list(script)
        self.asked: list[tuple[float, str]] = []
        self.probed: list[float] = []
        self._neutral = neutral or (lambda: answer(404, error(404)))
        self.transport = Transport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        task_id = request.url.params["taskId"]
        if task_id == NEUTRAL_TASK_ID:
            self.probed.append(VirtualClock().monotonic())
            await asyncio.sleep(0.01)
            return self._neutral()
        self.asked.append((VirtualClock().monotonic(), task_id))
        await asyncio.sleep(0.01)
        return (self.script.pop(0) if len(self.script) > 1 else self.script[0])()

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]


def unreachable() -> httpx.Response:
    raise ExchangeFailed("refused", "refused", sent=False)


def broken_off() -> httpx.Response:
    raise ExchangeFailed("reset", "reset")


def done() -> httpx.Response:
    return answer(200, DONE)


def running() -> httpx.Response:
    return answer(200, RUNNING)


# Every answer there is.

OK, PAUSED, REFUSED = "ok", "paused", "refused"
BACKOFF = (2.0, 2.3)  # the first poll without a usable answer: twice min_s, and a tenth
SOON = (1.0, 30.0)
WHEN_TOLD, AT_MOST = (45.0, 45.1), (3600.0, 3600.1)
LIMIT = {"retryAfter": 17, "limit": 180, "tier": "basic", "windowSeconds": 60}


def row(
    name: str, reply: Callable[[], httpx.Response], key: str = OK, again_s: tuple[float, float] | None = BACKOFF
) -> Any:
    return pytest.param(reply, key, again_s, id=name)


def said(status: int, body: object, **headers: str) -> Callable[[], httpx.Response]:
    return lambda: answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def about(state: object, **members: Any) -> dict[str, Any]:
    return {"code": 200, "msg": "success", "data": {"taskId": "t", "state": state, **members}}


EVERY_ANSWER = [
    # The task goes on, and so does the key: asked again when it is most likely to pay.
    row("waiting", running, again_s=SOON),
    *(
        row(state, said(200, about(state)), again_s=SOON)
        for state in ("queuing", "generating", "wait", "queueing", "pending", "processing", "never heard of")
    ),
    row("members left out", said(200, {"code": 200, "data": {"state": "waiting"}}), again_s=SOON),
    row("message for msg", said(200, {"code": 200, "message": "ok", "data": {"state": "waiting"}}), again_s=SOON),
    row("extra members", said(200, about("waiting", updateTime=1, progress=0.5, creditsConsumed=4)), again_s=SOON),
    row("empty for null", said(200, about("waiting", resultJson="", failCode="", failMsg="")), again_s=SOON),
    row("waiting with Retry-After", said(200, RUNNING, retry_after="45"), again_s=WHEN_TOLD),
    row("waiting, a Retry-After without end", said(200, RUNNING, retry_after="9" * 11), again_s=AT_MOST),
    row("waiting with a Retry-After that is past", said(200, RUNNING, retry_after="0"), again_s=SOON),
    row("waiting, the wait in the body", said(200, about("waiting", retryAfter=45)), again_s=WHEN_TOLD),
    # It has ended.
    row("success", done, again_s=None),
    row("result is an object", said(200, about("success", resultJson={"resultUrls": []})), again_s=None),
    row("result is no JSON", said(200, about("success", resultJson="{")), again_s=None),
    row("fail", said(200, about("fail", failCode="400", failMsg="m")), again_s=None),
    row("integer failCode", said(200, about("fail", failCode=501)), again_s=None),
    row("success beside an error code", said(200, {**about("success"), "code": 501}), again_s=None),
    # Error answers, whose HTTP status equals the envelope's code, or is 200.
    *(row(f"{code}", said(code, error(code))) for code in (400, 402, 404, 408, 422, 433, 455, 500, 501, 502, 503, 505)),
    *(
        row(f"{code} with HTTP 200", said(200, error(code)))
        for code in (400, 402, 404, 408, 422, 433, 455, 500, 501, 502, 503, 505)
    ),
    row("fresh task of the family", said(200, error(422, "recordInfo is null"))),
    row("fresh task, its data null", said(422, {"code": 422, "message": "recordInfo is null"})),
    row("503 with Retry-After", said(503, b"", retry_after="9"), again_s=(9.0, 9.1)),
    # The key is throttled: for as long as the answer says.
    row("429", said(429, error(429)), PAUSED, (5.0, 5.1)),
    row("429 with HTTP 200", said(200, error(429)), PAUSED, (5.0, 5.1)),
    row("429, the wait in the body", said(429, error(429, data=LIMIT)), PAUSED, (17.0, 17.1)),
    row("429, the wait in the header", said(429, b"", retry_after="23"), PAUSED, (23.0, 23.1)),
    row("429, both", said(429, error(429, data=LIMIT), retry_after="3"), PAUSED, (17.0, 17.1)),
    # The key is refused: a probe after a pause.
    row("401", said(401, error(401)), REFUSED, (30.0, 30.1)),
    row("401 with HTTP 200", said(200, error(401)), REFUSED, (30.0, 30.1)),
    row("403", said(403, error(403)), REFUSED, (30.0, 30.1)),
    row("the CDN's block", said(403, b"error code: 1010"), REFUSED, (30.0, 30.1)),
    # Nonsense.
    row("HTML", said(502, b"<html>")),
    row("HTML with HTTP 200", said(200, b"<html>")),
    row("nothing", said(200, b"")),
    row("invalid UTF-8", said(200, b'{"code":200,"msg":"\xff","data":{"state":"success"}}'), again_s=None),
    row("truncated", said(200, b'{"code":200,"data":{"taskId":"t","state":"succ')),
    row("an array", said(200, [DONE])),
    row("no data", said(200, {"code": 200, "msg": "success"})),
    row("data is null", said(200, error(200))),
    row("wrong types", said(200, about(7))),
    row("another task's answer", said(200, {**DONE, "data": {"taskId": "other", "state": "success"}})),
    row("over the cap", said(200, b" " * (33 << 20))),
    row("a redirect", said(302, b"", location="https://elsewhere.example")),
    # No answer.
    row("unreachable", unreachable),
    row("broken off", broken_off),
]


@pytest.mark.parametrize(("reply", "fate", "again_s"), EVERY_ANSWER)
def test_every_answer(
    reply: Callable[[], httpx.Response], fate: str, again_s: tuple[float, float] | None, tmp_path: Path
) -> None:
    """No answer but an ended state ends a task; each has its effect on the key and on the time of the next poll."""

    async def main() -> None:
        upstream = Upstream(reply, done, neutral=reply if fate == REFUSED else None)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await until(lambda: len(upstream.asked) == 1 and life.claims == 0, step_s=0.005)
        await asyncio.sleep(0.02 if fate == REFUSED else 0)
        answered_s = VirtualClock().monotonic()
        task = (await life.look(callback)).task
        assert (life.key.refusal is not None) == (fate == REFUSED)
        assert (life.key.queries.available() == 0) == (fate != OK)
        if again_s is None:
            assert task.state in (TaskState.SUCCESS, TaskState.FAIL)
            assert task.next_poll_at is None
        else:
            assert task.state is TaskState.WAITING
            assert (task.polls, task.last_error is None) == (1, again_s in (SOON, WHEN_TOLD, AT_MOST))
            await until(lambda: len(upstream.asked) == 2 and life.claims == 0)
            assert again_s[0] - 0.05 <= upstream.times[1] - answered_s <= again_s[1] + 0.05
            assert (await life.look(callback)).task.state is TaskState.SUCCESS
            assert life.key.refusal is None
        assert (await life.look(callback)).state is CallbackState.PENDING
        await life.stop()

    run_virtual(main())


def test_an_upstream_that_never_answers(tmp_path: Path) -> None:
    """A poll has its time limit; then it is asked again like any other that failed."""

    async def main() -> None:
        asked: list[float] = []

        async def hang(_: httpx.Request) -> httpx.Response:
            asked.append(VirtualClock().monotonic())
            await asyncio.sleep(1e6)
            raise AssertionError

        life = await Life(tmp_path / "db", VirtualClock(), upstream=Transport(hang)).start()
        await life.register("t")
        await until(lambda: len(asked) == 2)
        assert 32.0 <= asked[1] - asked[0] <= 32.3
        await life.stop(0)
        assert life.claims == 0

    run_virtual(main())


@pytest.mark.parametrize("expires", [True, False])
def test_of_many_callbacks_twenty_are_named_in_the_log(expires: bool, tmp_path: Path) -> None:
    """And all are counted: a line of a thousand ids is read by nobody."""

    async def main() -> None:
        upstream = Upstream(running if expires else done)
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport)
        await life.store.open()
        for number in range(25):
            await life.register("t", url=f"https://a.example/{number}", timeout_s=60)
        with capture_logs() as log:
            life.supervisor.start()
            await asyncio.sleep(90)
        event = "callbacks.expired" if expires else "task.settled"
        (told,) = [line for line in log if line["event"] == event]
        assert (told["callbacks"], len(told["callback_ids"])) == (25, 20)
        await life.stop()

    run_virtual(main())


# Unknown tasks.


async def body_of(life: Life, callback: Callback) -> dict[str, Any]:
    claims, _ = await claim_webhooks(life.store, life.clock.now() + 1, 10)
    (claim,) = [claim for claim in claims if claim.id == callback.id]
    body: dict[str, Any] = json.loads(body_sent(claim))
    return body


@pytest.mark.parametrize("code", [404, 422])
def test_an_unknown_task_is_given_up(code: int, tmp_path: Path) -> None:
    """After two minutes and at least five polls in a row; the webhook says why, and the log warns."""

    async def main() -> None:
        upstream = Upstream(said(code, error(code)))
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await until(lambda: VirtualClock().monotonic() > 119)
        assert (await life.look(callback)).state is CallbackState.WAITING
        with capture_logs() as log:
            await until(lambda: VirtualClock().monotonic() > 160)
        (settled,) = [line for line in log if line["log_level"] == "warning"]
        assert (settled["event"], settled["callback_ids"]) == ("task.settled", [callback.id])
        assert len(upstream.asked) >= 5
        assert (await life.look(callback)).task.state is TaskState.ABANDONED
        body = await body_of(life, callback)
        assert (body["type"], body["data"]["reason"]) == ("task.abandoned", "not_found")
        await life.stop()

    run_virtual(main())


KONG = {"message": "no Route matched with those values"}
DENIALS = {
    "a proxy's 404": said(404, KONG),
    "a framework's 404": said(404, {"detail": "Not Found"}),
    "a framework's 422": said(422, {"detail": [{"loc": ["query"], "msg": "field required"}]}),
    "a 404 with nothing": said(404, {}),
    "a 404 whose code is a word": said(404, {"code": "not_found", "message": "no such route"}),
    "a 404 that says that all is well": said(404, {"code": 200, "message": "ok"}),
    "a CDN's 404": said(404, b"<html>404 Not Found</html>"),
    "an empty 404": said(404, b""),
    "HTTP 410": said(410, {"message": "gone"}),
    "HTTP 400": said(400, {"message": "no such task"}),
    "another API's JSON": said(200, {"status": "failed", "error": "unknown job"}),
    "a load balancer's 502": said(502, {"data": {"state": "fail"}, "message": "upstream connect error"}),
    "the API's own 404": said(404, error(404)),
    "the API's own 422 with HTTP 200": said(200, error(422, "recordInfo is null")),
    "the API's own 404 as text": said(404, {"code": "404", "msg": "m"}),
}
THE_APIS = {name for name in DENIALS if name.startswith("the API's own")}
LIKE_THE_APIS = {"a 404 whose code is a word", "a 404 that says that all is well"}
"""Errors in the API's form, which are odd, and no nonsense."""


@pytest.mark.parametrize("name", DENIALS)
def test_a_task_once_seen_running_is_not_unknown(name: str, tmp_path: Path) -> None:
    """Whoever denies it, and for however long, over restarts too: it is asked about until its callback expires."""

    async def main() -> None:
        upstream = Upstream(running, DENIALS[name])
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        for _ in range(2):
            await asyncio.sleep(3600)
            assert life.poller.makes_no_sense == (name not in LIKE_THE_APIS)
            await life.stop()
            life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        await asyncio.sleep(600)
        task = (await life.look(callback)).task
        assert (task.state, task.last_error is None) == (TaskState.WAITING, False)
        gaps = [later - sooner for sooner, later in pairwise(upstream.times)]
        assert max(gaps) <= (331.0 if name in THE_APIS else 31.0)
        assert gaps[-1] >= (270.0 if name in THE_APIS else 29.0)
        upstream.script = [done]
        await asyncio.sleep(332)
        assert (await life.look(callback)).task.state is TaskState.SUCCESS
        assert not life.poller.makes_no_sense
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("name", [name for name in DENIALS if name not in THE_APIS])
def test_only_the_apis_own_word_makes_a_new_task_unknown(name: str, tmp_path: Path) -> None:
    """A proxy that stands in the way from the beginning costs no task either."""

    async def main() -> None:
        upstream = Upstream(*[DENIALS[name]] * 30, done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await asyncio.sleep(1200)
        assert (await life.look(callback)).task.state is TaskState.SUCCESS
        await life.stop()

    run_virtual(main())


def test_a_denied_task_is_given_up_with_its_callback(tmp_path: Path) -> None:
    """Not for ever: when the callback's time has passed it is asked about a last time."""

    async def main() -> None:
        upstream = Upstream(running, said(404, error(404)))
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t", timeout_s=3600)
        await asyncio.sleep(3640)
        assert [at for at in upstream.times if 3600 <= at <= 3601]
        body = await body_of(life, callback)
        assert (body["type"], body["data"]["reason"]) == ("task.abandoned", "timeout")
        await life.stop()

    run_virtual(main())


def test_a_task_revived_is_as_known_as_it_was(tmp_path: Path) -> None:
    """Where it ran when its first callback's time passed, the upstream has told of it."""

    async def main() -> None:
        upstream = Upstream(running)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        first = await life.register("t", timeout_s=60)
        await asyncio.sleep(100)
        assert (await life.look(first)).task.state is TaskState.ABANDONED
        upstream.script = [said(404, error(404))]
        again = await life.register("t", url="https://b.example/")
        await asyncio.sleep(3600)
        assert (await life.look(again)).task.state is TaskState.WAITING
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("code", [404, 422])
def test_a_task_that_becomes_known_is_a_success(code: int, tmp_path: Path) -> None:
    """A fresh task that the upstream knows only after a minute loses nothing."""

    async def main() -> None:
        upstream = Upstream(*[said(code, error(code))] * 5, done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await until(lambda: len(upstream.asked) == 6 and life.claims == 0)
        assert (await life.look(callback)).task.state is TaskState.SUCCESS
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("before", [running, said(502, b"<html>"), said(401, error(401)), unreachable])
def test_an_upstream_in_trouble_does_not_make_a_task_unknown(
    before: Callable[[], httpx.Response], tmp_path: Path
) -> None:
    """Other failures do not count towards giving up, however long the task is watched; nor do a few 404s after them."""

    async def main() -> None:
        upstream = Upstream(*[before] * 12, *[said(404, error(404))] * 4, before, *[said(404, error(404))] * 4, done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await until(lambda: len(upstream.script) == 1 and life.claims == 0)
        await until(lambda: len(upstream.asked) >= 22 and life.claims == 0)
        assert (await life.look(callback)).task.state is TaskState.SUCCESS
        await life.stop()

    run_virtual(main())


# The key.


def test_a_refused_key_loses_nothing_and_recovers(tmp_path: Path) -> None:
    """One slow probe at a time, whatever is due; with the first good answer everything goes on, without a restart."""

    async def main() -> None:
        good_after_s = 400.0

        async def reply(task_id: str) -> PollResult:
            asked.append(VirtualClock().monotonic())
            await asyncio.sleep(2)
            if asked[-1] < good_after_s:
                return PollResult(kind=PollKind.KEY_REFUSED, error="The upstream answered 401: no")
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        asked: list[float] = []
        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), rate=FAST).start()
        callbacks = [await life.register(f"t{i}") for i in range(300)]
        await until(lambda: life.key.refusal is not None)
        first = len(asked)
        assert first <= 2 * 64 + 1  # those of the doubt, those before, and the probe
        await until(lambda: VirtualClock().monotonic() > good_after_s)
        assert life.key.refusal == "The upstream answered 401: no"
        refused_s = asked[first - 1]
        # In the first one also those that were registered with the first: nobody had asked about them.
        new = [at for at in asked[first:] if at < refused_s + 30]
        assert len(new) == 4
        assert all(later - sooner >= 7 for sooner, later in pairwise([refused_s, *new]))
        asked[first : first + len(new)] = []
        gaps = [b - a for a, b in zip(asked[first - 1 :], asked[first:], strict=False)]
        # After each pause a task, and once that is refused the neutral one.
        assert len(gaps) == 6
        assert all(gap >= pause_s for gap, pause_s in zip(gaps[::2], _PROBE_S, strict=False))
        assert all(2 <= gap < 2.1 for gap in gaps[1::2])
        await until(lambda: life.key.refusal is None, limit_s=301)
        await asyncio.sleep(60)
        assert {(await life.look(callback)).state for callback in callbacks} == {CallbackState.PENDING}
        await life.stop()

    run_virtual(main())


def test_a_refused_key_recovers_with_nothing_to_poll(tmp_path: Path) -> None:
    """Readiness does not stay red for want of a task: the key is probed without one, as slowly."""

    async def main() -> None:
        words = [said(401, error(401))] * 4 + [said(404, error(404))]
        upstream = Upstream(words[0], neutral=lambda: words.pop(0)())
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await until(lambda: life.key.refusal is not None)
        reserve, reserved = life.key.queries.reserve, Counter[int]()

        async def counted(count: int) -> int:
            reserved[count] += 1
            return await reserve(count)

        life.key.queries.reserve = counted  # type: ignore[method-assign]
        await life.store.registry.cancel("", callback.id, life.clock.now())
        await until(lambda: life.key.refusal is None, limit_s=600)
        assert upstream.probed == [pytest.approx(at, abs=1) for at in (0, 30, 90, 210, 510)]
        assert reserved == {0: reserved[0], 1: 4}
        await asyncio.sleep(600)
        assert (len(upstream.asked), len(upstream.probed)) == (1, 5)
        assert life.key.queries._limiter.in_flight == 0
        await life.stop()

    run_virtual(main())


def test_a_lower_tier_is_adopted(tmp_path: Path) -> None:
    """The limit that a 429 names holds for a while, and the schedule reckons with it."""

    async def main() -> None:
        told = error(429, data={"retryAfter": 1, "limit": 6, "windowSeconds": 60})
        upstream = Upstream(lambda: answer(429, told), running)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        for i in range(20):
            await life.register(f"t{i}")
        await asyncio.sleep(600)
        for at in upstream.times[1:]:
            assert sum(1 for other in upstream.times[1:] if at - 60 < other <= at) <= 6
        assert len(upstream.asked) > 50
        assert life.timetable._budget_per_s == pytest.approx(0.1)
        await life.stop()

    run_virtual(main())


def test_one_wrong_limit_does_not_stop_polls_for_a_day(tmp_path: Path) -> None:
    """One request a day, says one answer: for an hour that is believed, and told; then the key is as it was."""

    async def main() -> None:
        told = error(429, data={"retryAfter": 1, "limit": 1, "windowSeconds": 86400})
        upstream = Upstream(lambda: answer(429, told), running)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        await life.register("t")
        await asyncio.sleep(3500)
        assert (len(upstream.asked), life.key.limited) == (1, True)
        await asyncio.sleep(200)
        assert (len(upstream.asked) > 1, life.key.limited) == (True, False)
        await asyncio.sleep(600)
        assert len(upstream.asked) > 20
        assert life.timetable._budget_per_s == 1.0
        await life.stop()

    run_virtual(main())


def test_limits_without_end_cost_nothing(tmp_path: Path) -> None:
    """Another window in each 429, for hours: few of them hold, and after an hour without any the key is as it was."""

    async def main() -> None:
        names = count(60)

        def limited() -> httpx.Response:
            return answer(429, error(429, data={"retryAfter": 0.1, "limit": 5, "windowSeconds": next(names)}))

        upstream = Upstream(limited)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport, rate=FAST).start()
        for number in range(3):
            await life.register(f"t{number}")
        await asyncio.sleep(4 * 3600)
        limiter = life.key.queries._limiter
        assert len(upstream.asked) > 15
        assert len(limiter._told) <= 3
        assert sum(len(window.leaves_at) for window in limiter._told) <= 3 * 5
        upstream.script = [running]
        await asyncio.sleep(2 * 3600)
        assert not life.key.limited
        assert life.key.queries.rate_per_s == 1000.0
        await life.stop()

    run_virtual(main())


# Time-outs.


@pytest.mark.parametrize(
    ("last", "within_s"), [(running, 0.5), (said(502, b""), 32.0), (said(404, error(404)), 32.0), (unreachable, 32.0)]
)
def test_a_time_out_comes_after_a_last_poll(
    last: Callable[[], httpx.Response], within_s: float, tmp_path: Path
) -> None:
    """The webhook says timeout at once where the last answer is "still running"; an outage then is waited out a bit."""

    async def main() -> None:
        upstream = Upstream(last)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t", timeout_s=40)
        await asyncio.sleep(39.9)
        assert (await life.look(callback)).state is CallbackState.WAITING
        await asyncio.sleep(0.1 + within_s)
        assert (await life.look(callback)).state is CallbackState.PENDING
        assert [at for at in upstream.times if 39.999 <= at <= 41]
        assert (await life.look(callback)).task.polls == len(upstream.asked)
        body = await body_of(life, callback)
        assert (body["data"]["state"], body["data"]["reason"]) == ("abandoned", "timeout")
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    ("expires_s", "polled_s", "failures", "now_s", "expired_by_s"),
    [
        # The last answer says "still running": at once, for those that had expired by then.
        (100, 100, 0, 100, 100),
        (100, 101, 0, 200, 101),
        (-1, 5, 0, 6, 5),
        # The last poll came to nothing: half a minute.
        (100, 100, 1, 129.999, None),
        (100, 100, 1, 130, 100),
        # Those that passed up to half a minute ago, and before that poll.
        (100, 110, 1, 135, 105),
        (100, 110, 1, 145, 110),
        # It has not been made: a minute.
        (100, 99, 0, 159.999, None),
        (100, 99, 0, 160, 100),
        (100, None, 0, 159.999, None),
        (100, None, 0, 160, 100),
        (100, None, 0, 170, 110),
        (0, None, 0, 60, 0),
        # The time passed before the start, at 0: ten minutes from then on.
        (-1, None, 0, 599.999, None),
        (-1, None, 0, 600, 0),
        (-1, 5, 1, 599.999, None),
        (-1, 5, 1, 600, 0),
    ],
)
def test_how_long_a_last_poll_is_waited_for(
    expires_s: float, polled_s: float | None, failures: int, now_s: float, expired_by_s: float | None, tmp_path: Path
) -> None:
    """Callbacks are abandoned after a usable answer to a poll that was made since, or after a grace."""

    def instant(seconds: float | None) -> int | None:
        return None if seconds is None else EPOCH + round(seconds * 1000)

    async def main() -> int | None:
        life = Life(tmp_path / "db", VirtualClock(), upstream=Upstream(running).transport)
        await asyncio.sleep(now_s)
        expires_at = EPOCH + expires_s * 1000
        assert isinstance(expires_at, int)
        task = ExpiredTask(
            seq=1, task_id="t", expires_at=expires_at, last_polled_at=instant(polled_s), failures=failures
        )
        return life.poller._expiry._expired_by(task, life.clock.now())

    assert run_virtual(main()) == instant(expired_by_s)


def due(created_s: float = 0.0, **changes: Any) -> DueTask:
    given = {"born_at": None, "model": None, "polls": 0, "failures": 0, "last_polled_at": None}
    created_at = EPOCH + round(created_s * 1000)
    return DueTask(
        seq=1, upstream="up", watchers="", task_id="t", created_at=created_at, due_at=created_at, **{**given, **changes}
    )


@pytest.mark.parametrize(
    ("told", "task", "duration_s"),
    [
        ({"duration_s": 7.5}, due(), 7.5),
        ({}, due(), 50.0),  # it ended between its registration and now
        ({}, due(last_polled_at=EPOCH + 80_000), 90.0),  # since its last poll
        ({}, due(last_polled_at=EPOCH + 80_000, born_at=EPOCH - 10_000), 100.0),
        ({"task_created_at": EPOCH + 20_000}, due(born_at=EPOCH - 10_000), 40.0),
        ({"task_created_at": EPOCH + 20_000}, due(last_polled_at=EPOCH + 10_000), 40.0),
        ({"task_created_at": EPOCH + 200_000}, due(), 0.0),
    ],
)
def test_how_long_a_task_took(told: dict[str, Any], task: DueTask, duration_s: float) -> None:
    """What the upstream says; else it ended half way between the last two polls, and began when it was created."""
    result = PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS, **told)
    began_at = result.task_created_at or task.born_at or task.created_at
    assert took_s(task, result, began_at, EPOCH + 100_000) == duration_s


async def unwanted(*args: object) -> None:
    raise AssertionError(args)


def test_what_a_poll_told_is_learned_from(tmp_path: Path) -> None:
    """The newest word on the model and the creation counts; durations are kept, and not those of unknown tasks."""

    async def main() -> None:
        born_at = VirtualClock().now() - 5000
        told = {
            "told at the end": [
                PollResult(kind=PollKind.RUNNING, model="m", task_created_at=born_at - 1000),
                PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS, model="n", task_created_at=born_at, duration_s=20),
            ],
            "told before": [
                PollResult(kind=PollKind.RUNNING, model="m", task_created_at=born_at),
                PollResult(kind=PollKind.RUNNING),
                PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS, duration_s=30),
            ],
            "unknown": [PollResult(kind=PollKind.NOT_KNOWN, error="404")] * 20,
        }

        async def reply(task_id: str) -> PollResult:
            return told[task_id].pop(0)

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()
        learned: list[tuple[str | None, int, float]] = []
        asked: list[tuple[str | None, int]] = []
        running, ended = life.timetable.running, life.timetable.ended

        def hear_running(task: DueTask, model: str | None, began_at: int, now: int) -> int:
            asked.append((model, began_at))
            return running(task, model, began_at, now)

        def hear_ended(task: DueTask, model: str | None, began_at: int, duration_s: float, *, told: bool) -> None:
            learned.append((model, began_at, duration_s))
            ended(task, model, began_at, duration_s, told=told)

        life.timetable.running = hear_running  # type: ignore[method-assign]
        life.timetable.ended = hear_ended  # type: ignore[method-assign]
        for task_id in told:
            callback = await life.register(task_id)
            await asyncio.sleep(400)
            task = (await life.look(callback)).task
            if task_id == "unknown":
                assert (task.state, learned) == (TaskState.ABANDONED, [])
                continue
            model, duration_s = ("n", 20) if task_id == "told at the end" else ("m", 30)
            assert learned == [(model, born_at, duration_s)]
            learned.clear()
            assert task.polls == (2 if model == "n" else 3)
        assert asked == [("m", born_at - 1000), ("m", born_at), ("m", born_at)]
        await life.stop()
        again = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()
        known = again.timetable._learned.durations
        assert [known.known(of_model(model)) for model in ("m", "n", "other")] == [1, 1, 0]
        await again.stop()

    run_virtual(main())


def test_when_the_poller_comes_round_again(tmp_path: Path) -> None:
    """When the next task is due, or the next callback expires; every second while one waits for its last poll."""

    async def main() -> None:
        upstream = Upstream(running)
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport)
        await life.store.open()
        life.key.queries.polls_waiting = True
        poll_now = life.store.tasks.poll_now
        life.store.tasks.poll_now = unwanted  # type: ignore[method-assign]
        assert await life.poller.run_once() == HEARTBEAT_S
        life.store.tasks.poll_now = poll_now  # type: ignore[method-assign]
        assert not life.key.queries.polls_waiting
        callback = await life.register("t", timeout_s=30)
        assert await life.poller.run_once() == 30.0
        await until(lambda: life.claims == 0, step_s=0.001)
        next_poll_at = (await life.look(callback)).task.next_poll_at
        assert next_poll_at is not None
        assert await life.poller.run_once() == (next_poll_at - life.clock.now()) / 1000
        assert not life.key.queries.polls_waiting
        await life.store.tasks.poll_now("up", [callback.task.seq], life.clock.now() + 60_000)
        await asyncio.sleep(30.5)
        upstream.script = [unreachable]
        assert await life.poller.run_once() <= 1.0
        await until(lambda: life.claims == 0, step_s=0.001)
        assert 0 < await life.poller.run_once() <= 1.0
        await life.store.close()

    run_virtual(main())


def test_the_poller_comes_round_when_readers_have_gone(tmp_path: Path) -> None:
    """A task that nobody waits for any more is not asked about again."""

    async def main() -> None:
        upstream = Upstream(running)
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport)
        await life.store.open()
        now = life.clock.now()
        wish = ReadWatch(
            upstream="up", task_id="t", client="a", at=now, read_until=now + 3000, next_poll_at=now + 60_000
        )
        await life.store.registry.watch(wish)
        assert await life.poller.run_once() == 3.0
        await asyncio.sleep(3)
        assert await life.poller.run_once() >= HEARTBEAT_S
        await asyncio.sleep(60)
        assert await life.poller.run_once() >= HEARTBEAT_S
        assert upstream.asked == []
        await life.store.close()

    run_virtual(main())


def test_a_poller_whose_key_may_not_ask_yet(tmp_path: Path) -> None:
    """It comes round when a place has its time, not at once; where an answer must come first, that wakes it."""

    async def main() -> None:
        go = asyncio.Event()

        async def reply(_: str) -> PollResult:
            await go.wait()
            return PollResult(kind=PollKind.RUNNING)

        life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), rate=(RateWindow(2, 20.0),))
        await life.store.open()
        queries = life.key.queries
        for number in range(3):
            await life.register(f"t{number}")
        await life.poller.run_once()
        assert life.claims == 2
        assert queries.polls_waiting
        assert queries.next_available_s() is None
        assert await life.poller.run_once() == 86_400  # the first time-out
        assert queries.polls_waiting
        go.set()
        await until(lambda: life.claims == 0, step_s=0.001)
        queries.next_available_s = lambda: 4.5  # type: ignore[method-assign]
        assert await life.poller.run_once() == 4.5
        queries.next_available_s = lambda: 0.0  # type: ignore[method-assign]
        assert await life.poller.run_once() == 0.001
        assert life.claims == 0
        await life.store.close()

    run_virtual(main())


def test_a_result_at_the_last_moment_counts(tmp_path: Path) -> None:
    """Where the last poll fails, and the one after it brings the result, the callback gets the result."""

    async def main() -> None:
        upstream = Upstream(*[running] * 3, unreachable, unreachable, done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport, min_s=5, max_s=12).start()
        callback = await life.register("t", timeout_s=28)
        await asyncio.sleep(27.9)
        assert (await life.look(callback)).state is CallbackState.WAITING
        upstream.script = [unreachable, unreachable, done]
        await asyncio.sleep(31)
        assert (await life.look(callback)).task.state is TaskState.SUCCESS
        await life.stop()

    run_virtual(main())


def test_a_last_poll_for_each_callback(tmp_path: Path) -> None:
    """While one callback is in its grace, another of the same task is asked for too when its own time has passed."""

    async def main() -> None:
        async def answer(_: httpx.Request) -> httpx.Response:
            if 595 <= life.clock.monotonic() < 605:
                return httpx.Response(503, headers={"retry-after": "300"})
            return done() if life.clock.monotonic() >= 605 else running()

        life = await Life(tmp_path / "db", VirtualClock(), upstream=Transport(answer)).start()
        await life.register("t", url="https://a.example/1", timeout_s=600)
        await asyncio.sleep(10)
        second = await life.register("t", url="https://a.example/2", timeout_s=600)
        await asyncio.sleep(700)
        assert (await life.look(second)).task.state is TaskState.SUCCESS
        await life.stop()

    run_virtual(main())


def test_a_time_out_while_the_gateway_was_down(tmp_path: Path) -> None:
    """A task whose time passed while nothing ran is asked about once before it is given up."""

    async def main() -> None:
        upstream = Upstream(running, done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t", timeout_s=60)
        await until(lambda: len(upstream.asked) == 1 and life.claims == 0)
        await life.stop()
        await asyncio.sleep(3600)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        await until(lambda: len(upstream.asked) == 2 and life.claims == 0)
        assert (await life.look(callback)).task.state is TaskState.SUCCESS
        await life.stop()

    run_virtual(main())


def test_a_refused_key_does_not_hold_up_time_outs(tmp_path: Path) -> None:
    """Where the last poll is not possible, the time-out comes after its grace, for all of them together."""

    async def main() -> None:
        refused = said(401, error(401))
        upstream = Upstream(refused, neutral=refused)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callbacks = [await life.register(f"t{i}", timeout_s=60) for i in range(1200)]
        await asyncio.sleep(60 + 60 + 5)
        states = [(await life.look(callback)).state for callback in callbacks]
        assert set(states) == {CallbackState.PENDING}
        assert not life.poller._expiry._last_polls
        await life.stop()

    run_virtual(main())


# Whose turn it is, and when.


def test_a_new_registration_is_polled_at_once(tmp_path: Path) -> None:
    """The loop sleeps, and is woken."""

    async def main() -> None:
        upstream = Upstream(done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        await asyncio.sleep(1234.5)
        await life.register("t")
        await asyncio.sleep(0.02)
        assert upstream.times == [1234.5]
        await life.stop()

    run_virtual(main())


def test_a_registration_with_a_model_is_polled_when_it_pays(tmp_path: Path) -> None:
    """A model that takes 20 s is asked about then, and the upstream's own word on it counts from there on."""

    async def main() -> None:
        async def reply(request: httpx.Request) -> httpx.Response:
            task_id, age_s = request.url.params["taskId"], VirtualClock().monotonic() - 1000
            asked.append((task_id, age_s))
            state = {"state": "success", "costTime": 20_000} if age_s >= 20 else {"state": "waiting"}
            return answer(200, {"code": 200, "data": {"taskId": task_id, "model": "its own", **state}})

        asked: list[tuple[str, float]] = []
        life = await Life(tmp_path / "db", VirtualClock(), upstream=Transport(reply)).start()
        teach(life.timetable, "m", (20 + number / 100 for number in range(40)))
        await asyncio.sleep(1000)
        told = await life.register("told", model="m")
        untold = await life.register("untold")
        assert told.task.model == "m"
        await asyncio.sleep(60)
        first_s = {task_id: next(at for of, at in asked if of == task_id) for task_id in ("told", "untold")}
        assert first_s["untold"] < 1
        assert 15 < first_s["told"] < 25
        polls = {one.task.task_id: (await life.look(one)).task.polls for one in (told, untold)}
        assert polls["told"] < polls["untold"]
        known = life.timetable._durations
        assert [known.known(of_model(model)) for model in ("m", "its own")] == [40, 2]
        await life.stop()

    run_virtual(main())


def test_when_the_budget_is_short_the_most_urgent_comes_first(tmp_path: Path) -> None:
    """Of many due tasks those are asked about whose end has probably gone unnoticed the longest."""

    async def main() -> None:
        upstream = Upstream(running)
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport, rate=(RateWindow(1, 10.0),))
        await life.store.open()
        for i in range(5):
            await life.register(f"t{i}")
            await asyncio.sleep(20)
        teach(life.timetable, None, [30.0] * 50)
        worth = {"t3": 9.0, "t1": 8.0}
        life.timetable.urgency = lambda task: 0.0 if task.polls else worth.get(task.task_id, 1.0)  # type: ignore[method-assign]
        life.supervisor.start()
        await until(lambda: len(upstream.asked) == 2)
        assert [task_id for _, task_id in upstream.asked] == ["t3", "t1"]
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(("limit", "urgent"), [(63, True), (64, False), (1000, False)])
def test_where_the_budget_is_ample_whoever_waits_longest_comes_first(limit: int, urgent: bool, tmp_path: Path) -> None:
    """Urgency decides only where polls are short of budget, not of places."""

    async def main() -> None:
        upstream = Upstream(running)
        rate = (RateWindow(limit, 1000.0),)
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport, rate=rate)
        await life.store.open()
        for number in range(70):
            await life.register(f"t{number:02}")
            await asyncio.sleep(0.001)
        life.timetable.urgency = lambda task: float(task.task_id[1:])  # type: ignore[method-assign]
        wait_s = await life.poller.run_once()
        assert wait_s == 0.001 if urgent else wait_s >= HEARTBEAT_S
        assert life.key.queries.polls_waiting is urgent
        await until(lambda: life.claims == 0, step_s=0.001)
        asked = {task_id for _, task_id in upstream.asked}
        numbers = range(69, 6, -1) if urgent else range(64)
        assert asked == {f"t{number:02}" for number in numbers}
        await life.store.close()

    run_virtual(main())


def test_a_full_house_waits_for_a_place(tmp_path: Path) -> None:
    """While as many polls as may run are in flight, the loop sleeps in place of looking all the time."""

    async def main() -> None:
        go = asyncio.Event()

        async def reply(_: str) -> PollResult:
            await go.wait()
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), rate=FAST)
        rounds = 0
        once = life.poller.run_once

        async def counted() -> float:
            nonlocal rounds
            rounds += 1
            return await once()

        life.poller.run_once = counted  # type: ignore[method-assign]
        await life.start()
        callbacks = [await life.register(f"t{i}") for i in range(200)]
        await asyncio.sleep(5)
        assert life.claims == 64
        rounds = 0
        await asyncio.sleep(100)
        assert rounds <= 20
        go.set()
        await asyncio.sleep(1)
        assert (await life.look(callbacks[-1])).state is CallbackState.PENDING
        await life.stop()

    run_virtual(main())


def test_a_place_is_filled_once_its_poll_is_stored(tmp_path: Path) -> None:
    """However long that takes: a client that has all its places full waits for no heartbeat."""

    async def main() -> None:
        asked: list[str] = []
        go = asyncio.Event()

        async def poll(task_id: str) -> PollResult:
            asked.append(task_id)
            if len(asked) > 1:
                await asyncio.Event().wait()
            await go.wait()
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(poll), rate=FAST).start()
        await asyncio.gather(*(life.register(f"t{i}") for i in range(MOST_POLLS)))
        await until(lambda: len(asked) == MOST_POLLS // 2)
        await asyncio.sleep(1)
        life.connection.latency_s = lambda: 0.05  # of every way back from the database
        go.set()
        await until(lambda: len(asked) > MOST_POLLS // 2, limit_s=HEARTBEAT_S / 5)
        life.connection.latency_s = lambda: 0.0
        await life.stop(0)

    run_virtual(main())


def test_polls_that_have_no_place_take_none_from_reads(tmp_path: Path) -> None:
    """Where it is places that are short, the key's budget is the clients' alone until one is free."""

    async def main() -> None:
        go = asyncio.Event()

        async def reply(_: str) -> PollResult:
            await go.wait()
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), rate=FAST).start()
        await asyncio.gather(*(life.register(f"t{i}", client=f"c{i}") for i in range(2 * MOST_POLLS)))
        await until(lambda: life.claims == MOST_POLLS)
        life.key.queries.polls_waiting = True
        assert await life.poller.run_once() >= HEARTBEAT_S
        assert not life.key.queries.polls_waiting
        go.set()
        await until(lambda: life.claims == 0)
        await life.stop()

    run_virtual(main())


# Nothing leaks.


class Trouble(Exception):
    """A defect."""


@pytest.mark.parametrize("trouble", ["store", "upstream", "judge"])
def test_a_failed_poll_gives_its_claim_back(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails for a while, or a defect on the way: the task is asked about again, not in a tight circle."""

    async def main() -> None:
        asked = 0
        bad = True

        async def reply(_: str) -> PollResult:
            nonlocal asked
            asked += 1
            if trouble == "store":
                life.connection.broken = "disk full" if bad else None
            if trouble == "upstream" and bad:
                raise Trouble
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), rate=(RateWindow(100_000, 1.0),))
        judge = life.key.judge

        def judged(task_id: str, asked_at: float, result: PollResult, **how: bool) -> None:
            if trouble == "judge" and bad:
                raise Trouble
            judge(task_id, asked_at, result, **how)

        monkeypatch.setattr(life.key, "judge", judged)
        await life.start()
        callback = await life.register("t")
        with capture_logs() as log:
            await asyncio.sleep(10)
        defects = [line["exc_info"] for line in log if line["event"] == "inflight.failed"]
        assert all(isinstance(defect, Trouble) for defect in defects)
        assert len(defects) == (0 if trouble == "store" else asked - 1)  # the last one pauses still
        assert (1 if trouble == "store" else 9) <= asked <= 12
        assert (await life.look(callback)).state is CallbackState.WAITING
        bad, life.connection.broken = False, None
        await asyncio.sleep(40)
        assert (await life.look(callback)).state is CallbackState.PENDING
        assert life.claims == 0
        assert life.key.queries._limiter.in_flight == 0
        await life.stop()

    run_virtual(main())


def test_polls_that_cannot_be_reserved_are_not_made(tmp_path: Path) -> None:
    """Where the budget cannot be kept, nothing is sent and every claim and place comes back."""

    async def main() -> None:
        upstream = Upstream(done)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        life.connection.broken = "disk full"
        await asyncio.sleep(10)
        assert (upstream.asked, life.claims, life.key.queries._limiter.in_flight) == ([], 0, 0)
        assert bool(life.store.failing)
        life.connection.broken = None
        await asyncio.sleep(31)
        assert (await life.look(callback)).state is CallbackState.PENDING
        assert not bool(life.store.failing)
        await life.stop()

    run_virtual(main())


def test_nothing_is_handed_over_before_what_was_learned_is_kept(tmp_path: Path) -> None:
    """Whoever leads next reads it at once."""

    async def main() -> None:
        life = await Life(tmp_path / "db", VirtualClock(), upstream=Upstream(running).transport).start()
        save = life.timetable.save
        idle: list[bool] = []

        async def saved(*, now: bool = False) -> None:
            idle.append(life.poller.idle)
            await save(now=now)

        life.timetable.save = saved  # type: ignore[method-assign]
        await until(lambda: bool(idle))
        teach(life.timetable, "m", [30.0] * 5)
        await save(now=True)  # so that it is not time for the next part yet
        teach(life.timetable, "m", [30.0] * 15)
        await life.supervisor.drain(10)
        assert (idle[0], idle[-1], life.poller.idle) == (True, False, True)
        await life.store.close()
        again = await Life(tmp_path / "db", VirtualClock(), upstream=Upstream(running).transport).start()
        assert again.timetable._learned.durations.known(of_model("m")) == 20
        await again.stop()

    run_virtual(main())


@pytest.mark.parametrize(("takes_s", "finished"), [(3.0, True), (30.0, False)])
def test_draining(takes_s: float, finished: bool, tmp_path: Path) -> None:
    """At the end nothing new begins; what is in flight is finished in time, or cancelled and its claim given back."""

    async def main() -> None:
        asked = 0

        async def reply(_: str) -> PollResult:
            nonlocal asked
            asked += 1
            await asyncio.sleep(takes_s)
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()
        callbacks = [await life.register(f"t{i}") for i in range(5)]
        await until(lambda: asked == 2, step_s=0.01)
        assert life.poller.in_flight == 2
        await life.supervisor.drain(10)
        assert (asked, life.claims, life.poller.in_flight) == (2, 0, 0)
        states = [(await life.look(callback)).state for callback in callbacks]
        assert states.count(CallbackState.PENDING) == (2 if finished else 0)
        await life.store.close()

    run_virtual(main())


# Learning.


@pytest.mark.parametrize("off_s", [0, -8 * 3600, -150, 20, 8 * 3600])
def test_what_was_learned_survives_a_restart(off_s: int, tmp_path: Path) -> None:
    """How long a model's tasks take is known again after a start, and so is when to ask.

    So it is where the upstream's clock or zone is off, one way or the other.
    """

    async def main() -> None:
        async def reply(request: httpx.Request) -> httpx.Response:
            task_id = request.url.params["taskId"]
            age_ms = VirtualClock().now() - born[task_id]
            told_ms = born[task_id] + off_s * 1000
            data = {"taskId": task_id, "model": "m", "state": "waiting", "createTime": told_ms}
            if age_ms >= 20_000:
                data |= {"state": "success", "costTime": 20_000, "completeTime": told_ms + 20_000}
            return answer(200, {"code": 200, "data": data})

        async def task(life: Life, task_id: str) -> int:
            born[task_id] = VirtualClock().now()
            callback = await life.register(task_id)
            await asyncio.sleep(60)
            ended = (await life.look(callback)).task
            assert ended.state is TaskState.SUCCESS
            assert ended.settled_at is not None
            lags.append(ended.settled_at - born[task_id] - 20_000)
            return ended.polls

        born: dict[str, int] = {}
        lags: list[int] = []
        life = await Life(tmp_path / "db", VirtualClock(), upstream=Transport(reply)).start()
        first = await task(life, "first")
        for i in range(40):
            await task(life, f"t{i}")
        await life.stop()
        life = await Life(tmp_path / "db", VirtualClock(), upstream=Transport(reply)).start()
        assert await task(life, "after") < first
        assert lags[-1] <= 1000
        assert life.timetable._durations.distribution(of_model("m"), 0.0).survival_at(25) < 0.15
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("off_ms", [-8 * 3_600_000, 8 * 3_600_000])
def test_a_creation_that_is_not_believed_is_told_as_it_came(off_ms: int, tmp_path: Path) -> None:
    """An upstream whose clock or zone is off makes no task older or younger; who reads it has the upstream's words."""

    async def main() -> None:
        told_at = VirtualClock().now() + off_ms

        async def reply(task_id: str) -> PollResult:
            return PollResult(kind=PollKind.RUNNING, task_created_at=told_at)

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()
        callback = await life.register("t")
        began: list[int] = []
        running = life.timetable.running

        def hear(task: DueTask, model: str | None, began_at: int, now: int) -> int:
            began.append(began_at)
            return running(task, model, began_at, now)

        life.timetable.running = hear  # type: ignore[method-assign]
        await until(lambda: len(began) == 2 and life.claims == 0)
        assert began == [callback.task.created_at] * 2
        assert (await life.look(callback)).task.born_at == told_at
        await life.stop()

    run_virtual(main())


# Several clients.


class Watched:
    """An upstream whose tasks run for ever; notes when it was asked about which."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.upstream = ScriptedUpstream(self._poll)

    async def _poll(self, task_id: str) -> PollResult:
        self.asked.append((VirtualClock().monotonic(), task_id))
        await asyncio.sleep(0.01)
        return PollResult(kind=PollKind.RUNNING, model="its" if task_id in ("mine", "both") else "m")

    async def other_polls_before(self, task_id: str) -> int:
        """Wait until it is asked about a task; return how many other questions come before."""
        before = len(self.asked)
        await until(lambda: any(asked == task_id for _, asked in self.asked[before:]), step_s=0.01)
        return [asked for _, asked in self.asked[before:]].index(task_id)


@pytest.mark.parametrize("rate", [(RateWindow(10, 1.0),), (RateWindow(2, 1.0), RateWindow(60, 60.0))])
@pytest.mark.parametrize("after_s", [1.0, 300.0])
def test_a_batch_of_one_client_holds_up_no_other_clients_poll(
    rate: tuple[RateWindow, ...], after_s: float, tmp_path: Path
) -> None:
    """Clients take turns at a short budget: hundreds of tasks of one, and the only one of another is among the next.

    So it is for a task that both watch, and however long the budget has been short: its price is that of the hundreds.
    """

    async def main() -> None:
        watched = Watched()
        life = await Life(tmp_path / "db", VirtualClock(), upstream=watched.upstream, rate=rate).start()
        await asyncio.gather(*(life.register(f"t{i}", client="many") for i in range(300)))
        await asyncio.sleep(after_s)
        await life.register("mine", client="few")
        assert await watched.other_polls_before("mine") < 4
        registered = len(watched.asked)
        await life.register("both", client="many")
        await life.register("both", client="few")
        assert await watched.other_polls_before("both") < 8
        await asyncio.sleep(60)
        mine = sum(task_id == "mine" for _, task_id in watched.asked[registered:])
        assert mine >= 6, "as often as were it alone"
        await life.stop()

    run_virtual(main())


def test_polls_that_hang_for_one_client_leave_places_to_another(tmp_path: Path) -> None:
    """Where it is places that are short, and not the budget, clients take turns too."""

    async def main() -> None:
        asked: list[str] = []

        async def poll(task_id: str) -> PollResult:
            asked.append(task_id)
            if not task_id.startswith("mine"):
                await asyncio.sleep(3600)  # it waits for room in memory, say
            return PollResult(kind=PollKind.RUNNING, model="m")

        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(poll), rate=FAST).start()
        await asyncio.gather(*(life.register(f"t{i}", client="many") for i in range(1000)))
        await until(lambda: len(asked) == MOST_POLLS // 2)
        began = VirtualClock().monotonic()
        await asyncio.gather(*(life.register(f"mine{i}", client="few") for i in range(100)))
        await until(lambda: all(asked.count(f"mine{i}") >= 2 for i in range(100)))
        assert VirtualClock().monotonic() - began < 60
        assert len([task_id for task_id in asked if not task_id.startswith("mine")]) == MOST_POLLS // 2
        await life.stop()

    run_virtual(main())


def test_a_poll_that_is_stored_late_is_followed_by_the_next_in_its_time(tmp_path: Path) -> None:
    """Until it is stored, a task is not among those its poller knows: its next poll may be the earliest of all."""

    async def main() -> None:
        asked: list[float] = []

        async def poll(task_id: str) -> PollResult:
            asked.append(VirtualClock().monotonic())
            return PollResult(kind=PollKind.RUNNING, model="m")

        life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(poll))
        reschedule = life.store.tasks.reschedule

        async def late(record: PollRecord) -> None:
            await asyncio.sleep(0.1)
            await reschedule(record)

        life.store.tasks.reschedule = late  # type: ignore[method-assign]
        await life.start()
        await life.register("t")
        await until(lambda: len(asked) == 4)
        assert max(then - before for before, then in pairwise(asked)) < HEARTBEAT_S / 2
        await life.stop()

    run_virtual(main())


def test_a_client_that_has_its_places_full_does_not_keep_the_poller_looking(tmp_path: Path) -> None:
    """Its due tasks wait for one of its own polls to end, which wakes the loop; another's next one is seen in time."""

    async def main() -> None:
        asked: list[str] = []
        go = asyncio.Event()

        async def poll(task_id: str) -> PollResult:
            asked.append(task_id)
            if not task_id.startswith("mine"):
                await go.wait()
            return PollResult(kind=PollKind.RUNNING, model="m")

        life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(poll), rate=FAST)
        looks = 0
        waiting = life.store.tasks.waiting

        async def counted(*args: Any) -> Any:
            nonlocal looks
            looks += 1
            return await waiting(*args)

        life.store.tasks.waiting = counted  # type: ignore[method-assign]
        await life.start()
        await asyncio.gather(*(life.register(f"t{i}", client="many") for i in range(200)))
        await until(lambda: len(asked) == MOST_POLLS // 2)
        await life.register("mine", client="few")
        await asyncio.sleep(1)
        before, mine = looks, asked.count("mine")
        assert mine
        await asyncio.sleep(100)
        polled = asked.count("mine") - mine
        assert polled >= 3
        assert looks - before <= 20 + 3 * polled
        go.set()
        await until(lambda: len({task_id for task_id in asked if task_id != "mine"}) == 200)
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("readers", [1, 3, 5])
def test_polls_and_clients_reads_share_a_short_budget(readers: int, tmp_path: Path) -> None:
    """While both wait, polls get three places of four: neither starves the other."""

    async def main() -> None:
        upstream = Upstream(running)
        life = await Life(
            tmp_path / "db", VirtualClock(), upstream=upstream.transport, rate=(RateWindow(2, 1.0),)
        ).start()
        await asyncio.gather(*(life.register(f"t{i}") for i in range(300)))
        reads = 0

        async def read() -> None:
            nonlocal reads
            while True:
                if await life.key.queries.acquire(10, waiter := Waiter("a")) is None:
                    reads += 1
                    with life.key.queries.sending(waiter):
                        await asyncio.sleep(0.01)

        clients = [asyncio.create_task(read()) for _ in range(readers)]
        await asyncio.sleep(60)
        for client in clients:
            client.cancel()
        polls = len(upstream.asked)
        assert polls + reads > 100
        assert 0.6 < polls / (polls + reads) < 0.85
        await life.stop()

    run_virtual(main())
