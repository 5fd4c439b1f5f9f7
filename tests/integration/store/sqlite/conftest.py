"""SQLite's store on a file of the test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.sqlite.store import SqliteStore
from tests.sqlitefile import opened


@pytest.fixture(autouse=True)
def on_ready_files() -> None:
    """Make each file as a gateway does."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(path) as store:
        yield store
