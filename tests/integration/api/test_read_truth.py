"""What the proxy's reads tell is no older than what was told before, and what they learn others need not wait for.

Everything is real but the network and the time, as in ``test_watched_reads``.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.net.errors import ExchangeFailed
from gateway.simulator.scenario import Plan
from tests.proxied import HOOK, Predictions, Served, World
from tests.virtualtime import run_virtual

AT_ONCE_S = 1.0


async def prediction(served: Served, task_id: str) -> Any:
    return (await served.client.get(f"/v1/predictions/{task_id}")).json()


async def settled(served: Served, task_id: str) -> bool:
    """Whether a task has its outcome, and the webhooks of its callbacks are on their way."""
    waiting = "SELECT 1 FROM callbacks JOIN tasks AS t ON t.seq = task_seq WHERE callbacks.state = 'waiting'"
    found = await served.rows(f"SELECT state FROM tasks WHERE task_id = '{task_id}'")
    return found == [("success",)] and not await served.rows(f"{waiting} AND task_id = '{task_id}'")


def killed(world: World) -> World:
    """Return the world in which the gateway was killed just now: all that it has is what is on its disk."""
    folder = world.folder / "killed"
    folder.mkdir()
    for path in world.folder.glob("gateway.*"):
        shutil.copy(path, folder)
    for path in world.folder.glob("*.toml"):
        shutil.copy(path, folder)
    world.folder = folder
    return world


def test_an_end_that_a_read_was_told(tmp_path: Path) -> None:
    """The callback that waits for it is not left to the schedule's next poll, nor is one that comes afterwards."""

    async def main() -> None:
        world = Predictions(tmp_path)
        async with world.gateway(**world.env()) as served:
            world.ended |= {"before": 0.0, "after": 0.0}
            await served.register("before", model="m")
            await asyncio.sleep(AT_ONCE_S)
            assert not await settled(served, "before")
            assert (await prediction(served, "before"))["status"] == "succeeded"
            assert (await prediction(served, "after"))["status"] == "succeeded"
            await served.register("after", model="m")
            await asyncio.sleep(AT_ONCE_S)
            assert await settled(served, "before")
            assert await settled(served, "after")
            assert {len(world.asked[task_id]) for task_id in ("before", "after")} == {2}

    run_virtual(main())


def test_an_end_that_the_creates_answer_told(tmp_path: Path) -> None:
    """The webhook that it asked for goes out at once."""

    async def main() -> None:
        world = Predictions(tmp_path)
        async with world.gateway(**world.env()) as served:
            await served.client.post("/v1/predictions", json={"seconds": 0, "webhook": HOOK})
            await served.client.post("/v1/predictions", json={"seconds": 60, "webhook": HOOK})
            await asyncio.sleep(AT_ONCE_S)
            assert await settled(served, "p0")
            assert not world.asked["p1"]

    run_virtual(main())


def test_a_task_that_was_cancelled_here(tmp_path: Path) -> None:
    """Its next read tells so; one that only looks changes nothing, and what is no task is nobody's."""

    async def main() -> None:
        world = Predictions(tmp_path)
        async with world.gateway(**world.env()) as served:
            await served.client.post("/v1/predictions", json={"seconds": 600})
            await asyncio.sleep(30)
            asked = len(world.asked["p0"])
            await served.client.get("/v1/predictions/p0/cancel")
            await asyncio.sleep(0.1)
            assert len(world.asked["p0"]) == asked
            await served.client.post("/v1/predictions/p0/cancel")
            await asyncio.sleep(0.1)
            assert (await prediction(served, "p0"))["status"] == "failed"
            assert await served.reads() == {"answered": 1}
            world.ended["other"] = 0.0
            assert (await served.client.post("/v1/predictions/other/cancel")).status_code == 200
            assert await served.rows("SELECT count(*) FROM tasks") == [(1,)]

    run_virtual(main())


