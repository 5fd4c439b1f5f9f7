"""A database file as it stands on the disk: what belongs to it, whose it is, and why no gateway can use it.

Owns the words of each refusal, so that a look before the start says what the start says; keeps nothing open. Called by
``database``, and by ``preflight`` for that look, which changes nothing, finds damage only where it meets it, and says
nothing of a file that another process has or that it cannot read: the start does, where it is refused for that.

It looks through SQLite alone: a reload looks too, in the process that has the file, and where any other code closes the
file there the system lets go of that process's locks on it.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from gateway.core.errors import StoreUnusable
from gateway.core.model import CallbackState
from gateway.store.sqlite import sql

APPLICATION_ID = 0x57484757  # "WHGW": tells our files from other SQLite databases
VERSION = """
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version
"""
"""What ``check_version`` judges."""
QUICK_CHECK = "PRAGMA quick_check(1)"
"""Returns ``ok``, or the first damage of a file that is found."""

_MIGRATIONS = Path(__file__).with_name("migrations")
_OLDEST_SQLITE = (3, 38, 0)  # from here on SQLite has STRICT tables, and JSON without being built for it


def beside(path: Path, suffix: str) -> Path:
    """Return what SQLite makes beside a database: beside the file itself, where the path is a link that leads to it."""
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + suffix)


def was_not_closed(path: Path) -> bool:
    """Whether the last process that had the file was killed, or has it still: what it wrote last stands beside it."""
    wal = beside(path, "-wal")
    return wal.exists() and wal.stat().st_size > 0


def written_ahead_ms(path: Path) -> int:
    """Return how far in the future the last write was; 0 where it was in the past, or nobody can tell."""
    last = beside(path, "-wal") if was_not_closed(path) else path
    try:
        # Both by the file system's clock, which may be another machine's.
        with tempfile.TemporaryFile(dir=path.parent) as new:
            now_ns = os.fstat(new.fileno()).st_mtime_ns
    except OSError:
        return 0
    return max(0, last.stat().st_mtime_ns - now_ns) // 1_000_000


@contextmanager
def read_only(path: Path) -> Iterator[str]:
    """Lend the URI of a connection that cannot write, for a file that was not closed.

    To read what stands beside the file it makes an index there, which is taken away again. Nobody who runs on the file
    needs that: a gateway has its index in memory.
    """
    index = beside(path, "-shm")
    made = not index.exists()
    try:
        yield f"{path.absolute().as_uri()}?mode=ro"
    finally:
        if made:
            index.unlink(missing_ok=True)


def check_library() -> None:
    """Raise StoreUnusable where this Python's SQLite is too old."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreUnusable(
            f"This Python brings SQLite {sqlite3.sqlite_version}; the gateway needs 3.38 or newer. "
            "Use another Python build, or the container image."
        )


def check_version(path: Path, application: int, version: int, tables: int) -> None:
    """Raise StoreUnusable for another program's file, and for a newer gateway's; one without anything in it is new."""
    if application != APPLICATION_ID and (tables or application or version):
        raise StoreUnusable(
            f"{path} is a database of another program; it was not touched. "
            "Set GATEWAY_DATABASE_URL to a file of the gateway's own."
        )
    known = newest()
    if version > known:
        raise StoreUnusable(
            f"{path} was written by a newer gateway (schema {version}, this one knows {known}); "
            "it was not touched. Start that version, or restore a backup made before the upgrade."
        )


def migrations(after: int = 0) -> dict[int, str]:
    """Return the scripts that make the schema by their numbers, the oldest first; only those later than ``after``.

    A file that has been released is never edited: a change is a new file. The numbers 2 to 4 were given to others once.
    """
    return {number: file.read_text("utf-8") for number, file in sorted(_numbered().items()) if number > after}


def newest() -> int:
    """Return the last script's number, which is the schema's ``user_version``."""
    return max(_numbered())


