"""An upgrade from each gateway that left a database, on both engines: all is there, and what was owed goes on.

A release adds its own files, with ``make keep-databases NAME=v…``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.serve.asgi import serve_asgi
from tests.crash.process import SECRET
from tests.manual import ROOT
from tests.oldgateways import FOLDER, STORY, Peers, read_sqlite, taken_up
from tests.postgres import Database
from tests.running import running

SQLITE, POSTGRES = (sorted(FOLDER.glob(f"*.{engine}.sql")) for engine in ("sqlite", "postgres"))


def of_each(files: list[Path]) -> Any:
    return pytest.mark.parametrize("file", files, ids=lambda file: file.name.rsplit(".", 2)[0])


async def goes_on(file: Path, folder: Path, lay_out: Callable[[str], str]) -> None:
    """Start today's gateway on what a file has, and hold what it shows and does against the story."""
    peers = Peers()
    peers.running = peers.broken = False
    async with serve_asgi(peers.upstream) as upstream_url, serve_asgi(peers.receiver) as receiver_url:
        url = lay_out(taken_up(file, receiver_url))
        more = {"GATEWAY_DATABASE_URL": url, "GATEWAY_WEBHOOK_SECRET": SECRET, "GATEWAY_UPSTREAM_API_KEY": "sk-none"}
        async with running(folder, upstream_url, **more) as gateway:
            listed = (await gateway.client.get("/v1/callbacks")).json()["data"]
            found = {callback["metadata"]["is"]: callback for callback in listed}
            assert found.keys() == STORY.keys()
            assert {callback["metadata"]["wört"] for callback in listed} == {"ü"}
            for name, (task_id, path) in STORY.items():
                assert (found[name]["taskId"], found[name]["callbackUrl"]) == (task_id, f"{receiver_url}{path}")
            assert {name: found[name]["state"] for name in ("delivered", "dead", "cancelled")} == {
                name: name for name in ("delivered", "dead", "cancelled")
            }
            attempts = (await gateway.client.get(f"/v1/callbacks/{found['dead']['id']}/attempts")).json()["data"]
            assert [(one["number"], one["statusCode"], one["result"]) for one in attempts] == [(1, 410, "dead")]
            for name in ("pending", "waiting", "waiting-record"):
                await gateway.delivered(found[name]["id"])
            redelivered = await gateway.client.post(f"/v1/callbacks/{found['dead']['id']}/redeliver")
            assert redelivered.status_code == 202
            await gateway.delivered(found["dead"]["id"])
            again = await gateway.registered("done", f"{receiver_url}/other")
            await gateway.delivered(again)
    came = {name: peers.webhooks.get(callback["id"]) for name, callback in found.items()}
    assert {name for name, body in came.items() if body} == {"pending", "waiting", "waiting-record", "dead"}
    assert came["pending"]["data"]["result"]["resultUrls"]
    assert came["waiting-record"]["data"]["state"] == "success"


@of_each(SQLITE)
async def test_from_a_file(file: Path, tmp_path: Path) -> None:
    """The file is brought up to date at the start."""

    def lay_out(sql: str) -> str:
        read_sqlite(sql, tmp_path / "gateway.db")
        return f"sqlite:///{tmp_path / 'gateway.db'}"

    await goes_on(file, tmp_path, lay_out)


@of_each(POSTGRES)
async def test_from_a_postgres(file: Path, tmp_path: Path, postgres: Database) -> None:
    """The schema is brought up to date by the first that starts."""

    def lay_out(sql: str) -> str:
        postgres.execute(f"SET ROLE gateway; {sql}")
        return postgres.url

    await goes_on(file, tmp_path, lay_out)


def test_each_release_has_its_databases() -> None:
    """Of both engines; and of each version in the changelog."""
    names = {file.name.partition(".sqlite")[0] for file in SQLITE}
    assert names == {file.name.partition(".postgres")[0] for file in POSTGRES}
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = {line[4:].partition("]")[0] for line in changelog.splitlines() if line.startswith("## [")}
    assert {f"v{version}" for version in versions - {"Unreleased"}} <= names
