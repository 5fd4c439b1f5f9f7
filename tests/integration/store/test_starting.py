"""Who asks a store while it is being opened: ``/metrics`` is scraped from the first moment on."""

import asyncio
import secrets
from contextlib import suppress

from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.errors import StoreError
from gateway.store import Store
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from tests.postgres import Database
from tests.storing import NewStore


async def scraped(*stores: Store) -> set[str]:
    """Open stores, count their backlogs all the while, and return what those who ask too early are told."""
    opening = asyncio.gather(*(store.open() for store in stores))
    told = set()
    while not opening.done():
        for store in stores:
            try:
                await store.registry.backlog()
            except StoreError as exc:
                told.add(exc.message)
        await asyncio.sleep(0)
    await opening
    return told


async def test_a_new_database_is_not_asked_before_it_is_made(new_store: NewStore) -> None:
    """Whoever asks is told that the gateway starts, and nothing of tables that are not there."""
    store = new_store()
    try:
        assert await scraped(store) == {"The store is closed: the gateway is starting or shutting down."}
        assert store.failing is None
        assert (await store.registry.backlog()).pending == 0
    finally:
        await store.close()


async def test_the_server_hears_of_nothing_that_is_not_there(postgres: Database) -> None:
    """Replicas that start at once, one of which makes the schema, leave no error in its log."""
    assert postgres.server is not None
    log = postgres.server.folder / "log"
    before = len(log.read_bytes())
    stores = [
        PostgresStore(Servers(postgres.url), clock=SteeredClock(SystemClock()), replica=secrets.token_hex(8))
        for _ in range(3)
    ]
    try:
        await scraped(*stores)
    finally:
        for store in stores:
            with suppress(StoreError):
                await store.close()
    assert b"ERROR" not in log.read_bytes()[before:]
