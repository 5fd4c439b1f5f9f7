"""SQLite files that have the schema from the start: to make it takes three times what the opening does, and the disk.

``ready_files`` has every gateway that a test opens at a path where nothing is find such a file, with nothing in it but
the schema. Tests that are about how files are made, how they grow and what is wrong with them do without.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from gateway.core import private
from gateway.store.sqlite import databasefile
from gateway.store.sqlite.database import Database

__all__ = ["ready_files"]


@cache
def _ready() -> bytes:
    """Return what a file has in it that was opened for the first time, before its gateway wrote a word of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ready.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            db.execute(f"PRAGMA application_id = {databasefile.APPLICATION_ID}")
            for number, script in databasefile.migrations().items():
                db.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        return path.read_bytes()


@pytest.fixture
def ready_files() -> Iterator[None]:
    opened = Database.open

    async def open_ready(self: Database) -> None:
        with suppress(OSError):  # there is one, or none can be made: the real way says so
            file = private.create(self._path)
            try:
                os.write(file, _ready())
            finally:
                os.close(file)
        await opened(self)

    with mock.patch.object(Database, "open", open_ready):
        yield
