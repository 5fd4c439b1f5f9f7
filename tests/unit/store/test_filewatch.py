"""What is told apart by looking at a database's files: its own work, a backup program's, another writer's."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store.sqlite.filewatch import CHANGES, FileWatch

CHANGED, LOG_CHANGED = CHANGES
PAGE = 4096


class Watched:
    """A database that is open, written to, and watched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path.with_name(f"{path.name}-wal")
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("CREATE TABLE meta (key TEXT, value BLOB)")
        self.db.execute("INSERT INTO meta VALUES ('secret_key', x'00')")
        self.watch = FileWatch(path)
        self.watch.begin(self.db)
        self.write()

    def write(self) -> None:
        self.db.execute("INSERT INTO meta VALUES ('more', zeroblob(10000))")
        self.watch.wrote()

    def close(self) -> None:
        self.watch.close()
        self.db.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with closing(Watched(tmp_path / "db")) as one:
        yield one


def change(path: Path, position: int, count: int = 1) -> None:
    """Change bytes where they stand; the file is as large as before."""
    with path.open("r+b") as file:
        file.seek(position)
        was = file.read(count)
        file.seek(position)
        file.write(bytes(byte ^ 1 for byte in was))


@pytest.mark.parametrize("other", [True, False])
def test_a_file_that_was_away_during_a_write_is_the_same(watched: Watched, other: bool) -> None:
    """Put back it is used again, whatever stood there meanwhile."""
    away = watched.path.with_name("away")
    watched.path.rename(away)
    if other:
        watched.path.write_bytes(b"another program's")
    watched.watch.wrote()
    assert watched.watch.problem() is not None
    away.replace(watched.path)
    assert watched.watch.problem() is None
    watched.write()
    assert watched.watch.problem() is None


def test_a_log_that_was_put_into_the_file_is_empty(watched: Watched) -> None:
    """As where the file is gone: once it is back nothing has been changed."""
    watched.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    watched.watch.emptied(watched.path.stat().st_size)
    assert watched.watch.problem() is None
    watched.watch.wrote()
    assert watched.watch.problem() is None
    watched.write()
    assert watched.watch.problem() is None


@pytest.mark.parametrize(
    ("position", "found"), [(24, None), (39, None), (40, CHANGED), (91, CHANGED), (92, None), (99, None)]
)
def test_a_file_that_cannot_be_read_is_known_by_its_head(watched: Watched, position: int, found: str | None) -> None:
    """A full disk leaves a part of the log in the file: it counts on, but its schema and whose it is stay."""
    change(watched.path, PAGE, PAGE)
    assert watched.watch.problem() is None
    change(watched.path, position)
    assert watched.watch.problem() == found


def test_what_is_found_out_of_a_file_is_kept(watched: Watched) -> None:
    """Who has written into it, and put back what stood there, may have done anything."""
    change(watched.path, PAGE, PAGE)
    change(watched.path, 40)
    assert watched.watch.problem() == CHANGED
    change(watched.log, 0)
    change(watched.path, 40)
    assert watched.watch.problem() == CHANGED


@pytest.mark.parametrize(
    ("name", "found"), [("SQLITE_CANTOPEN", None), ("SQLITE_NOMEM", None), ("SQLITE_NOTADB", CHANGED)]
)
def test_who_has_no_files_left_looks_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, name: str, found: str | None
) -> None:
    """Nobody can be said to have written into it; once it can be looked into, that tells."""

    def refused(*_: object, **__: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError()
        error.sqlite_errorname = name
        raise error

    change(watched.path, 60, 4)  # user_version
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", refused)
        assert watched.watch.problem() == found
    assert watched.watch.problem() == CHANGED


@pytest.mark.parametrize(("position", "found"), [(0, LOG_CHANGED), (11, LOG_CHANGED), (12, None), (31, None)])
def test_a_log_begins_anew_by_a_write_of_its_own(watched: Watched, position: int, found: str | None) -> None:
    """Then it counts on, with other sums; in the same format and for pages of the same size."""
    change(watched.log, position)
    watched.watch.wrote()
    assert watched.watch.problem() == found


@pytest.mark.parametrize("position", [0, 12, 31])
def test_a_log_that_begins_anew_without_a_write_is_anothers(watched: Watched, position: int) -> None:
    """As large as it was."""
    os.utime(watched.log, (1, 1))
    assert watched.watch.problem() is None
    change(watched.log, position)
    assert watched.watch.problem() == LOG_CHANGED


def test_a_log_that_grows_without_a_write_is_anothers(watched: Watched) -> None:
    """Its head is as it was."""
    with watched.log.open("ab") as log:
        log.write(b"more")
    assert watched.watch.problem() == LOG_CHANGED


def test_both_files_may_go_while_it_looks(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is the file that is missed, and not its log."""
    stat = Path.stat

    def gone_by_then(path: Path, **how: bool) -> os.stat_result:
        if path == watched.log and watched.path.exists():
            watched.log.unlink()
            watched.path.unlink()
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", gone_by_then)
    assert watched.watch.problem() == "the database file has been removed or moved"
