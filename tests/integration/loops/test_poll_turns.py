"""Whose turn it is to be polled, and when, of one client's tasks and of several clients'. In virtual time."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.model import CallbackState, PollRecord
from gateway.core.ratelimit import RateWindow
from gateway.loops.poller import MOST_POLLS
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.durations import of_model
from gateway.upstream.turns import Waiter
from tests.life import Life, ScriptedUpstream, Transport, teach, until
from tests.polling import FAST, SUCCESS, Upstream, answer, done, running
from tests.virtualtime import VirtualClock, run_virtual


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


def test_where_the_budget_is_ample_each_of_many_clients_has_who_waits_longest_come_first(tmp_path: Path) -> None:
    """Urgency decides nothing, too, where places are short because several clients share them."""

    async def main() -> None:
        upstream = Upstream(running)
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport, rate=FAST)
        await life.store.open()
        for number in range(60):
            for client in "abc":
                await life.register(f"{client}{number:02}", client=client)
            await asyncio.sleep(0.001)
        life.timetable.urgency = lambda task: float(task.task_id[1:])  # type: ignore[method-assign]
        await life.poller.run_once()
        await until(lambda: life.claims == 0, step_s=0.001)
        asked = sorted(task_id for _, task_id in upstream.asked)
        for client in "abc":
            its = [task_id for task_id in asked if task_id.startswith(client)]
            assert its
            assert its == [f"{client}{number:02}" for number in range(len(its))]
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
