"""The stores under test: the suite of each port runs once for every engine, through a parameter of ``new_store``."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.store import Store
from gateway.store.sqlite.store import SqliteStore
from tests.storing import NewStore, opened


@pytest.fixture(params=["sqlite"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Make a store on this test's database; each call is the next life of the gateway."""

    def make(first_attempt_delay_s: float = 0.0) -> Store:
        assert request.param == "sqlite"
        return SqliteStore(tmp_path / "gateway.db", first_attempt_delay_s=first_attempt_delay_s)

    return make


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        with capture_logs() as log:
            yield await opened(new_store(), stack)
    assert not [line for line in log if line["log_level"] == "error"], "a follow-up that fails is told to nobody else"
