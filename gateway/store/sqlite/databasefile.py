"""A database file as it stands on the disk: what belongs to it, whose it is, and why no gateway can use it.

Owns the words of each refusal, so that a look before the start says what the start says; knows no table and keeps
nothing open. Called by ``database`` and ``peek``.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.core.errors import StoreUnusable

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "beside",
    "check_library",
    "check_version",
    "damaged",
    "error_name",
    "explain",
    "migrations",
    "read_only",
    "was_not_closed",
]

APPLICATION_ID = 0x57484757  # "WHGW": tells our files from other SQLite databases
VERSION = """
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version
"""
"""What ``check_version`` judges."""

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
    known = max(migrations())
    if version > known:
        raise StoreUnusable(
            f"{path} was written by a newer gateway (schema {version}, this one knows {known}); "
            "it was not touched. Start that version, or restore a backup made before the upgrade."
        )


def migrations() -> dict[int, str]:
    """Return the scripts that make the schema by their numbers, the oldest first."""
    files = sorted((file for file in _MIGRATIONS.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return {int(file.name[:4]): file.read_text(encoding="utf-8") for file in files}


def error_name(exc: sqlite3.Error) -> list[str]:
    """Return the parts of the error's name, such as SQLITE, IOERR and LOCK."""
    return str(getattr(exc, "sqlite_errorname", "")).split("_")


def damaged(path: Path, how: str) -> str:
    """Say that the file is damaged, and what to do."""
    return f"{path} is damaged ({how}); it was not repaired. Restore a backup, or set it aside and start anew."


def explain(exc: sqlite3.Error, path: Path) -> str:
    """Say why the file cannot be used, and what to do."""
    match error_name(exc):
        case ["SQLITE", "BUSY", *_]:
            return f"{path} is in use by another process, perhaps a second gateway. Stop it, or use another file."
        case ["SQLITE", "CANTOPEN", *_]:
            return f"{path} cannot be opened: create its folder and let this user write there ({exc})."
        case ["SQLITE", "READONLY", *_] | ["SQLITE", "IOERR", "LOCK"]:
            # A read-only file cannot be locked exclusively: that is where it shows first.
            return f"{path} cannot be written or locked: let this user write the file and its folder ({exc})."
        case ["SQLITE", "NOTADB", *_]:
            return f"{path} is not an SQLite database; it was not touched. Set GATEWAY_DATABASE_URL to another file."
        case ["SQLITE", "CORRUPT", *_]:
            return damaged(path, str(exc))
        case ["SQLITE", "FULL", *_]:
            return f"The disk that holds {path} is full ({exc}). Free some space and start again."
        case _:
            return f"{path} cannot be used: {exc}."
