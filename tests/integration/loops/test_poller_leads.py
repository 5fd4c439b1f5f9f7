"""A poller among replicas: it asks and stores only while it leads, and knows meanwhile what the leader has learned."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.model import Callback, CallbackState, Outcome, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.loops.leading import Lease
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store.engine import Lead, Work
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.durations import of_model
from tests.life import Life, ScriptedUpstream, Transport, teach, until
from tests.virtualtime import VirtualClock, run_virtual

FAST = (RateWindow(1000, 1.0),)


class Upstream:
    """Tells of each task that it has ended, or that it runs; slow on demand."""

    def __init__(self, takes_s: float, status: int, state: str) -> None:
        self.asked: list[float] = []
        self.takes_s = takes_s
        self.status = status
        self.state = state
        self.transport = Transport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(VirtualClock().monotonic())
        await asyncio.sleep(self.takes_s)
        data = {"taskId": request.url.params["taskId"], "state": self.state, "resultJson": "{}"}
        body = {"code": self.status, "msg": "m", "data": data if self.status == 200 else None}
        return httpx.Response(self.status, content=json.dumps(body))


def made(path: Path, *, takes_s: float = 0.01, status: int = 200, state: str = "success") -> tuple[Life, Upstream]:
    """Make one of several replicas, which does not lead yet, and what it will ask."""
    upstream = Upstream(takes_s, status, state)
    lease = Lease(VirtualClock())
    return Life(path / "db", VirtualClock(), upstream=upstream.transport, rate=FAST, lease=lease), upstream


async def live(path: Path, **about: Any) -> tuple[Life, Upstream]:
    """The same, started."""
    life, upstream = made(path, **about)
    return await life.start(), upstream


async def lead(life: Life, for_s: float, epoch: int = 1) -> None:
    """Begin to lead, as the loop that decides it does."""
    await life.poller.gained(epoch)
    life.poller.lease.begin(epoch, VirtualClock().monotonic() + for_s)


async def look(life: Life, callback: Callback) -> Callback:
    found = await life.store.registry.get_callback(None, callback.id)
    assert found is not None
    return found


def end(life: Life) -> None:
    life.poller.lease.end()
    life.poller.lost()


def test_who_does_not_lead_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it give anything up; once it leads it asks at once, and again when it does no longer."""

    async def main() -> None:
        life, upstream = await live(tmp_path)
        first = await life.register("t", client="c")
        late = await life.register("u", timeout_s=60, client="c")
        life.key.queries.polls_waiting = True
        with monkeypatch.context() as patch:
            patch.setattr(life.timetable, "save", None)  # it is the leader's
            assert await life.poller.run_once() == HEARTBEAT_S
        assert not life.key.queries.polls_waiting, "clients' reads have the whole budget"
        await asyncio.sleep(3600)
        assert upstream.asked == []
        assert (await look(life, late)).state is CallbackState.WAITING
        await lead(life, 3600.0)
        await until(lambda: len(upstream.asked) == 2, limit_s=1)
        await asyncio.sleep(1)
        assert (await look(life, first)).state is CallbackState.PENDING
        end(life)
        await life.register("v", client="c")
        await asyncio.sleep(100)
        assert len(upstream.asked) == 2
        await lead(life, 3600.0, 2)
        await until(lambda: len(upstream.asked) == 3, limit_s=1)
        await life.stop()

    run_virtual(main())


