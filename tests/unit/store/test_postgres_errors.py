"""What is made of PostgreSQL's errors, of all kinds, and how statements name their parameters."""

import asyncio
import re
import socket
import ssl
from pathlib import Path

import asyncpg
import pytest

from gateway.core.errors import StoreError, StoreLocked, StoreReason, StoreUnusable
from gateway.store.engine import Blame
from gateway.store.postgres import errors
from gateway.store.postgres.errors import FOR_EVERYBODY, blame, explain, is_lost, is_to_be_repeated
from gateway.store.postgres.session import _numbered


def error(state: str, message: str = "the server's words") -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": state, "M": message, "S": "ERROR", "V": "ERROR"})


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("53100", "full", "no room is left on its disk (the server's words). Make room"),
        ("53200", "refused", "it is out of memory"),
        ("53300", "refused", "raise max_connections, or run fewer replicas"),
        ("53000", "full", "it has run out of something"),
        ("25006", "read_only", "Look at default_transaction_read_only"),
        ("57P01", "restarting", "it is being stopped"),
        ("57P02", "restarting", "crashed"),
        ("57P03", "restarting", "it is starting, stopping or recovering"),
        ("57P04", "refused", "the database was dropped"),
        ("57014", "slow", "a statement took too long"),
        ("28P01", "refused", "see GATEWAY_DATABASE_PASSWORD"),
        ("28000", "refused", "pg_hba.conf"),
        ("3D000", "refused", "CREATE DATABASE makes it"),
        ("42501", "refused", "a right is missing"),
        ("08006", "unreachable", "the connection to it broke"),
        ("58030", "unreachable", "its machine fails it"),
        ("XX001", None, "The database is failing: SQLSTATE XX001 (the server's words)."),
    ],
)
def test_the_databases_fault(state: str, reason: StoreReason | None, words: str) -> None:
    """Each has its reason, which readiness shows, and says what to do."""
    told = explain(error(state))
    assert (told.reason, blame(error(state))) == (reason, Blame.DATABASES)
    assert words in told.message
    assert told.message.lower().startswith(FOR_EVERYBODY[reason])
    assert isinstance(told, StoreUnusable) == (reason == "refused" and not state.startswith("53"))


@pytest.mark.parametrize(
    ("state", "words"),
    [("55P03", "somebody else holds a lock"), ("40P01", "again and again"), ("40001", "again and again")],
)
def test_somebody_elses_locks(state: str, words: str) -> None:
    """The database is well: whoever wants none of what is locked may write."""
    told = explain(error(state))
    assert (type(told), told.reason) == (StoreLocked, "slow")
    assert words in told.message
    assert blame(error(state)) is blame(told) is blame(explain(told)) is Blame.LOCKS


@pytest.mark.parametrize(
    ("exc", "reason", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "unreachable", "Connection refused"),
        (ConnectionResetError(), "unreachable", "ConnectionResetError"),
        (socket.gaierror(-2, "Name or service not known"), "unreachable", "nobody knows the name of its host"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "unreachable", "wrong version number"),
        (asyncpg.exceptions.ClientConfigurationError("no such version"), "refused", "cannot be used: no such version"),
        (TimeoutError(), "slow", "it gave no answer in time"),
        (asyncpg.InterfaceError("connection is closed"), "unreachable", "the connection to it broke"),
        (asyncpg.InternalClientError("odd"), None, "The database is failing: odd."),
        (StoreError("as it was", reason="slow"), "slow", "as it was"),
    ],
)
def test_no_answer(exc: Exception, reason: StoreReason | None, words: str) -> None:
    """What keeps an answer from coming is told apart, too."""
    told = explain(exc)
    assert told.reason == reason
    assert words in told.message
    assert blame(exc) is Blame.DATABASES or isinstance(exc, asyncpg.exceptions.ClientConfigurationError)
    assert explain(TimeoutError(), connecting=True).reason == "unreachable"


@pytest.mark.parametrize("state", ["22001", "22P02", "22021", "23505", "23514", "54000"])
def test_the_values_fault(state: str) -> None:
    """Data, constraints, and what is too large for a row or an index."""
    assert blame(error(state)) is Blame.VALUES


@pytest.mark.parametrize("state", ["42601", "42P01", "42703", "0A000", "25P02", "34000"])
def test_the_gateways_fault(state: str) -> None:
    """A wrong statement, or one at the wrong time."""
    assert blame(error(state)) is Blame.DEFECT
    assert blame(LookupError()) is Blame.DEFECT
    assert blame(asyncpg.InterfaceError("cannot perform operation: another operation is in progress")) is Blame.DEFECT


def test_what_is_tried_again() -> None:
    """Others' locks and lost connections, nothing else."""
    assert [state for state in ("40001", "40P01", "26000", "55P03", "23505") if is_to_be_repeated(error(state))] == [
        "40001",
        "40P01",
        "26000",
    ]
    lost = [
        error("57P01"),
        error("08003"),
        error("25P03"),
        ConnectionResetError(),
        asyncpg.InterfaceError("it is closed"),
    ]
    assert all(map(is_lost, lost))
    assert not any(map(is_lost, [error("57014"), error("53100"), LookupError(), asyncio.CancelledError()]))


def test_every_reason_has_its_words() -> None:
    """What readiness may show stands in the manual, with what to do."""
    page = (Path(__file__).parents[3] / "gateway/manual/what-happens.md").read_text("utf-8")
    assert [words for words in FOR_EVERYBODY.values() if words not in page] == []
    source = Path(errors.__file__).read_text("utf-8")
    assert set(re.findall(r'\("([a-z_]+)", "', source)) <= FOR_EVERYBODY.keys()


@pytest.mark.parametrize(
    ("statement", "numbered", "names"),
    [
        ("SELECT :a, :b_c, :a", "SELECT $1, $2, $1", ["a", "b_c"]),
        ("SELECT $1, $2", "SELECT $1, $2", []),
        ("SELECT ':a', 'it''s :b', :c", "SELECT ':a', 'it''s :b', $1", ["c"]),
        ("SELECT :a::text, b[1:2]", "SELECT $1::text, b[1:2]", ["a"]),
    ],
)
def test_named_parameters(statement: str, numbered: str, names: list[str]) -> None:
    """They become PostgreSQL's numbers, but for what only looks like one."""
    assert _numbered(statement) == (numbered, names)
