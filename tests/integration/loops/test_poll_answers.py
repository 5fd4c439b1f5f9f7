"""What the poller makes of every answer there is. In virtual time."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.model import CallbackState, TaskState
from gateway.net.errors import ExchangeFailed
from tests.life import Life, Transport, until
from tests.polling import DONE, RUNNING, Upstream, done, error, running, said, unreachable
from tests.virtualtime import VirtualClock, run_virtual


def broken_off() -> httpx.Response:
    raise ExchangeFailed("reset", "reset")


OK, PAUSED, REFUSED = "ok", "paused", "refused"
BACKOFF = (2.0, 2.3)  # the first poll without a usable answer: twice min_s, and a tenth
SOON = (1.0, 30.0)
WHEN_TOLD, AT_MOST = (45.0, 45.1), (3600.0, 3600.1)
LIMIT = {"retryAfter": 17, "limit": 180, "tier": "basic", "windowSeconds": 60}


def row(
    name: str, reply: Callable[[], httpx.Response], key: str = OK, again_s: tuple[float, float] | None = BACKOFF
) -> Any:
    return pytest.param(reply, key, again_s, id=name)


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