def test_what_comes_after_the_lease_is_stored_by_nobody(tmp_path: Path) -> None:
    """Whoever leads then asks anew: here the same process, which knows that the answer was to an earlier question."""

    async def main() -> None:
        life, upstream = await live(tmp_path, takes_s=10.0)
        callback = await life.register("t", client="c")
        await lead(life, 5.0)
        await until(lambda: len(upstream.asked) == 1)
        await asyncio.sleep(20)
        found = await look(life, callback)
        assert (found.state, found.task.polls) == (CallbackState.WAITING, 0)
        assert len(upstream.asked) == 1
        end(life)
        await lead(life, 12.0)
        await until(lambda: len(upstream.asked) == 2, limit_s=1)
        end(life)
        await lead(life, 3600.0)
        await until(lambda: len(upstream.asked) == 3, limit_s=1)
        await asyncio.sleep(9.5)
        assert (await look(life, callback)).task.polls == 0
        await asyncio.sleep(1)
        found = await look(life, callback)
        assert (found.state, found.task.polls) == (CallbackState.PENDING, 1)
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("trouble", ["a defect", "not stored"])
def test_a_poll_that_fails_once_its_term_is_over_leaves_the_task_to_the_next_term(tmp_path: Path, trouble: str) -> None:
    """In which it is asked about again by then: given back, it would be asked about twice at once."""
    asked: list[float] = []

    async def reply(_: str) -> PollResult:
        asked.append(VirtualClock().monotonic())
        await asyncio.sleep(10 if len(asked) > 1 else 1)
        if len(asked) == 1 and trouble == "a defect":
            raise ValueError(trouble)
        life.connection.broken = "disk full" if len(asked) == 1 else None
        return PollResult(kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}'))

    async def main() -> None:
        nonlocal life
        lease = Lease(VirtualClock())
        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), lease=lease).start()
        callback = await life.register("t", client="c")
        await lead(life, 3600.0)
        await until(lambda: len(asked) == 1)
        await asyncio.sleep(1.2)
        life.connection.broken = None
        end(life)
        await lead(life, 3600.0, 2)
        await until(lambda: len(asked) == 2, limit_s=0.7)
        await asyncio.sleep(8)
        assert (len(asked), life.poller.in_flight) == (2, 1)
        await asyncio.sleep(3)
        assert (await look(life, callback)).state is CallbackState.PENDING
        assert len(asked) == 2
        await life.stop()

    life: Life
    run_virtual(main())


