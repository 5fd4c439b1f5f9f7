"""When the time of a task's callbacks has passed: a last poll, and what follows. In virtual time."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gateway.core.model import CallbackState, ExpiredTask, TaskState
from tests.life import Life, Transport, until
from tests.polling import Upstream, body_of, done, error, running, said, unreachable
from tests.virtualtime import EPOCH, VirtualClock, run_virtual


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


def test_a_last_poll_that_fails_is_made_again_when_it_may_be(tmp_path: Path) -> None:
    """An upstream that asks to be left alone is, though the task's time has passed: the grace ends unanswered."""

    async def main() -> None:
        upstream = Upstream(running)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t", timeout_s=40)
        await asyncio.sleep(39)
        upstream.script = [said(503, b"", retry_after="300")]
        await asyncio.sleep(40)
        assert len([at for at in upstream.times if at > 39]) == 1
        assert (await life.look(callback)).state is CallbackState.PENDING
        await life.stop()

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
