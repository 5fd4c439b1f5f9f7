"""The manual's command that makes the database smaller, as it stands there."""

import asyncio
import re
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from tests.manual import page

PLENTY = {"note": "x" * 7000}


def vacuum(folder: Path) -> subprocess.CompletedProcess[str]:
    (command,) = re.findall(r"^ *(python3 -c .*VACUUM.*)$", page("operating"), re.MULTILINE)
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=50, check=False)


def forget_the_cancelled(database: Path) -> None:
    """Do at once what retention does in a month."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("DELETE FROM callbacks WHERE state = 'cancelled'")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_the_file_is_made_smaller(world: Any) -> None:
    """Once the gateway is stopped: mode and content stay. Beside a running one it is refused, and changes nothing."""
    database: Path = world.folder / "gateway.db"
    async with world.gateway() as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            kept = await world.register(client, "sim-never-0-kept")
            for number in range(60):
                callback = await world.register(client, f"sim-never-0-{number}", metadata=PLENTY)
                await client.delete(f"/v1/callbacks/{callback['id']}")
            refused = await asyncio.to_thread(vacuum, world.folder)
            assert refused.returncode == 1
            assert "database is locked" in refused.stderr
        assert await gateway.stop() == 0
    await asyncio.to_thread(forget_the_cancelled, database)
    before = await asyncio.to_thread(database.stat)
    done = await asyncio.to_thread(vacuum, world.folder)
    assert (done.returncode, done.stderr) == (0, "")
    after = await asyncio.to_thread(database.stat)
    assert after.st_size < before.st_size / 2
    assert stat.S_IMODE(after.st_mode) == 0o600
    assert names(world.folder) == ["gateway.db"]
    async with world.gateway() as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            answer = await client.get(f"/v1/callbacks/{kept['id']}")
            assert answer.json()["state"] == "waiting"
        assert await gateway.stop() == 0