def test_a_process_that_stood_still_sends_nothing_that_it_was_about_to(tmp_path: Path) -> None:
    """Its places are given back."""

    async def main() -> None:
        life, upstream = await live(tmp_path)
        await life.register("t", client="c")
        life.connection.latency_s = lambda: 6.0  # of every way back from the database
        await lead(life, 8.0)
        await asyncio.sleep(200)
        assert upstream.asked == []
        assert life.key.queries.available() == 1000
        assert life.poller.idle
        life.connection.latency_s = lambda: 0.0
        end(life)
        await lead(life, 3600.0)
        await until(lambda: len(upstream.asked) == 1, limit_s=1)
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("after_s", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
def test_a_round_that_outlasts_its_term_keeps_no_task(tmp_path: Path, after_s: float) -> None:
    """What it claims in the next term, which it does not know of, is polled in that."""

    async def main() -> None:
        life, upstream = await live(tmp_path)
        await life.register("t", client="c")
        await lead(life, 3600.0)
        life.connection.latency_s = lambda: 1.0  # of every way back from the database
        await asyncio.sleep(after_s)
        end(life)
        await lead(life, 3600.0, 2)
        life.connection.latency_s = lambda: 0.0
        await until(lambda: len(upstream.asked) == 1, limit_s=30)
        await life.stop()

    run_virtual(main())


def test_an_end_that_another_replica_stores_is_not_told_twice(tmp_path: Path) -> None:
    """Neither counted nor logged where the store has left it out."""

    async def main() -> None:
        life, _ = await live(tmp_path)
        callback = await life.register("t", client="c")

        def none_is_led(*_: object) -> Work[list[Lead]]:
            yield from ()
            return []

        life.store._engine.guard = none_is_led  # type: ignore[method-assign]
        with capture_logs() as lines:
            await lead(life, 3600.0)
            await until(lambda: life.store.stale_writes == 1)
        assert not [line for line in lines if line["event"] == "task.settled"]
        assert life.metrics.settled.labels("up", "success")._value.get() == 0
        assert (await look(life, callback)).state is CallbackState.WAITING
        end(life)
        await life.stop()

    run_virtual(main())


def test_what_another_replica_gives_up_is_not_told_twice(tmp_path: Path) -> None:
    """Nor is that a defect: it looks again in its next round."""

    async def main() -> None:
        life, _ = await live(tmp_path, state="waiting")
        callback = await life.register("t", client="c", timeout_s=60)

        def none_is_led(*_: object) -> Work[list[Lead]]:
            yield from ()
            return []

        life.store._engine.guard = none_is_led  # type: ignore[method-assign]
        with capture_logs() as lines:
            await lead(life, 3600.0)
            await asyncio.sleep(180)
        assert {line["event"] for line in lines if line["log_level"] not in ("debug", "info")} == {"store.stale_writes"}
        assert (await look(life, callback)).state is CallbackState.WAITING
        end(life)
        await life.stop()

    run_virtual(main())


def test_a_refusal_is_the_next_leaders_to_end(tmp_path: Path) -> None:
    """Who polls no longer cannot find out that the key is accepted again, and goes by what it is told."""

    async def main() -> None:
        life, _ = await live(tmp_path, status=401)
        await life.register("t", client="c")
        await lead(life, 3600.0)
        await until(lambda: life.key.refusal is not None)
        end(life)
        assert (life.key.refusal, life.key.doubted, life.poller.refuses_tasks) == (None, False, False)
        assert life.poller.refused
        life.poller.hear(refused=False)
        assert not life.poller.refused
        assert life.key.queries.available() > 0
        await lead(life, 3600.0)
        await until(lambda: life.key.refusal is not None)
        await life.stop()

    run_virtual(main())


def test_a_poll_that_its_term_ended_before_is_not_made(tmp_path: Path) -> None:
    """Its place in the budget comes back."""

    async def main() -> None:
        life, upstream = made(tmp_path)
        await life.store.open()
        await life.register("t", client="c")
        await lead(life, 3600.0)
        await life.poller.run_once()
        assert not life.poller.idle
        end(life)
        await until(lambda: life.poller.idle, step_s=0.001)
        assert (upstream.asked, life.key.queries.available()) == ([], 1000)
        await life.store.close()

    run_virtual(main())


def test_a_question_about_the_key_is_not_asked_in_anothers_place(tmp_path: Path) -> None:
    """Where other replicas have taken all, it is asked once there is one."""

    async def main() -> None:
        life, upstream = await live(tmp_path, status=401)
        reserve, full = life.key.queries.reserve, False

        async def reserved(count: int) -> int:
            return 0 if full else await reserve(count)

        life.key.queries.reserve = reserved  # type: ignore[method-assign]
        await life.register("t", client="c")
        await lead(life, 3600.0)
        await until(lambda: len(upstream.asked) == 1, step_s=0.001)
        full = True
        await until(lambda: life.key.doubted, step_s=0.001)
        await asyncio.sleep(1)
        assert (len(upstream.asked), life.key.queries._limiter.in_flight, life.poller.refused) == (1, 0, False)
        full = False
        await until(lambda: life.poller.refused, limit_s=60)
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize("status", [401, 200])
def test_who_takes_over_a_refused_key_asks_that_first(tmp_path: Path, status: int) -> None:
    """With one of the tasks that are due, and then the neutral one; all of them are polled once it is accepted."""

    async def main() -> None:
        life, upstream = await live(tmp_path, status=status)
        for number in range(5):
            await life.register(f"t{number}", client="c")
        life.poller.hear(refused=True)
        assert (life.key.refusal, life.poller.refused) == (None, True)
        await lead(life, 3600.0)
        assert (life.key.refusal is None, life.poller.refused) == (False, True)
        await asyncio.sleep(20)
        assert len(upstream.asked) == (2 if status == 401 else 5)
        assert life.key.refused == (status == 401)
        upstream.status = 200
        await asyncio.sleep(60)
        assert not life.key.refused
        end(life)
        life.poller.hear(refused=False)
        await lead(life, 3600.0, 2)
        assert not life.key.refused
        await life.stop()

    run_virtual(main())


def test_what_the_leader_learns_the_others_know(tmp_path: Path) -> None:
    """Within a minute, so that first polls are as good wherever a task is registered."""

    async def main() -> None:
        life, upstream = await live(tmp_path)
        other = Life(tmp_path / "other", VirtualClock(), upstream=upstream.transport)
        teach(other.timetable, "m", [30.0] * 20)
        learned, other_learned = life.timetable._learned, other.timetable._learned
        other_learned._load, other_learned._swap = learned._load, learned._swap
        await other.timetable.save(now=True)
        await asyncio.sleep(60)
        assert learned.durations.known(of_model("m")) == 20
        teach(other.timetable, "m", [30.0] * 5)
        await other.timetable.save(now=True)
        assert learned.durations.known(of_model("m")) == 20
        await lead(life, 3600.0)
        assert learned.durations.known(of_model("m")) == 25, "who begins to lead looks first"
        await life.stop()

    run_virtual(main())
