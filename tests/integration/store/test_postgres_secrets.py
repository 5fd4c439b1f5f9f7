"""What stands in a row stays there: no error of PostgreSQL's, no line of the log and no answer quotes it."""

import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.errors import StoreError
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from tests.postgres import Database
from tests.storing import new, opened

CANARY = "canary-7f3a"
PLANTED = {
    "a constraint": "ALTER TABLE callbacks ADD CONSTRAINT planted CHECK (url NOT LIKE '%canary%') NOT VALID",
    "another row's values": "CREATE UNIQUE INDEX planted ON callbacks (url)",
    "what may not be null": "ALTER TABLE callbacks ADD planted text NOT NULL DEFAULT ''; "
    "ALTER TABLE callbacks ALTER planted DROP DEFAULT",
    "a trigger's words": "BEGIN RAISE EXCEPTION 'not %', NEW.url; END",
    "a trigger's details": "BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'full', DETAIL = NEW.url, HINT = NEW.url; END",
    "a text that is no number": "BEGIN NEW.timeout_s = NEW.url; RETURN NEW; END",
    "a text that is no instant": "BEGIN NEW.timeout_s = extract(day FROM NEW.url::timestamp); RETURN NEW; END",
    "a query of a trigger's": "BEGIN EXECUTE 'SELECT ' || NEW.url; RETURN NEW; END",
}
TRIGGER = """
CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ {} $$;
CREATE TRIGGER planted BEFORE INSERT ON callbacks FOR EACH ROW EXECUTE FUNCTION planted()
"""


@pytest.fixture
async def store(postgres: Database) -> AsyncIterator[Any]:
    made = PostgresStore(Servers(postgres.url), clock=SteeredClock(SystemClock()), replica="one")
    async with AsyncExitStack() as stack:
        yield await opened(made, stack)


@pytest.mark.parametrize("planted", PLANTED)
async def test_no_error_quotes_a_row(store: PostgresStore, postgres: Database, planted: str) -> None:
    """Whatever it complains of; the caller hears that it cannot be stored, the operator the SQLSTATE and the table."""
    url = f"https://example.com/{CANARY}"
    await store.registry.register([new("before", url=url, metadata=CANARY.encode())])
    text = PLANTED[planted]
    postgres.execute(TRIGGER.format(text) if text.startswith("BEGIN") else text)
    with capture_logs() as log, pytest.raises(StoreError) as caught:
        await store.registry.register([new("planted", url=url, metadata=CANARY.encode())])
    said = [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value), str(store.failing)]
    for line in log:
        said.append(repr({name: value for name, value in line.items() if name != "exc_info"}))
        if "exc_info" in line:
            said += traceback.format_exception(line["exc_info"])
    assert log
    assert CANARY not in "".join(said)


@pytest.mark.parametrize("value", [CANARY, ["x", CANARY], f"{CANARY}\ud800"])
async def test_no_value_that_does_not_fit_is_quoted(store: PostgresStore, value: Any) -> None:
    """Also what asyncpg itself complains of: a defect of the gateway's does not put it into the log."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        await store._database.read("SELECT CAST($1 AS bigint), CAST($2 AS text)", (value, value))
    assert CANARY not in "".join(traceback.format_exception(caught.value))
