"""The stores under test: the suite of each port runs once for every engine, through a parameter of ``new_store``."""

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
        servers = Servers(request.getfixturevalue("postgres").url)
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
    """Return one that nobody else uses, and looks for no others' changes: on a slow machine a look fell amid a test."""
    for pause in ("_LOOK_S", "_LOOK_UNTOLD_S"):
        monkeypatch.setattr(f"gateway.store.postgres.hints.{pause}", 3600.0)
    async with AsyncExitStack() as stack:
        with capture_logs() as log:
            yield await opened(new_store(), stack)
    assert not [line for line in log if line["log_level"] == "error"], "a follow-up that fails is told to nobody else"
