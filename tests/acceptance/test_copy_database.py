"""`gateway copy-database` as an operator runs it: killed, gone on with, watched, and told what is wrong."""

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from gateway.store.sqlite import databasefile
from tests import commandline
from tests.commandline import environment
from tests.manual import ROOT
from tests.postgres import Database

LIMIT_S = 50
MOST_MB = 90  # the modules alone take half of it
MEASURE = """
import re
from pathlib import Path
from gateway.cli import commands

commands.main()
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
"""Runs the command, and prints how many KB of memory it had at most: what one is told of a child has its parent's."""
NEW = "INSERT INTO tasks (upstream, task_id, created_at, watchers, state, settled_at, outcome, record) VALUES "


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "copy-database", *words]


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return commandline.run("copy-database", *words, cwd=ROOT, **environ)


def executed(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The same in a process that begins with nothing, which Python's own variables are for."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=environment(**environ), timeout=LIMIT_S, check=False
    )


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def filled(path: Path, tasks: int, size: int = 10) -> str:
    """Make a database with so many tasks that have ended, with outcomes and records of this size; return its URL."""
    with closing(sqlite3.connect(path)) as db, db:
        for script in databasefile.migrations().values():
            db.executescript(script)
        db.execute(f"PRAGMA application_id = {databasefile.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {databasefile.newest()}")
        db.execute("INSERT INTO meta VALUES ('secret_key', randomblob(32))")
        values = (
            ("up", f"task-{task}", 0, "", "success", 1, os.urandom(size), os.urandom(size)) for task in range(tasks)
        )
        db.executemany(f"{NEW} (?, ?, ?, ?, ?, ?, ?, ?)", values)
    return f"sqlite:///{path}"


def killed_at(line: str, *words: str) -> None:
    """Run the command, and kill it once it has printed a line that begins like this."""
    with running(*words) as process:
        assert process.stdout is not None
        assert any(printed.startswith(line) for printed in process.stdout)
        process.send_signal(signal.SIGKILL)


def digests(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "sha256" in line]


def test_it_goes_on_where_it_was_killed(postgres: Database, tmp_path: Path) -> None:
    """There and back: whenever it is killed, the same command finishes the copy, and both hold the same."""
    there = filled(tmp_path / "from.db", 35_000)
    found = []
    for source, target in ((there, postgres.url), (postgres.url, f"sqlite:///{tmp_path / 'to.db'}")):
        killed_at("Copying: 20 %", source, target)
        killed_at("Checking: 20 %", source, target)
        done = run(source, target)
        assert done.returncode == 0, done.stderr
        assert "Copying 35,000 rows, of which 35,000 are there already\n" in done.stdout
        found.append(digests(done.stdout))
    assert found[0] == found[1]
    again = run(there, postgres.url)
    assert (again.returncode, again.stdout.count("\n")) == (2, 1)
    assert "is not empty (35000 in tasks); nothing was changed." in again.stderr


def test_a_terminal_has_a_bar(tmp_path: Path) -> None:
    """It shows how many rows of how many are done."""
    source = filled(tmp_path / "from.db", 1000)
    main, terminal = pty.openpty()
    with subprocess.Popen(
        command(source, f"sqlite:///{tmp_path / 'to.db'}"), stdout=terminal, env=environment()
    ) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # Linux says so where nobody writes any more
            while piece := os.read(main, 4096):
                shown += piece
        os.close(main)
    assert process.returncode == 0
    for name, rows in (("Copying", 1000), ("Checking", 1001)):
        assert re.search(rf"{name} +\[#+\] +{rows}/{rows}", click.unstyle(shown.decode())), shown
    assert shown.decode().count("sha256") == 5


def test_large_outcomes_are_not_there_as_a_whole(postgres: Database, tmp_path: Path) -> None:
    """Whichever way: 32 MB of one task take hardly any memory."""
    source = filled(tmp_path / "from.db", 1, 16 * 1024 * 1024)
    (tmp_path / "measure.py").write_text(MEASURE)
    for words in ((source, postgres.url), (postgres.url, f"sqlite:///{tmp_path / 'to.db'}")):
        measured = [sys.executable, str(tmp_path / "measure.py"), "copy-database", *words]
        done = subprocess.run(
            measured, capture_output=True, text=True, env=environment(), timeout=LIMIT_S, check=True, cwd=tmp_path
        )
        assert int(done.stdout.splitlines()[-1]) < MOST_MB * 1024
    with closing(sqlite3.connect(tmp_path / "to.db")) as db:
        db.execute("ATTACH ? AS original", (str(tmp_path / "from.db"),))
        same = (
            "SELECT a.outcome = b.outcome AND a.record = b.record FROM tasks AS a JOIN original.tasks AS b USING (seq)"
        )
        assert db.execute(same).fetchall() == [(1,)]


async def test_a_running_gateways_database_is_not_copied(world: Any, tmp_path: Path) -> None:
    """Neither from nor to it; and once it has stopped, another gateway goes on with the copy."""
    target, copy = f"sqlite:///{tmp_path / 'to.db'}", tmp_path / "to.db"
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        callback = await world.register(client, "sim-success-0-copied")
        for words in ((gateway_url(world), target), (filled(tmp_path / "from.db", 1), gateway_url(world))):
            refused = run(*words)
            assert refused.returncode == 1
            assert "is in use by another process, perhaps a second gateway. Stop it" in refused.stderr
        assert await gateway.stop() == 0
    assert run(gateway_url(world), target).returncode == 0
    secret = {"GATEWAY_DATABASE_URL": f"sqlite:///{copy}"}
    async with world.gateway(**secret) as gateway:
        await world.receiver.wait_for({callback["id"]})
        assert await gateway.stop() == 0


def gateway_url(world: Any) -> str:
    return str(world.environ["GATEWAY_DATABASE_URL"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("gateway.db", "sqlite:///to.db"), "Invalid value for FROM: write sqlite:///relative/file.db"),
        (("sqlite:///from.db", "postgresql://host"), "Invalid value for TO: name the database"),
        (("sqlite:///a.db", "sqlite:///a.db"), "FROM and TO are the same database."),
        (("sqlite:////nowhere/a.db", "sqlite:///to.db"), "There is no file /nowhere/a.db."),
    ],
)
def test_a_mistake_is_told(words: tuple[str, str], reason: str) -> None:
    """With exit code 2, and nothing is made."""
    done = run(*words)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    """With exit code 1; a password is shown nowhere."""
    done = run(
        filled(tmp_path / "from.db", 1), "postgresql://me:hidden-word@127.0.0.1:1/db", GATEWAY_DATABASE_PASSWORD="x"
    )
    assert done.returncode == 1
    assert "127.0.0.1:1: The database cannot be reached" in done.stderr
    assert "hidden-word" not in done.stdout + done.stderr


def test_without_the_package_it_says_which(tmp_path: Path) -> None:
    """As a start does; SQLite needs none."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['asyncpg'] = None\n")
    source, path = filled(tmp_path / "from.db", 1), {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert executed(source, f"sqlite:///{tmp_path / 'to.db'}", **path).returncode == 0
    done = executed(source, "postgresql://127.0.0.1/db", **path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2, "Error: PostgreSQL needs a package more: pip install 'asyncpg>=0.32,<0.33'",
    )  # fmt: skip
