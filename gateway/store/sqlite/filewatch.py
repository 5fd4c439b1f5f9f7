"""Whether the path still leads to the database that is open, and nobody else has written into it.

A file that was removed or replaced is written on all the same, and is gone with the process: no write may be promised
in it. Owns the look, and the words for what it finds, which name no path, as readiness tells them to everybody. Called
by ``database`` in its thread, around each transaction and at each heartbeat: a look takes some microseconds.

Where a file is closed the system lets go of this process's locks on it: both stay open as long as the database.
"""

import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from gateway.store.sqlite import sql
from gateway.store.sqlite.databasefile import beside, error_name

_GONE = "the database file has been removed or moved"
_REPLACED = "another file stands in the place of the database file"
_CHANGED = "another program has written into the database file"
_LOG_CHANGED = "another program has written into the database's write-ahead log"
CHANGES = (_CHANGED, _LOG_CHANGED)
"""After these nobody can tell what is in the files: nothing of one may be put into the other."""
_NO_WAL = "the database's write-ahead log has been removed or replaced"
_READ_ONLY = "the file system of the database is read-only"

_BACK = (
    "Put the file back where it was, and the gateway goes on. Where that cannot be: SIGUSR1 writes all it knows into a "
    "backup beside the file; then stop it, put that in the file's place, and start it."
)
_RESTORE = "Stop the gateway, and only then restore a backup: the file alone, with no -wal beside it."
ADVICE = {
    _GONE: _BACK,
    _REPLACED: _BACK,
    _CHANGED: _RESTORE,
    _LOG_CHANGED: _RESTORE,
    _NO_WAL: "Stop the gateway with SIGTERM and start it again: all that was promised is in the file itself.",
    _READ_ONLY: "Make it writable again, and the gateway goes on.",
}
"""What an operator does about it. What else is found speaks for itself."""

_MARKS = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
_SCHEMA = "PRAGMA schema_version"
_LOG_HEAD = 32  # bytes, other ones each time that the log begins anew
_LOG_STAYS = 12  # but for these
_FILE_HEAD = 100  # bytes, by SQLite's file format
_FILE_STAYS = (slice(24), slice(40, 92))
"""Of these: the format, and the numbers of the schema, of its version and of the application; not what counts changes
and pages."""
_EMPTY = (0, 0), b""  # a log in which nothing stands: when it was written, how large it is, its head


class FileWatch:
    """The files of one database, from ``begin`` to ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = ExitStack()
        self._log_written, self._log_head = _EMPTY
        self._changed: str | None = None

    def begin(self, db: sqlite3.Connection) -> None:
        """Take the files as they are: SQLite has just opened and written them."""
        with suppress(sqlite3.Error):  # what tells this file from others is to stand in it, where its disk has room
            db.execute("PRAGMA wal_checkpoint")
        self._log = beside(self._path, "-wal")
        self._file = _identity(self._path.stat())
        self._log_number, self._file_number = map(self._opened, (self._log, self._path))
        self._file_head = self._stays()
        self._log_file = _identity(os.fstat(self._log_number))
        self._marks = _marks(db)
        self._written = _written(self._path.stat())
        self.wrote()

    def close(self) -> None:
        """Look no more: the database has been closed."""
        self._open.close()

    def emptied(self, size: int) -> None:
        """Note that all that was in the log is in the file now, of so many bytes, wherever the two are."""
        self._written = 0, size
        self._log_written, self._log_head = _EMPTY

    def wrote(self) -> None:
        """Note that this process may have written its log. Others may have, too, since the last look.

        The file is judged by the next look: it tells whose it is whenever it was written.
        """
        try:
            file, log = self._path.stat(), self._log.stat()
            log_head = self._head()
        except OSError:
            return  # the next look finds out
        if (_identity(file), _identity(log)) != (self._file, self._log_file):
            return  # so it does
        # This process makes it no smaller: somebody else did while it wrote.
        shorter = log.st_size < self._log_written[1]
        if shorter or (self._log_head and log_head[:_LOG_STAYS] != self._log_head[:_LOG_STAYS]):
            self._changed = _LOG_CHANGED
        self._log_written, self._log_head = _written(log), log_head

    def problem(self) -> str | None:
        """Return what has become of the files; None where all is well."""
        try:
            found = self._path.stat()
        except PermissionError:
            return None  # nobody can be said to have taken it away: what is open can be written
        except OSError as exc:
            gone = isinstance(exc, FileNotFoundError | NotADirectoryError)
            return _GONE if gone else f"the database file cannot be looked at ({exc.strerror})"
        if _identity(found) != self._file:
            return _REPLACED
        if self._changed is None and _written(found) != self._written and not self._is_ours(found):
            self._changed = _CHANGED
        if self._changed is not None:
            return self._changed
        try:
            log = self._log.stat()
            if _identity(log) != self._log_file:
                return _NO_WAL
            if _written(log) != self._log_written and not self._is_our_log(log):
                self._changed = _LOG_CHANGED
        except OSError:
            return _NO_WAL if self._path.exists() else _GONE  # both may have been taken just now
        return self._changed

    def read_only(self) -> str | None:
        """Return the same of its file system."""
        with suppress(OSError):  # where the file has gone since it was looked at the next look tells
            if os.statvfs(self._path).f_flag & os.ST_RDONLY:
                return _READ_ONLY
        return None

    def _is_ours(self, found: os.stat_result) -> bool:
        """Whether the file is the same, but for its time, which backup programs set, and for what this process wrote.

        Until it is emptied by hand, which needs the gateway to be stopped, it never becomes smaller.
        """
        if found.st_size < self._written[1]:
            return False
        try:
            with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?immutable=1", uri=True)) as db:
                same = _marks(db) == self._marks
        except sqlite3.Error as exc:
            # Out of files or memory nobody can tell: the next look may. On a full disk SQLite puts only a part of the
            # log into the file, and does so again later: what cannot be read may be ours, the log has it whole.
            kind, _ = error_name(exc)
            if kind == "CORRUPT":
                return self._stays() == self._file_head
            return kind in ("CANTOPEN", "NOMEM")
        self._written = _written(found)
        return same

    def _is_our_log(self, found: os.stat_result) -> bool:
        """Whether the log is the same but for its time, as far as its size and its head tell."""
        size, self._log_written = self._log_written[1], _written(found)
        return found.st_size == size and self._head() == self._log_head

    def _opened(self, path: Path) -> int:
        """Open a file for as long as the database is: there may be none left when it is to be looked at."""
        number = os.open(path, os.O_RDONLY)
        self._open.callback(os.close, number)
        return number

    def _head(self) -> bytes:
        return os.pread(self._log_number, _LOG_HEAD, 0)

    def _stays(self) -> list[bytes]:
        head = os.pread(self._file_number, _FILE_HEAD, 0)
        return [head[part] for part in _FILE_STAYS]


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _written(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


def _marks(db: sqlite3.Connection) -> object:
    """Return what stays the same as long as a database is open, and tells it from others and from its own backups."""
    secret = db.execute(sql.SELECT_META, ("secret_key",)).fetchall()
    return db.execute(_MARKS).fetchall(), db.execute(_SCHEMA).fetchall(), secret
