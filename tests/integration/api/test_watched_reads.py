"""Programs that only poll, through a whole gateway in virtual time: what they see, and what the upstream is asked.

Everything is real but the network and the time: the application, the store, the poller and the janitor.
"""

import asyncio
import gc
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import starlette.responses

from gateway.config.tokens import token_digest
from gateway.simulator.scenario import Plan
from tests.proxied import CREATE, Predictions, Served, World
from tests.virtualtime import run_virtual

WATCH_S = 60.0
LONGEST_S = 1.5 * WATCH_S
"""A watch ends so long after the last read, or up to a third earlier."""

KIE = {
    "kie-4o-image": ("/api/v1/gpt4o-image/generate", "/api/v1/gpt4o-image/record-info"),
    "kie-flux-kontext": ("/api/v1/flux/kontext/generate", "/api/v1/flux/kontext/record-info"),
    "kie-veo": ("/api/v1/veo/generate", "/api/v1/veo/record-info"),
    "kie-mj": ("/api/v1/mj/generate", "/api/v1/mj/record-info"),
    "kie-suno": ("/api/v1/generate", "/api/v1/generate/record-info"),
}
"""Where tasks are created, and where they are read."""


class Program:
    """Reads a task every five seconds until it has ended, as the family's clients do."""

    def __init__(self, world: World, served: Served, task_id: str) -> None:
        self.reads: list[tuple[float, str]] = []
        """When each read began, and the state that it found."""
        self.as_told: list[bool] = []
        """Whether each read found what the upstream had told last."""
        self._world, self._served, self._task_id = world, served, task_id

    async def run(self, begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        while True:
            began = self._world.clock.monotonic()
            data = await self._served.data(self._task_id)
            self.reads.append((began, data["state"]))
            self.as_told.append(self._world.told(self._task_id, data))
            if data["state"] in ("success", "fail"):
                return
            await asyncio.sleep(5)


@pytest.mark.parametrize(("outcome", "duration_s"), [("success", 240.0), ("fail", 60.0)])
def test_ten_programs_that_only_poll(
    outcome: str, duration_s: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upstream is asked once, and then at each poll of the schedule; all members are told, also while it runs."""

    async def main() -> None:
        world = World(tmp_path)
        async with world.gateway() as served:
            world.simulator.add_task("t", Plan(duration_s=duration_s, outcome=outcome))  # type: ignore[arg-type]
            rng = random.Random(duration_s)
            programs = [Program(world, served, "t") for _ in range(10)]
            await asyncio.gather(*(program.run(rng.uniform(0, 5)) for program in programs))
            ((settled_at, polls),) = await served.rows("SELECT settled_at, polls FROM tasks")
            noticed_s = (settled_at - world.clock.now()) / 1000 + world.clock.monotonic()
            reads, polled = await served.reads(), await served.polls()
        total = sum(reads.values())
        with capsys.disabled():
            print(f"\n  {outcome} after {duration_s:g} s: {total} reads {reads}, {len(world.asked['t'])} requests")
        assert reads["forwarded"] == 1
        assert reads["answered"] >= 0.95 * total
        assert len(world.asked["t"]) == polled + 1 == polls
        assert len(world.asked["t"]) < total / 5
        for program in programs:
            assert [state for at, state in program.reads if at >= noticed_s] == [outcome]
            assert all(program.as_told)

    run_virtual(main())


def test_programs_whose_tasks_were_created_here(tmp_path: Path) -> None:
    """None of their reads is forwarded, not even the first; until the first poll they see what they asked for."""

    async def main() -> None:
        world = World(tmp_path)
        async with world.gateway() as served:
            body = {"model": "m", "input": {"prompt": "A cat"}}
            at = world.clock.now()
            created = await served.client.post(CREATE, json=body)
            task_id = created.json()["data"]["taskId"]
            data = await served.data(task_id)
            assert json.loads(data.pop("param")) == body
            assert at <= data.pop("createTime") <= world.clock.now()
            assert (data.pop("taskId"), data.pop("model"), data.pop("state")) == (task_id, "m", "waiting")
            assert set(data.values()) == {None}
            assert not world.asked[task_id]
            programs = [Program(world, served, task_id) for _ in range(10)]
            await asyncio.gather(*(program.run(number / 2) for number, program in enumerate(programs)))
            assert set(await served.reads()) == {"answered"}
            assert len(world.asked[task_id]) == await served.polls()
            assert {program.reads[-1][1] for program in programs} == {"success"}

    run_virtual(main())


def test_programs_of_kies_other_endpoints(tmp_path: Path) -> None:
    """A create answers with an id alone, and the gateway tells of the new task as kie.ai does, until its first poll."""

    async def main() -> None:
        world = World(tmp_path)
        config = tmp_path / "gateway.toml"
        config.write_text("".join(f'[upstreams.{name}]\nurl = "https://up.example"\n' for name in KIE))
        async with world.gateway(GATEWAY_CONFIG=str(config)) as served:
            first = {}
            for name, (create, read) in KIE.items():
                made = await served.client.post(f"/u/{name}{create}", json={"prompt": "A cat"})
                path = f"/u/{name}{read}?taskId={made.json()['data']['taskId']}"
                first[path] = (await served.client.get(path)).json()
                assert first[path]["code"] == 200
            assert not world.asked
            for _ in range(8):
                await asyncio.sleep(20)
                last = {path: (await served.client.get(path)).json()["data"] for path in first}
            for path, new in first.items():
                new, task_id = new["data"], path.rpartition("=")[2]
                assert world.told(task_id, last[path])
                assert "https://" in json.dumps(last[path])
                assert new.keys() <= last[path].keys(), "as the simulator has it"
                param = "param" if "param" in new else "paramJson"
                assert (new["taskId"], new[param]) == (task_id, last[path][param])
            assert await served.reads() == {"answered": 9 * len(KIE)}
            assert sum(map(len, world.asked.values())) == await served.polls()

    run_virtual(main())


def test_a_task_that_was_created_with_a_form(tmp_path: Path) -> None:
    """Nothing was looked for in that, and so nothing of it is told."""

    class Forms(World):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            assert request.headers["content-type"].startswith("multipart/")
            return httpx.Response(200, json={"code": 200, "msg": "success", "data": {"taskId": "f"}})

    async def main() -> None:
        async with Forms(tmp_path).gateway() as served:
            form = {"image": ("cat.png", b"\x89PNG")}
            made = await served.client.post(CREATE, files=form, headers={"authorization": "Bearer any"})
            assert made.status_code == 200
            data = await served.data("f")
            assert (data["taskId"], data["state"], data["param"]) == ("f", "waiting", None)
            assert await served.reads() == {"answered": 1}

    run_virtual(main())


def clients(folder: Path) -> str:
    """Write two clients' tables, whose tokens are their names."""
    tables = [f'[clients.{name}]\ntoken_hashes = ["sha256:{token_digest(name).hex()}"]\n' for name in ("ann", "bob")]
    path = folder / "gateway.toml"
    path.write_text("".join(tables))
    return str(path)


def test_two_clients_share_one_stream_of_polls(tmp_path: Path) -> None:
    """And neither learns of the other's callbacks, nor whether there are any; an operator sees no more than these."""

    async def alone(world: World) -> int:
        async with world.gateway() as served:
            await served.register("t", timeoutSeconds=9999)
            await asyncio.sleep(300)
        return len(world.asked["t"])

    async def together(world: World) -> int:
        about = {"GATEWAY_CONFIG": clients(world.folder), "GATEWAY_OPERATOR_TOKEN": "op"}
        async with world.gateway(**about) as served:
            get = served.client.get
            ann, bob, operator = ({"authorization": f"Bearer {name}"} for name in ("ann", "bob", "op"))
            await served.register("t", "ann", timeoutSeconds=9999)
            await asyncio.sleep(20)
            for second in range(270):
                await asyncio.sleep(1)
                name = ("ann", "bob")[second % 2]
                assert world.told("t", await served.data("t", name))
            assert (await get("/v1/tasks/t", headers=bob)).status_code == 404
            assert (await get("/v1/callbacks", headers=bob)).json()["data"] == []
            assert (await get("/v1/callbacks?taskId=t", headers=bob)).json()["data"] == []
            assert (await get("/v1/tasks/t", headers=ann)).json()["state"] == "waiting"
            ((watchers,),) = await served.rows("SELECT watchers FROM tasks")
            assert watchers == "ann,bob"
            # One that is read only is nobody's.
            await served.read("u", "bob")
            for headers in (ann, bob, operator):
                assert (await get("/v1/tasks/u", headers=headers)).status_code == 404
                assert (await get("/v1/callbacks?taskId=u", headers=headers)).json()["data"] == []
        return len(world.asked["t"])

    counts = []
    for number, main in enumerate((alone, together)):
        folder = tmp_path / str(number)
        folder.mkdir()

        async def life(main: Callable[[World], Awaitable[int]] = main, folder: Path = folder) -> int:
            world = World(folder)
            for task_id in ("t", "u"):
                world.simulator.add_task(task_id, Plan(outcome="never"))
            return await main(world)

        counts.append(run_virtual(life()))
    assert counts[0] > 10
    assert abs(counts[1] - counts[0]) <= 0.2 * counts[0], "as for one"


def test_nobody_reads_any_more(tmp_path: Path) -> None:
    """A task is polled for a minute after its last read, however that fell, and for half of one more at most; and ten
    minutes after it nothing is left of it."""

    async def main() -> None:
        world = World(tmp_path)
        async with world.gateway(GATEWAY_POLL_MAX_S="5") as served:
            for number in range(100):
                world.simulator.add_task(f"t{number}", Plan(outcome="never" if number % 2 else "success"))
                await served.read(f"t{number}")
            last_s = world.clock.monotonic()
            last_read_s = {}
            for second in range(65):
                await asyncio.sleep(1)
                for number in range(1, 100, 2):
                    if second < number - 1:  # each at another point of its watch
                        await served.read(f"t{number}")
                        last_read_s[f"t{number}"] = world.clock.monotonic()
            await asyncio.sleep(500)
            assert world.asked_between(last_s, last_s + WATCH_S) > 50
            for task_id, read_s in last_read_s.items():
                assert read_s + WATCH_S - 6 < world.asked[task_id][-1] < read_s + LONGEST_S + 1
            assert max(world.asked["t1"][-1], world.asked["t0"][-1]) < last_s + LONGEST_S + 1
            assert await served.rows("SELECT count(*) FROM tasks WHERE task_id = 't99'") == [(1,)]
            await asyncio.sleep(last_read_s["t99"] + 600 - world.clock.monotonic())
            assert await served.rows("SELECT count(*) FROM tasks") == [(0,)]
            asked = len(world.asked["t99"])
            await served.read("t99")
            assert len(world.asked["t99"]) == asked + 1, "begins anew"

    run_virtual(main())


def test_a_restart_amid_a_watch(tmp_path: Path) -> None:
    """The next process polls on without a read, answers from what the last one knew, and sees the readers gone."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            await served.read("t")
            await asyncio.sleep(10)
        asked = len(world.asked["t"])
        async with world.gateway() as served:
            assert world.told("t", await served.data("t"))
            assert len(world.asked["t"]) == asked
            await asyncio.sleep(40)
            assert len(world.asked["t"]) > asked + 2
            await asyncio.sleep(60)
            asked = len(world.asked["t"])
            await asyncio.sleep(100)
            assert len(world.asked["t"]) == asked

    run_virtual(main())


def test_a_callback_is_cancelled_while_readers_wait(tmp_path: Path) -> None:
    """They go on to be answered from state, and it is polled until they have gone too."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            callback_id = await served.register("t")
            await asyncio.sleep(5)
            await served.read("t")
            assert (await served.client.delete(f"/v1/callbacks/{callback_id}")).status_code == 204
            at_s = world.clock.monotonic()
            await asyncio.sleep(50)
            assert world.told("t", await served.data("t"))
            assert world.asked_between(at_s, at_s + 50) > 2
            await asyncio.sleep(200)
            assert world.asked_between(at_s + 50 + LONGEST_S + 2, at_s + 1000) == 0
            assert await served.reads() == {"answered": 2}

    run_virtual(main())


def test_readers_go_while_a_callback_waits(tmp_path: Path) -> None:
    """It is polled as before; a later read has what the poll before it told."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            await served.register("t")
            await asyncio.sleep(5)
            assert world.told("t", await served.data("t")), "also before anybody has read it"
            await asyncio.sleep(900)
            assert await served.rows("SELECT read_until, record FROM tasks") == [(None, None)]
            assert world.asked_between(600, 900) > 5
            assert world.told("t", await served.data("t"))
            await asyncio.sleep(40)
            assert world.told("t", await served.data("t"))
            assert await served.reads() == {"answered": 3}

    run_virtual(main())


def test_what_is_told_never_goes_back(tmp_path: Path) -> None:
    """Neither when a watch has just ended and the next poll is to come, nor when a callback begins after the end."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("n", Plan(outcome="never"))
        world.simulator.add_task("t", Plan(duration_s=100))
        async with world.gateway() as served:
            assert (await served.data("t"))["state"] == "waiting"
            await served.register("n", timeoutSeconds=9999)
            await asyncio.sleep(5)
            await served.data("n")
            readers_gone = "SELECT 1 FROM tasks WHERE task_id = 'n' AND read_until IS NULL"
            assert not await served.rows(readers_gone)
            while not await served.rows(readers_gone):  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(0.1)
            assert world.told("n", await served.data("n"))
            await asyncio.sleep(100)
            assert (await served.data("t"))["state"] == "success"
            await served.register("t")
            assert (await served.data("t"))["state"] == "success"

    run_virtual(main())


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_the_clock_is_set(step_s: float, tmp_path: Path) -> None:
    """Readers wait for as long as they would have, and it is polled for them as before."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            for _ in range(60):
                await asyncio.sleep(5)
                await served.read("t")
            set_s = world.clock.monotonic()
            world.clock.step(step_s)
            for _ in range(60):
                await asyncio.sleep(5)
                await served.read("t")
            assert (await served.reads())["forwarded"] == 1
            before, after = world.asked_between(0, set_s), world.asked_between(set_s, set_s + 300)
            assert 9 <= after <= before, "each half a minute at least"
            await asyncio.sleep(LONGEST_S + 5)
            asked = len(world.asked["t"])
            await asyncio.sleep(600)
            assert len(world.asked["t"]) == asked
            assert await served.rows("SELECT count(*) FROM tasks") == [(0,)]

    run_virtual(main())


def test_a_read_that_waits(tmp_path: Path) -> None:
    """It is answered when the gateway notices the end, or when its time is over; it waits for a watch that it began,
    which lasts as long as it does, and the upstream is not told of it."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(duration_s=40))
        world.simulator.add_task("n", Plan(outcome="never"))
        async with world.gateway(GATEWAY_PROXY_WATCH_S="5") as served:
            data = await served.data("t", wait="60")
            assert world.told("t", data)
            assert data["state"] == "success"
            ((settled_at,),) = await served.rows("SELECT settled_at FROM tasks")
            assert world.clock.now() - settled_at < 100
            began_s = world.clock.monotonic()
            assert (await served.data("n", wait="30"))["state"] == "waiting"
            assert 29.9 < world.clock.monotonic() - began_s < 31
            assert world.asked_between(began_s + 10, began_s + 30) > 2
            assert await served.reads() == {"forwarded": 2}
            assert not [url for url in world.urls if "wait" in url]
            wrong = await served.read("t", wait="61")
            assert (wrong.status_code, wrong.json()["code"]) == (422, 422)
            held = asyncio.create_task(served.read("n", wait="60"))
            await asyncio.sleep(1)
            served.gateway.begin_drain()
            assert (await held).json()["data"]["state"] == "waiting"
            assert world.clock.monotonic() - began_s < 40

    run_virtual(main())


def test_reads_that_wait_keep_nothing(tmp_path: Path) -> None:
    """Neither the answer that began the watch nor what is known of the task: many wait, and what is small is not
    counted."""

    async def main() -> None:
        world = World(tmp_path)
        param = json.dumps({"model": "m", "input": {"prompt": "marked" * 5000}})
        world.simulator.add_task("t", Plan(duration_s=40), param=param)
        async with world.gateway() as served:
            reads = [asyncio.create_task(served.read("t", wait="60")) for _ in range(5)]
            await asyncio.sleep(20)
            kept = [one for one in gc.get_objects() if isinstance(one, starlette.responses.Response)]
            assert not [one for one in kept if b"marked" in one.body]
            for read in reads:
                assert (await read).json()["data"]["state"] == "success"

    run_virtual(main())


def test_an_end_that_was_forwarded_is_asked_for_once(tmp_path: Path) -> None:
    """For ten minutes: what an ended task tells changes no more, but for URLs in it that may be good for a while."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan())
        async with world.gateway() as served:
            first = await served.read("t")
            for _ in range(5):
                await asyncio.sleep(100)
                assert (await served.read("t")).json() == first.json()
            assert await served.reads() == {"forwarded": 1, "answered": 5}
            assert await served.rows("SELECT count(*) FROM tasks") == [(0,)]
            await asyncio.sleep(101)
            await served.read("t")
            assert len(world.asked["t"]) == 2

    run_virtual(main())


def test_reads_are_only_forwarded(tmp_path: Path) -> None:
    """Where no watch is wanted each read is the upstream's own answer, and waits for nothing."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway(GATEWAY_PROXY_WATCH_S="0") as served:
            for _ in range(3):
                assert world.told("t", await served.data("t"))
            assert world.told("t", await served.data("t", wait="10"))
            assert await served.reads() == {"forwarded": 4}
            assert world.clock.monotonic() < 1
            created = await served.client.post(CREATE, json={"model": "m", "input": {}})
            assert created.status_code == 200
            assert await served.rows("SELECT count(*) FROM tasks") == [(0,)]

    run_virtual(main())


def test_a_watched_task_is_answered_for_while_nothing_can_be_written(tmp_path: Path) -> None:
    """That its reader could not be taken down is nothing that he need know."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            await served.read("t")
            await asyncio.sleep(40)
            served.connection.broken = "disk full"
            assert world.told("t", await served.data("t"))
            served.connection.broken = None
            assert world.told("t", await served.data("t"))
            assert (await served.rows("SELECT read_until FROM tasks"))[0][0] > world.clock.now() + 59_000
            assert await served.reads() == {"forwarded": 1, "answered": 2}

    run_virtual(main())


async def prediction(served: Served, task_id: str) -> Any:
    return (await served.client.get(f"/v1/predictions/{task_id}")).json()


def test_an_api_whose_answers_cannot_be_made(tmp_path: Path) -> None:
    """What it told last is passed on, from its create's answer to its end; where nothing is known it is asked once."""

    async def main() -> None:
        world = Predictions(tmp_path)
        async with world.gateway(**world.env()) as served:
            made = await served.client.post("/v1/predictions", json={"seconds": 60})
            assert await prediction(served, "p0") == made.json()
            assert not world.asked["p0"]
            for _ in range(30):
                await asyncio.sleep(3)
                assert world.told("p0", await prediction(served, "p0"))
            assert (await prediction(served, "p0"))["output"] == ["https://x.example/1"]
            assert await served.reads() == {"answered": 32}

            at_once = await served.client.post("/v1/predictions", json={"seconds": 0})
            assert await prediction(served, "p1") == at_once.json()
            assert not world.asked["p1"], "it had ended when it was created"

            world.ended |= {"p2": world.clock.monotonic() + 60, "p3": 0.0}
            await served.register("p2", model="m")
            await served.register("p3")
            await asyncio.sleep(1)
            assert not world.asked["p2"]
            assert world.told("p2", await prediction(served, "p2"))
            assert world.told("p2", await prediction(served, "p2"))
            assert len(world.asked["p2"]) == 1
            asked = len(world.asked["p3"])
            for _ in range(3):
                assert world.told("p3", await prediction(served, "p3"))
            assert len(world.asked["p3"]) <= asked + 2, "once for the reader, and at once for the callback"

    run_virtual(main())
