"""The poller's own rounds: when it comes round, what leaks from none of them, and what it learns. In virtual time."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.claims import DueTask
from gateway.core.model import CallbackState, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.core.reads import ReadWatch
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.durations import of_model
from gateway.upstream.timetable import took_s
from tests.life import Life, ScriptedUpstream, Transport, teach, until
from tests.nouns import due_task
from tests.polling import SUCCESS, Upstream, answer, done, running, unreachable
from tests.virtualtime import EPOCH, VirtualClock, run_virtual


def due(created_s: float = 0.0, **members: Any) -> DueTask:
    return due_task(created_at=EPOCH + round(created_s * 1000), **members)


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
