"""A temporary PostgreSQL for measurements, the peers' too: the tests' server, with its commits on the disk.

Owns its settings, a fresh database for each of the gateway's runs, and what its processes have used. Its core is that
of who starts it.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import cpu_s

from tests.postgres import OWNER, Server, from_wheel, running

_DURABLE = {"fsync": "on", "full_page_writes": "on"}
_LARGE = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
_AS_IT_COMES = {"shared_buffers": "128MB", "max_wal_size": "1GB", "jit": "on"}


class Databases:
    """The databases of one server, which share nothing but its processes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = itertools.count(1)

    def new(self, template: str = "template0") -> str:
        """Make a database, empty or as another one is that nobody uses; return its name."""
        name = f"bench_{next(self._numbers)}"
        # With the whole of the copy on the disk, or a run would pay for what was made before it.
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER} STRATEGY file_copy")
        self._server.execute("CHECKPOINT")
        return name

    def drop(self, name: str) -> None:
        self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def copied(self, database: Path) -> str:
        """Make a database of what stands in a file of SQLite's; return its name."""
        name = self.new()
        command = [sys.executable, "-m", "gateway", "copy-database", f"sqlite:///{database}", self.url(name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.ask(name, "VACUUM ANALYZE")
        return name

    def url(self, name: str) -> str:
        return self._server.url(name)

    def size(self, name: str) -> int:
        """Return how many bytes the tables and their indexes are, without what PostgreSQL has of its own."""
        tables = "FROM pg_class WHERE relkind = 'r' AND relnamespace = CAST('public' AS regnamespace)"
        return int(self.ask(name, f"SELECT sum(pg_total_relation_size(oid)) {tables}"))

    def ask(self, name: str, sql: str) -> str:
        return self._server.execute(sql, name)

    def cpu_s(self) -> float:
        """Return the CPU time of all the server's processes, those that ended included; in steps of 10 ms."""
        assert self._server.process is not None
        mine = self._server.process.pid
        used = cpu_s(mine)
        fields = Path(f"/proc/{mine}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return used + sum(map(cpu_s, _children(mine)))

    def must_be_delivered(self, name: str, count: int) -> None:
        found = self.ask(name, "SELECT count(*) FROM callbacks WHERE state = 'delivered' AND attempts = 1")
        if int(found) != count:
            raise RuntimeError(
                f"the database says that {found} of {count} webhooks were delivered at the first attempt"
            )


@contextmanager
def start_databases() -> Iterator[Databases]:
    """Run a server for the gateway's runs."""
    with running(from_wheel(), **_DURABLE, **_LARGE) as server:
        yield Databases(server)


@contextmanager
def start_peers_database() -> Iterator[str]:
    """Run a server as PostgreSQL comes, with an empty database; yield how to connect, as libpq reads it.

    Raises NotAvailable where none can be started here.
    """
    with running(from_wheel(), **_DURABLE, **_AS_IT_COMES) as server:
        yield f"host={server.folder} port={server.port} user={OWNER} dbname={OWNER}"


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]
