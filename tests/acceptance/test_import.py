"""`gateway import` against a real gateway: thousands of lines, killed in the middle, and what it says of them."""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commandline import LIMIT_S, command, on_terminal, start
from tests.waiting import until

LINES = 4000


def write(path: Path, url: str, count: int, wrong: int = 0) -> None:
    """Write a CSV file; the last lines are such that no gateway takes them."""
    lines = [f"sim-never-0-{n},{url},{n}" for n in range(count - wrong)]
    lines += [f"no such{n},{url},{n}" if n % 2 else f"blocked-{n},http://10.0.0.1/,{n}" for n in range(wrong)]
    path.write_text("taskId,callbackUrl,metadata.n\n" + "\n".join(lines) + "\n")


async def begun(journal: Path) -> None:
    """Return once something has been registered, and is written down."""
    await until(lambda: journal.exists() and journal.stat().st_size, LIMIT_S)


async def registrations(client: httpx.AsyncClient) -> dict[str, float]:
    """Return how many registrations this gateway has answered, by whether one was created."""
    lines = (await client.get("/metrics")).text.splitlines()
    found = [line.split() for line in lines if line.startswith("gateway_registrations_total{")]
    return {name.split('"')[1]: float(value) for name, value in found}


async def registered(client: httpx.AsyncClient) -> list[str]:
    """Return the task of each callback that there is."""
    tasks: list[str] = []
    cursor = {}
    while True:
        page = (await client.get("/v1/callbacks", params={"limit": 200, **cursor})).json()
        tasks += [one["taskId"] for one in page["data"]]
        if page["nextCursor"] is None:
            return tasks
        cursor = {"cursor": page["nextCursor"]}


async def test_what_is_refused_is_reported_and_a_second_run_repeats_nothing(world: Any, tmp_path: Path) -> None:
    """Exit 1, each line with its number, code and reason; mended, only those are sent."""
    path, report = tmp_path / "tasks.csv", tmp_path / "refused.csv"
    write(path, f"{world.receiver.url}/hooks", 1210, wrong=10)
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        words = ("import", "tasks.csv", "--report", "refused.csv", "--url", gateway.url)
        done = await command(*words, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "tasks.csv: 1,200 registered; 10 refused" in done.stdout
        assert "import 1,210 lines\nimport: 40 % (505 of 1,210 lines)\n" in done.stdout
        assert "line 1203: invalid_request: taskId: must be printable ASCII without spaces" in done.stdout
        rows = list(csv.DictReader(report.read_text().splitlines()))
        assert [int(row["line"]) for row in rows] == list(range(1202, 1212))
        assert {row["code"] for row in rows} == {"callback_not_allowed", "invalid_request"}
        assert "GATEWAY_CALLBACK_ALLOW" in rows[0]["message"]
        again = await command(*words, "--json", cwd=tmp_path)
        told = json.loads(again.stdout)
        assert (told["registered"], told["existing"], told["skipped"], len(told["refused"])) == (0, 0, 1200, 10)
        text = (
            path.read_text()
            .replace("no such", "sim-never-0-no-such")
            .replace("http://10.0.0.1/", f"{world.receiver.url}/hooks")
        )
        path.write_text(text)
        mended = await command(*words, cwd=tmp_path)
        assert mended.returncode == 0, mended.stdout
        assert "import 1,210 lines, of which 1,200 are there already" in mended.stdout
        assert "10 registered; 1,200 left out" in mended.stdout
        assert await registrations(client) == {"True": 1210.0, "False": 0.0}
        assert await gateway.stop() == 0


@pytest.mark.timeout(120)
async def test_killed_in_the_middle_nothing_is_lost_or_twice(world: Any, tmp_path: Path) -> None:
    """`kill -9`, and the same command again: each line is registered once, and few are sent twice."""
    write(tmp_path / "tasks.csv", f"{world.receiver.url}/hooks", LINES)
    journal = tmp_path / "tasks.csv.imported"
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        words = ("import", "tasks.csv", "--url", gateway.url)
        process = await start(*words, cwd=tmp_path)
        await begun(journal)
        process.kill()
        await process.communicate()
        before = len(journal.read_bytes().splitlines())
        assert 0 < before < LINES, "or nothing is proved"
        done = await command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        tasks = await registered(client)
        assert sorted(tasks) == sorted(f"sim-never-0-{n}" for n in range(LINES))
        counts = await registrations(client)
        assert counts["True"] == LINES
        assert counts["False"] <= LINES - before
        assert counts["False"] <= 500, "no more than was under way"
        assert await gateway.stop() == 0


@pytest.mark.timeout(120)
async def test_a_gateway_that_is_killed_meanwhile_is_waited_for(world: Any, tmp_path: Path) -> None:
    """It goes on with the next one on the same database."""
    write(tmp_path / "tasks.csv", f"{world.receiver.url}/hooks", LINES)
    journal = tmp_path / "tasks.csv.imported"
    async with world.gateway() as gateway:
        url = gateway.url
        process = await start("import", "tasks.csv", "--url", url, cwd=tmp_path)
        await begun(journal)
        await gateway.kill()
        assert process.returncode is None
    async with world.gateway(GATEWAY_PORT=url.rpartition(":")[2]) as gateway, httpx.AsyncClient(base_url=url) as client:
        printed, told = await process.communicate()
        assert process.returncode == 0, printed + told
        assert sorted(await registered(client)) == sorted(f"sim-never-0-{n}" for n in range(LINES))
        assert await gateway.stop() == 0


async def test_all_is_registered_though_nobody_reads_how_far_it_is(world: Any, tmp_path: Path) -> None:
    """`gateway import tasks.csv | head -1` goes on to its end, and what is to follow it may rely on that."""
    write(tmp_path / "tasks.csv", f"{world.receiver.url}/hooks", 1200)
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        process = await start("import", "tasks.csv", "--url", gateway.url, cwd=tmp_path)
        assert process.stdout is not None
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined]
        assert (await process.wait(), await registrations(client)) == (0, {"True": 1200.0, "False": 0.0})
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await gateway.stop() == 0


