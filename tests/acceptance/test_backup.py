"""A backup of a gateway that is at work, and another gateway that goes on from it."""

import asyncio
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from gateway.simulator.scenario import Plan

PLENTY = {"note": "x" * 6000}
CLIENTS = 8


def restored(backup: Path, folder: Path) -> tuple[Path, set[str]]:
    """Put a backup into a new folder, as an operator does; return the file and the callbacks in it."""
    folder.mkdir()
    path = folder / "gateway.db"
    shutil.copy(backup, path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        return path, {callback_id for (callback_id,) in db.execute("SELECT id FROM callbacks")}


async def test_a_backup_under_load_is_restored_elsewhere(world: Any, tmp_path: Path) -> None:
    """SIGUSR1 while clients register: every 201 from before it is in the file, and is delivered by a new gateway."""
    answered: list[tuple[str, str]] = []
    enough, stop = asyncio.Event(), asyncio.Event()

    async def register(client: httpx.AsyncClient, name: str) -> None:
        number = 0
        while not stop.is_set():
            task_id = f"{name}-{number}"
            number += 1
            callback = await world.register(client, task_id, metadata=PLENTY)
            answered.append((callback["id"], task_id))
            if len(answered) >= 200:
                enough.set()

    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        clients = [asyncio.create_task(register(client, f"client{number}")) for number in range(CLIENTS)]
        async with asyncio.timeout(20):
            await enough.wait()
        before = dict(answered)
        gateway.process.send_signal(signal.SIGUSR1)
        finished = await gateway.event("backup.finished")
        stop.set()
        await asyncio.gather(*clients)
        await gateway.kill()
    backup = world.folder / "gateway.db.backup"
    assert finished["path"] == str(backup)
    path, found = restored(backup, tmp_path / "elsewhere")
    assert before.keys() <= found <= dict(answered).keys()

    for _, task_id in answered:
        world.simulator.add_task(task_id, Plan(duration_s=0))
    async with world.gateway(GATEWAY_DATABASE_URL=f"sqlite:///{path}") as gateway:
        await world.receiver.wait_for(set(before))
        assert await gateway.stop() == 0
    assert world.receiver.event(next(iter(before)))["data"]["metadata"] == PLENTY


async def test_the_next_backup_takes_the_place_of_the_last(world: Any) -> None:
    """A second signal makes a new one; one right before the end of the gateway leaves a whole file, and no other."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        gateway.process.send_signal(signal.SIGUSR1)
        await gateway.event("backup.finished")
        later = await world.register(client, "later")
        gateway.log.clear()
        gateway.process.send_signal(signal.SIGUSR1)
        await gateway.event("backup.finished")
        gateway.process.send_signal(signal.SIGUSR1)
        assert await gateway.stop() == 0
    with closing(sqlite3.connect(world.folder / "gateway.db.backup")) as db:
        assert db.execute("SELECT id FROM callbacks").fetchall() == [(later["id"],)]
    assert not list(world.folder.glob("*.part"))
