"""The webhook secret beside the database: told at every start, never remade where webhooks are owed."""

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.signature import make_secret
from tests.acceptance.test_commands import run
from tests.crash.process import SECRET


@pytest.fixture
def folder(world: Any) -> Path:
    """The folder of a world whose gateway has no secret configured."""
    del world.environ["GATEWAY_WEBHOOK_SECRET"]
    path: Path = world.folder
    return path


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def owing(world: Any, *, killed: bool = False) -> None:
    """Leave a database behind that owes a webhook."""
    async with world.gateway() as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            await world.register(client, "sim-never-0-lost")
        if killed:
            await gateway.kill()
        else:
            assert await gateway.stop() == 0


@pytest.mark.parametrize("killed", [False, True])
async def test_a_lost_secret_is_found_by_check_config(world: Any, folder: Path, killed: bool) -> None:
    """With the words of the start, also where a killed gateway left its last writes beside it; nothing changes."""
    await owing(world, killed=killed)
    (folder / "gateway.secret").unlink()
    before = contents(folder)
    checked = await asyncio.to_thread(run, "check-config", cwd=folder, **world.environ)
    assert contents(folder) == before
    refused = await asyncio.to_thread(run, "serve", cwd=folder, **world.environ)
    assert (checked.returncode, checked.stderr) == (2, refused.stderr)
    assert "owes webhooks (1 waiting)" in checked.stderr


async def test_a_lost_secret_beside_a_link(world: Any, folder: Path, tmp_path: Path) -> None:
    """A killed gateway's last writes are found beside the file that the link leads to."""
    real = tmp_path / "volume"
    real.mkdir()
    (folder / "gateway.db").symlink_to(real / "data.db")
    await owing(world, killed=True)
    (folder / "gateway.secret").unlink()
    before = contents(real)
    checked = await asyncio.to_thread(run, "check-config", cwd=folder, **world.environ)
    assert (checked.returncode, "owes webhooks (1 waiting)" in checked.stderr) == (2, True), checked.stderr
    assert contents(real) == before


async def test_a_lost_secret_is_not_remade(world: Any, folder: Path) -> None:
    """Beside a database that owes webhooks the start is refused, saying what to do; each of the three ways helps."""
    await owing(world)
    kept = folder / "gateway.secret"
    backup = kept.read_text("utf-8")
    kept.unlink()
    refused = await asyncio.to_thread(run, "serve", cwd=folder, **world.environ)
    assert refused.returncode == 2
    assert "owes webhooks (1 waiting)" in refused.stderr
    assert f"gateway make-secret > {kept}" in refused.stderr
    assert "GATEWAY_WEBHOOK_SECRET" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not kept.exists()

    async with world.gateway(GATEWAY_WEBHOOK_SECRET=SECRET) as gateway:
        assert (await gateway.event("secret.loaded"))["source"] == "GATEWAY_WEBHOOK_SECRET"
        assert await gateway.stop() == 0
    for text in (backup, make_secret() + "\n"):
        kept.write_text(text, "utf-8")
        kept.chmod(0o644)  # as a shell's umask leaves it
        async with world.gateway() as gateway:
            assert (await gateway.event("secret.loaded"))["source"] == str(kept)
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
            assert await gateway.stop() == 0
            assert text.strip() not in "".join(gateway.text)
        assert kept.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("text", "says"), [("", "is empty"), ("whsec_c2hvcnQ=", "cannot be used: the secret has 5 bytes")]
)
async def test_a_spoilt_secret_names_its_file(world: Any, folder: Path, text: str, says: str) -> None:
    """An empty file, or one that holds something else, is told with its path; it stays as it is."""
    kept = folder / "gateway.secret"
    kept.write_text(text, "utf-8")
    refused = await asyncio.to_thread(run, "serve", cwd=folder, **world.environ)
    assert refused.returncode == 2
    assert str(kept) in refused.stderr
    assert says in refused.stderr
    assert kept.read_text("utf-8") == text


async def test_an_unreadable_secret(world: Any, folder: Path) -> None:
    """What this user may not read is told so, and not replaced."""
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    kept = folder / "gateway.secret"
    kept.write_text(make_secret(), "utf-8")
    kept.chmod(0)
    refused = await asyncio.to_thread(run, "serve", cwd=folder, **world.environ)
    assert refused.returncode == 2
    assert "let this user read the file" in refused.stderr


async def test_where_it_came_from_is_always_said(world: Any, folder: Path) -> None:
    """Made, found again, named by a variable, by a file of its own or by the TOML file: never its value."""
    starts: list[tuple[dict[str, str], str, str]] = [
        ({}, "secret.made", str(folder / "gateway.secret")),
        ({}, "secret.loaded", str(folder / "gateway.secret")),
        ({"GATEWAY_WEBHOOK_SECRET": SECRET}, "secret.loaded", "GATEWAY_WEBHOOK_SECRET"),
    ]
    (folder / "mounted").write_text(SECRET, "utf-8")
    starts.append(
        ({"GATEWAY_WEBHOOK_SECRET_FILE": str(folder / "mounted")}, "secret.loaded", "GATEWAY_WEBHOOK_SECRET_FILE")
    )
    toml = folder / "gateway.toml"
    toml.write_text(f'webhook_secret = "{SECRET}"', "utf-8")
    starts.append(({"GATEWAY_CONFIG": str(toml)}, "secret.loaded", f"webhook_secret in {toml}"))
    for environ, event, source in starts:
        async with world.gateway(**environ) as gateway:
            line = await gateway.event(event)
            assert (line["source"], line["level"]) == (source, "info")
            assert await gateway.stop() == 0
            assert SECRET not in "".join(gateway.text)


async def test_a_new_secret_for_a_database_that_is_not_new(world: Any, folder: Path) -> None:
    """With every webhook delivered a new one is made, and it is a warning: receivers verify with the one before."""
    async with world.gateway(GATEWAY_WEBHOOK_SECRET=SECRET) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            callback = await world.register(client, "sim-success-0-done")
            await world.becomes(client, callback["id"], "delivered")
        assert await gateway.stop() == 0
    async with world.gateway() as gateway:
        line = await gateway.event("secret.made")
        assert (line["level"], line["callbacks"]) == ("warning", 1)
        assert await gateway.stop() == 0


async def test_files_of_a_served_gateway_are_private(world: Any, folder: Path) -> None:
    """With the umask wide open, database, write-ahead log, secret, and a backup that an older one left are 0600."""
    (folder / "gateway.db.backup").write_bytes(b"")
    (folder / "gateway.db.backup").chmod(0o644)
    before = os.umask(0)
    try:
        async with world.gateway() as gateway:
            found = modes(folder)
            assert await gateway.stop() == 0
    finally:
        os.umask(before)
    assert found == dict.fromkeys(("gateway.db", "gateway.db-wal", "gateway.secret", "gateway.db.backup"), 0o600)
