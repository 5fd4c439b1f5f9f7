"""The engines' statements: each engine has all of them, in its own dialect."""

from types import ModuleType

import pytest

from gateway.store import dialect
from gateway.store.postgres import createsql as postgres_createsql
from gateway.store.postgres import deliversql as postgres_deliversql
from gateway.store.postgres import searchsql as postgres_searchsql
from gateway.store.postgres import sql as postgres_sql
from gateway.store.postgres import watchsql as postgres_watchsql
from gateway.store.sqlite import createsql, deliversql, searchsql, sql, watchsql


@pytest.mark.parametrize(
    ("module", "protocol"),
    [
        (sql, dialect.Statements),
        (deliversql, dialect.DeliverStatements),
        (watchsql, dialect.ReadStatements),
        (createsql, dialect.CreateStatements),
        (searchsql, dialect.SearchStatements),
        (postgres_sql, dialect.Statements),
        (postgres_deliversql, dialect.DeliverStatements),
        (postgres_watchsql, dialect.ReadStatements),
        (postgres_createsql, dialect.CreateStatements),
        (postgres_searchsql, dialect.SearchStatements),
    ],
)
def test_an_engine_has_every_statement(module: ModuleType, protocol: type) -> None:
    """No statement that the ports name is missing."""
    assert set(protocol.__annotations__) <= set(vars(module))