@pytest.mark.parametrize("others", [0, 1])
def test_an_api_that_denies_what_it_has_told_of(others: int, tmp_path: Path) -> None:
    """For two minutes that may be a mishap; then readers hear so from the API itself, and when it knows it again."""

    async def main() -> None:
        world = World(tmp_path)
        for task_id in ("t", "other")[: 1 + others]:
            world.simulator.add_task(task_id, Plan(outcome="never"))
        async with world.gateway() as served:

            async def reads(seconds: int) -> set[int]:
                statuses = set()
                for _ in range(seconds // 5):
                    await asyncio.sleep(5)
                    statuses.add((await served.read("t")).status_code)
                    if others:
                        assert (await served.read("other")).status_code == 200
                return statuses

            await served.register("t", timeoutSeconds=99_999)
            assert await reads(60) == {200}
            world.denied.add("t")
            assert await reads(120) == {200}
            await asyncio.sleep(60)
            assert await reads(120) == {404}
            forwarded = (await served.reads())["forwarded"]
            assert len(world.asked["t"]) + len(world.asked["other"]) == forwarded + await served.polls()
            assert (await served.rows("SELECT state FROM callbacks")) == [("waiting",)]
            world.denied.clear()
            assert await reads(60) == {200}
            assert (await served.reads())["forwarded"] <= forwarded + 2, "it was polled at once, and is watched again"

    run_virtual(main())


def test_a_kill_between_two_reads(tmp_path: Path) -> None:
    """What a reader was told of a task that callbacks wait for the next process tells too, or more, without asking."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            await served.register("t", timeoutSeconds=9999)
            await asyncio.sleep(30)
            before = float((await served.data("t"))["progress"])
            asked = len(world.asked["t"])
            async with killed(world).gateway() as later:
                assert float((await later.data("t"))["progress"]) == before
                assert len(world.asked["t"]) == asked

    run_virtual(main())


def test_a_kill_before_anybody_has_read(tmp_path: Path) -> None:
    """Of what the polls told nothing was kept: the first read asks anew, and the others need not."""

    async def main() -> None:
        world = World(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            await served.register("t", timeoutSeconds=9999)
            await asyncio.sleep(30)
            asked = len(world.asked["t"])
            async with killed(world).gateway() as later:
                assert float((await later.data("t"))["progress"]) > asked / 100
                assert len(world.asked["t"]) == asked + 1
                assert (await later.data("t"))["progress"]
                assert await later.reads() == {"forwarded": 1, "answered": 1}

    run_virtual(main())


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_kill_and_then_an_outage(how: str, tmp_path: Path) -> None:
    """A task that callbacks wait for is told of, soon, with what is known of it."""

    class Unwell(World):
        well = True

        async def answer(self, request: httpx.Request) -> httpx.Response:
            if self.well:
                return await super().answer(request)
            if how == "hangs":
                await asyncio.sleep(1000)
            raise ExchangeFailed("refused", "refused", sent=False)

    async def main() -> None:
        world = Unwell(tmp_path)
        world.simulator.add_task("t", Plan(outcome="never"))
        async with world.gateway() as served:
            await served.register("t", timeoutSeconds=9999)
            await asyncio.sleep(30)
            world.well = False
            async with killed(world).gateway() as later:
                began_s = world.clock.monotonic()
                data = await later.data("t")
                assert (data["taskId"], data["state"]) == ("t", "waiting")
                assert world.clock.monotonic() - began_s < 6
                assert await later.reads() == {"answered": 1}

    run_virtual(main())


def test_a_kill_after_a_read_was_told_of_the_end(tmp_path: Path) -> None:
    """It is told of as ended from then on, whatever the upstream answers the next process."""

    async def main() -> None:
        world = Predictions(tmp_path)
        async with world.gateway(**world.env()) as served:
            await served.client.post("/v1/predictions", json={"seconds": 600})
            world.ended["p1"] = 600.0
            await served.register("p1", model="m")
            await asyncio.sleep(AT_ONCE_S)
            world.ended["p1"] = 0.0
            world.slow_s = [0.0, 100.0, 100.0]
            assert (await prediction(served, "p1"))["status"] == "succeeded"
            assert not await settled(served, "p1")
            async with killed(world).gateway(**world.env()) as later:
                assert (await prediction(later, "p1"))["status"] == "succeeded"
                assert await later.reads() == {"answered": 1}

    run_virtual(main())


def test_an_older_answer_comes_later(tmp_path: Path) -> None:
    """A poll that was asked before a client's read, and answered after it, takes nothing back."""

    async def main() -> None:
        world = Predictions(tmp_path)
        world.ended["p0"] = 30.0
        async with world.gateway(**world.env()) as served:
            await asyncio.sleep(20)
            world.slow_s = [20.0, 0.0]
            await served.register("p0")
            await asyncio.sleep(1)
            assert len(world.asked["p0"]) == 1
            assert (await prediction(served, "p0"))["logs"] == "2"
            await asyncio.sleep(10)
            world.slow_s = [0.0]
            while len(world.asked["p0"]) < 3:  # the poll comes back, as running, and is no news
                assert (await prediction(served, "p0"))["logs"] == "2"
                await asyncio.sleep(1)
            assert (await prediction(served, "p0"))["status"] == "succeeded"

    run_virtual(main())


def test_a_read_that_is_overtaken(tmp_path: Path) -> None:
    """Its client gets what a poll has told since; so do others who join it."""

    async def main() -> None:
        world = Predictions(tmp_path)
        world.ended["p0"] = 600.0
        async with world.gateway(**world.env()) as served:
            world.slow_s = [20.0]
            slow = asyncio.create_task(prediction(served, "p0"))
            await asyncio.sleep(1)
            await served.register("p0")
            await asyncio.sleep(5)
            seen = (await prediction(served, "p0"))["logs"]
            assert int(seen) > 1
            assert int((await slow)["logs"]) >= int(seen)

    run_virtual(main())