async def test_json_lines_from_standard_input(world: Any, tmp_path: Path) -> None:
    """With one URL for all; equal lines are one registration, and no journal is left."""
    lines = "\n".join(json.dumps({"taskId": f"sim-never-0-{n % 3}"}) for n in range(5))
    async with world.gateway() as gateway:
        hooks = f"{world.receiver.url}/hooks"
        words = ("import", "-", "--callback-url", hooks, "--url", gateway.url)
        done = await command(*words, cwd=tmp_path, stdin=lines)
        assert (done.returncode, done.stderr) == (0, "")
        assert "3 registered; 2 left out" in done.stdout
        again = await command(*words, cwd=tmp_path, stdin=lines)
        assert "3 were registered already; 2 left out" in again.stdout
        assert not (tmp_path / "-.imported").exists()
        assert await gateway.stop() == 0


async def test_on_a_terminal_there_is_a_bar(world: Any, tmp_path: Path) -> None:
    """With how many are done."""
    write(tmp_path / "tasks.csv", f"{world.receiver.url}/hooks", 600)
    async with world.gateway() as gateway:

        def look() -> tuple[int, str]:
            with on_terminal("import", "tasks.csv", "--url", gateway.url, cwd=tmp_path) as shown:
                return shown.ended(), shown.shown

        code, text = await asyncio.to_thread(look)
        assert (code, "600/600" in text) == (0, True), text
        assert await gateway.stop() == 0


async def test_no_gateway_is_3_and_a_wrong_token_1(world: Any, tmp_path: Path) -> None:
    """At once for a token that is refused; nothing is in the journal."""
    write(tmp_path / "tasks.csv", f"{world.receiver.url}/hooks", 10)
    async with world.gateway(GATEWAY_TOKEN="t0ken-of-a-client") as gateway:
        refused = await command("import", "tasks.csv", "--token", "wrong", "--url", gateway.url, cwd=tmp_path)
        assert (refused.returncode, "Stopped: 0 of 10" in refused.stderr, "--token" in refused.stderr) == (
            1,
            True,
            True,
        )
        assert (tmp_path / "tasks.csv.imported").read_text() == ""
        assert await gateway.stop() == 0
    missing = await command("import", "nothing.csv", cwd=tmp_path)
    assert (missing.returncode, "nothing.csv" in missing.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--report", "tasks.csv"), "FILE and --report are one file"),
        (("--journal", "./tasks.csv"), "FILE and --journal are one file"),
        (("--report", "tasks.csv.imported"), "--report and --journal are one file"),
        (("--report", "no/folder/refused.csv"), "The report no/folder/refused.csv cannot be written"),
    ],
)
async def test_a_file_that_cannot_be_written_is_told_before_anything_is_sent(
    tmp_path: Path, options: tuple[str, str], told: str
) -> None:
    """Nor does a report or a journal take the place of what is imported: no gateway need run to hear of it."""
    write(tmp_path / "tasks.csv", "http://127.0.0.1:9/hooks", 3)
    before = (tmp_path / "tasks.csv").read_bytes()
    done = await command("import", "tasks.csv", *options, "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert (tmp_path / "tasks.csv").read_bytes() == before
