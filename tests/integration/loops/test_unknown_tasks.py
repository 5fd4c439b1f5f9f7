"""What the poller makes of a task that the upstream does not know. In virtual time."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.model import CallbackState, TaskState
from tests.life import Life, until
from tests.polling import Upstream, body_of, done, error, running, said, unreachable
from tests.virtualtime import VirtualClock, run_virtual


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
