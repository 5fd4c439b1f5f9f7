"""A temporary PostgreSQL server for the peers that need one.

Owns where its programs are looked for, the user it runs as, and the core; everything else is as PostgreSQL comes, so
that each commit reaches the disk. Everything it writes is in one temporary folder, its socket included.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import BESIDE, pinned

START_LIMIT_S = 30


class NotAvailableError(Exception):
    """There is no PostgreSQL that could be started here, and why."""


@contextmanager
def start_postgres(core: int = BESIDE) -> Iterator[str]:
    """Run an empty server on its core; yield how to connect, as libpq reads it."""
    programs = find_programs()
    with tempfile.TemporaryDirectory(prefix="bench-pg-") as folder:
        runs_as = other_user()
        if "user" in runs_as:
            os.chown(folder, runs_as["user"], runs_as["group"])
        data = Path(folder) / "data"
        common: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL} | runs_as
        initdb = f"{programs}/initdb -D {data} -U bench -E UTF8 --locale=C --auth=trust --no-sync".split()
        done = subprocess.run(initdb, stderr=subprocess.PIPE, **common)
        if done.returncode:
            raise NotAvailableError(f"initdb: {done.stderr.decode().strip()}")
        server = f"{programs}/postgres -D {data} -k {folder} -c listen_addresses=".split()
        with (Path(folder) / "log").open("wb") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(server, stderr=log, preexec_fn=pinned(core), **common)
        try:
            wait_ready(programs, folder, process)
            yield f"host={folder} user=bench dbname=postgres"
        finally:
            process.send_signal(signal.SIGINT)  # ends its sessions, unlike SIGTERM
            process.wait(START_LIMIT_S)


def find_programs() -> Path:
    """Return the folder of the server's programs; distributions keep them off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(3), reverse=True
    )
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            return folder
    raise NotAvailableError("no PostgreSQL server found, neither on the path nor in /usr/lib/postgresql")


def other_user() -> dict[str, Any]:
    """Return whom to run as: the server refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise NotAvailableError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def wait_ready(programs: Path, folder: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run([programs / "pg_isready", "-q", "-h", folder, "-U", "bench"]).returncode == 0:
            return
        time.sleep(0.05)
    log = (Path(folder) / "log").read_text().strip().splitlines()
    raise NotAvailableError(f"PostgreSQL did not start: {log[-1] if log else 'it logged nothing'}")