def _numbered() -> dict[int, Path]:
    return {int(file.name[:4]): file for file in _MIGRATIONS.glob("*.sql")}


def error_name(exc: sqlite3.Error) -> tuple[str, str]:
    """Return an error's kind, such as IOERR, and which of that kind it is, such as LOCK; empty where none is said."""
    kind, _, which = str(getattr(exc, "sqlite_errorname", "")).removeprefix("SQLITE_").partition("_")
    return kind, which


def damaged(path: Path, how: str) -> str:
    """Say that the file is damaged, and what to do."""
    return f"{path} is damaged ({how}); it was not repaired. Restore a backup, or set it aside and start anew."


def explain(exc: sqlite3.Error, path: Path) -> str:
    """Say why the file cannot be used, and what to do."""
    match error_name(exc):
        case ("BUSY", _):
            return f"{path} is in use by another process, perhaps a second gateway. Stop it, or use another file."
        case ("CANTOPEN", _):
            return f"{path} cannot be opened: create its folder and let this user write there ({exc})."
        case ("READONLY", _) | ("IOERR", "LOCK"):
            # A read-only file cannot be locked exclusively: that is where it shows first.
            return f"{path} cannot be written or locked: let this user write the file and its folder ({exc})."
        case ("NOTADB", _):
            return f"{path} is not an SQLite database; it was not touched. Set GATEWAY_DATABASE_URL to another file."
        case ("CORRUPT", _):
            return damaged(path, str(exc))
        case ("FULL", _):
            return f"The disk that holds {path} is full ({exc}). Free some space and start again."
        case _:
            return f"{path} cannot be used: {exc}."


def unusable(path: Path) -> str | None:
    """Return why the start would refuse the file, in its words; None where nothing is wrong as far as can be seen."""
    alone = _is_alone(path)
    try:
        check_library()
        with _looking(path, alone=alone) as db:
            if db is None:
                return None
            ((application, version, tables),) = db.execute(VERSION)
            check_version(path, application, version, tables)
            return None
    except StoreUnusable as error:
        problem = error.message
    except sqlite3.Error as error:
        kind, _ = error_name(error)
        if kind not in ("NOTADB", "CORRUPT"):
            return None
        problem = explain(error, path)
    # A process that has opened it meanwhile may have changed it under a look that takes no lock.
    return None if alone and not _is_alone(path) else problem


def schema(path: Path) -> int | None:
    """Return the file's schema, 0 where nothing is in it or there is none; None where it cannot be read.

    Raises StoreUnusable for a file that this gateway cannot use.
    """
    try:
        with _looking(path, alone=_is_alone(path)) as db:
            if db is None:
                return 0
            ((application, version, tables),) = db.execute(VERSION)
    except sqlite3.Error:
        return None
    check_version(path, application, version, tables)
    return int(version)


def count_callbacks(path: Path) -> dict[CallbackState, int]:
    """Return how many callbacks are in each state; none where there is no file, or none that can be read."""
    try:
        with _looking(path, alone=_is_alone(path)) as db:
            return (
                {} if db is None else {CallbackState(state): count for state, count in db.execute(sql.COUNT_CALLBACKS)}
            )
    except (sqlite3.Error, ValueError):
        return {}


def _is_alone(path: Path) -> bool:
    """Whether all there is of the database is in its file: nobody was killed with it, or writes it now."""
    journal = beside(path, "-journal")
    return not was_not_closed(path) and not (journal.exists() and journal.stat().st_size > 0)


@contextmanager
def _looking(path: Path, *, alone: bool) -> Iterator[sqlite3.Connection | None]:
    """Open the file to read it, if there is one. ``alone``: as it stands, without a lock or a file beside it."""
    with ExitStack() as stack:
        if not path.is_file():
            yield None
            return
        uri = f"{path.absolute().as_uri()}?immutable=1" if alone else stack.enter_context(read_only(path))
        yield stack.enter_context(closing(sqlite3.connect(uri, uri=True, timeout=0)))
