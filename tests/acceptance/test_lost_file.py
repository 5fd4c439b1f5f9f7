"""A database file that is taken from a running gateway, in real processes: a second one beside it loses nothing."""

import signal
from typing import Any

import httpx

from tests.crash.process import run_gateway


async def register(url: str, task_id: str) -> int:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        body = {"taskId": task_id, "callbackUrl": "http://127.0.0.1:9/hooks"}
        return (await client.post("/v1/callbacks", json=body)).status_code


async def test_a_second_gateway_beside_the_first_loses_nothing(world: Any) -> None:
    """The first takes nothing more, and what it does at its end leaves the second's files alone."""
    path = world.folder / "gateway.db"
    async with world.gateway() as first:
        assert await register(first.url, "sim-never-0-a") == 201
        path.unlink()
        async with run_gateway(world.environ, world.folder) as second:
            assert await register(second.url, "sim-never-0-b") == 201
            assert await register(first.url, "sim-never-0-c") == 503
            await first.event("store.file_lost")
            async with httpx.AsyncClient(base_url=first.url, trust_env=False) as client:
                assert (await client.get("/readyz")).status_code == 503
            assert await first.stop() == 0
            assert await register(second.url, "sim-never-0-d") == 201
            second.process.send_signal(signal.SIGKILL)
            await second.ended()
        async with run_gateway(world.environ, world.folder) as third:
            async with httpx.AsyncClient(base_url=third.url, trust_env=False) as client:
                found = (await client.get("/v1/callbacks")).json()["data"]
            assert [one["taskId"] for one in found] == ["sim-never-0-d", "sim-never-0-b"]


async def test_a_backup_of_a_removed_file_takes_its_place(world: Any) -> None:
    """What the log tells the operator to do: SIGUSR1, stop, the backup in the file's place, start: all is there."""
    path = world.folder / "gateway.db"
    async with world.gateway() as first:
        assert await register(first.url, "sim-never-0-a") == 201
        path.unlink()
        assert await register(first.url, "sim-never-0-b") == 503
        first.process.send_signal(signal.SIGUSR1)
        await first.event("backup.finished")
        assert await first.stop() == 0
    path.with_name("gateway.db.backup").rename(path)
    async with world.gateway() as second, httpx.AsyncClient(base_url=second.url, trust_env=False) as client:
        found = (await client.get("/v1/callbacks")).json()["data"]
        assert [one["taskId"] for one in found] == ["sim-never-0-a"]
