"""The stores under test: the suite of each port runs once for every engine, through a parameter of ``new_store``."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.clock import SteeredClock, SystemClock
from gateway.store import Store
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from gateway.store.sqlite.store import SqliteStore
from tests.storing import NewStore, opened


@pytest.fixture(params=["sqlite", "postgres"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Make a store on this test's database; each call is the next life of the gateway."""
    if request.param == "postgres":
        servers = Servers(request.getfixturevalue("postgres_ready").url)
        return lambda first_attempt_delay_s=0.0: PostgresStore(
            servers,
            clock=SteeredClock(SystemClock()),
            replica=secrets.token_hex(8),
            first_attempt_delay_s=first_attempt_delay_s,
        )
    return lambda first_attempt_delay_s=0.0: SqliteStore(
        tmp_path / "gateway.db", first_attempt_delay_s=first_attempt_delay_s
    )


@pytest.fixture
async def store(new_store: NewStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """Return one that nobody else uses, and looks for no others' changes: on a slow machine a look fell amid a test.

    Not even once it listens: what such a look has read before a claim it would note anew after it.
    """
    monkeypatch.setattr("gateway.store.postgres.hints.ReplicaHints._look_once", _never)
    async with AsyncExitStack() as stack:
        with capture_logs() as log:
            yield await opened(new_store(), stack)
    assert not [line for line in log if line["log_level"] == "error"], "a follow-up that fails is told to nobody else"


async def _never(*_: object) -> None:
    await asyncio.Event().wait()
