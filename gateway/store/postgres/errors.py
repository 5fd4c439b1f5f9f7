"""What PostgreSQL's errors mean: whose fault each is, what is wrong with the database, and what to do about it.

Owns the words, and that none of them shows a row: the server's may quote its values, which are URLs, keys and metadata.
Nothing else looks at an SQLSTATE, but for ``schema`` at the one of a table that is not there.
"""

import ssl
from socket import gaierror
from typing import Any

import asyncpg

from gateway.core.errors import Error, StoreError, StoreLocked, StoreReason, StoreUnusable
from gateway.store.engine import Blame

FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection raises that fails."""

FOR_EVERYBODY: dict[StoreReason | None, str] = {
    "full": "the database's disk is full",
    "read_only": "the database takes no writes",
    "restarting": "the database is stopping or starting",
    "promoted": "the database's server is a standby, and no primary is found",
    "unreachable": "the database cannot be reached",
    "slow": "the database does not answer in time",
    "refused": "the database refuses the gateway",
    None: "the database is failing",
}
"""By reason, what readiness shows."""

_ADVICE: dict[StoreReason | None, str] = {
    "full": "Make room on its disk",
    "read_only": "Look at default_transaction_read_only of the database and its user",
    "restarting": "It comes back by itself, or its log says why not",
    "promoted": "Name all servers in GATEWAY_DATABASE_URL, so that the primary is found",
    "unreachable": "Look whether it runs, and at the network between",
    "slow": "Look at pg_stat_activity: what it does, and who waits for whom",
}
_STATES: dict[str, tuple[StoreReason, str]] = {
    "53100": ("full", "no room is left on its disk"),
    "53200": ("refused", "it is out of memory"),
    "53300": ("refused", "it has no connection left: raise max_connections, or run fewer replicas"),
    "53400": ("full", "one of its limits is exceeded"),
    "25006": ("read_only", "it is read-only"),
    "57P01": ("restarting", "it is being stopped, or an operator ended the connection"),
    "57P02": ("restarting", "one of its processes crashed, and it is starting again"),
    "57P03": ("restarting", "it is starting, stopping or recovering"),
    "57P04": ("refused", "the database was dropped"),
    "57014": ("slow", "a statement took too long"),
    "55P03": ("slow", "somebody else holds a lock for too long"),
    "25P03": ("slow", "a transaction stood still for too long"),
    "25P04": ("slow", "a transaction took too long"),
    "40001": ("slow", "others wrote the same rows, again and again"),
    "40P01": ("slow", "others wrote the same rows, again and again"),
    "28000": ("refused", "its pg_hba.conf, or its user, does not let the gateway in"),
    "28P01": ("refused", "the password is wrong: see GATEWAY_DATABASE_PASSWORD"),
    "3D000": ("refused", "there is no such database: CREATE DATABASE makes it"),
    "3F000": ("refused", "no schema of its search_path is there: GRANT USAGE, or CREATE SCHEMA"),
    "42501": (
        "refused",
        "a right is missing: the user needs USAGE and CREATE on the schema, and has to own the tables",
    ),
}
_CLASSES: dict[str, tuple[StoreReason, str]] = {
    "08": ("unreachable", "the connection to it broke"),
    "53": ("full", "it has run out of something"),
    "57": ("restarting", "an operator, or its own trouble, ended this"),
    "58": ("unreachable", "its machine fails it"),
    "28": ("refused", "it does not let the gateway in"),
}
_VALUES = {"22", "23", "54"}
"""Classes of SQLSTATE: data, constraints, and what is too large or too much for a row or an index."""
_THE_GATEWAYS = {"0A", "26", "34", "42", "25"}
"""A wrong statement, or one at the wrong time."""
_LOCKS = {"55P03", "40P01", "40001"}
"""What others have locked, or written, stands in the way."""
_REPEATED = {"40001", "40P01", "26000"}
"""Serialization, deadlock; and a prepared statement that has gone, as DISCARD takes them along."""


_OF_STATEMENTS = {"08", "0A", "23", "25", "26", "28", "34", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "XX"}
"""Classes whose messages name tables, limits and files alone: PostgreSQL puts values into their details. Others, as
those of data and of somebody's trigger, may quote what they complain of."""
_QUOTING = "detail", "hint", "context", "internal_query"


def without_values(exc: Error) -> Error:
    """Return an error with nothing in it that may be a row's: also where its traceback is logged."""
    if isinstance(exc, asyncpg.PostgresError):
        exc.__dict__.update(dict.fromkeys(_QUOTING))
        if (exc.sqlstate or "")[:2] not in _OF_STATEMENTS:
            exc.args = (f"SQLSTATE {exc.sqlstate}",)
        exc.__dict__["message"] = exc.args[0]
    return exc


def is_about_no_row(exc: BaseException) -> bool:
    """Whether a read failed as it asks for a text with a character that no text of the database's can have: NUL."""
    return isinstance(exc, asyncpg.CharacterNotInRepertoireError | asyncpg.UntranslatableCharacterError)


def blame(exc: BaseException) -> Blame:
    """Say whose fault an exception is that a transaction has raised."""
    if isinstance(exc, asyncpg.PostgresError):
        state = exc.sqlstate or ""
        if state in _LOCKS:
            return Blame.LOCKS
        if state in _STATES:
            return Blame.DATABASES
        if state[:2] in _VALUES:
            return Blame.VALUES
        return Blame.DEFECT if state[:2] in _THE_GATEWAYS else Blame.DATABASES
    if isinstance(exc, StoreLocked):
        return Blame.LOCKS
    if isinstance(exc, asyncpg.exceptions.DataError | OverflowError | UnicodeError):
        return Blame.VALUES
    if is_lost(exc) or isinstance(exc, StoreError | OSError | MemoryError | asyncpg.InternalClientError):
        return Blame.DATABASES
    return Blame.DEFECT


def explain(exc: BaseException, *, connecting: bool = False, standby: bool = False) -> StoreError:
    """Return what an exception means, in words for the log and whoever asked; ``standby``: of whom it is."""
    if isinstance(exc, StoreError):
        return type(exc)(exc.message, reason=exc.reason)
    without_values(exc)
    reason, what = _meaning(exc, connecting=connecting)
    if reason == "read_only" and standby:
        reason, what = "promoted", "it follows another server, or did when it was connected to"
    # What an SQLSTATE tells is told in our words; the server's own may be in any language.
    own = f" ({exc})" if isinstance(exc, asyncpg.PostgresError) else ""
    advice = f" {_ADVICE[reason]}." if reason in _ADVICE else ""
    words = FOR_EVERYBODY[reason]
    kind: type[StoreError] = StoreLocked if blame(exc) is Blame.LOCKS else StoreError
    if reason == "refused" and not _may_pass(exc):
        kind = StoreUnusable
    return kind(f"{words[0].upper()}{words[1:]}: {what}{own}.{advice}", reason=reason)


def _may_pass(exc: BaseException) -> bool:
    return isinstance(exc, asyncpg.PostgresError) and (exc.sqlstate or "").startswith("53")


def _meaning(exc: BaseException, *, connecting: bool) -> tuple[StoreReason | None, str]:
    if isinstance(exc, asyncpg.PostgresError):
        state = exc.sqlstate or ""
        known = _STATES.get(state) or _CLASSES.get(state[:2])
        return known or (None, f"SQLSTATE {state}")
    if isinstance(exc, asyncpg.exceptions.ClientConfigurationError):
        return "refused", f"GATEWAY_DATABASE_URL cannot be used: {exc}"
    if isinstance(exc, TimeoutError):
        return ("unreachable", "it gave no answer in time") if connecting else ("slow", "it gave no answer in time")
    if isinstance(exc, gaierror):
        return "unreachable", f"nobody knows the name of its host ({exc.strerror})"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return "refused", f"its certificate does not prove that it is this host ({exc.verify_message})"
    if isinstance(exc, OSError):
        return "unreachable", exc.strerror or str(exc) or type(exc).__name__
    if is_lost(exc):
        return "unreachable", "the connection to it broke"
    return None, str(exc) or type(exc).__name__


def is_lost(exc: BaseException) -> bool:
    """Whether a connection has gone: what ran on it was not done, but for a commit, of which nobody knows."""
    if isinstance(exc, asyncpg.PostgresError):
        state = exc.sqlstate or ""
        return state.startswith("08") or state in ("57P01", "57P02", "57P03", "25P03", "25P04")
    if isinstance(exc, asyncpg.InterfaceError):
        return "closed" in str(exc)
    return isinstance(exc, OSError)


def is_to_be_repeated(exc: BaseException) -> bool:
    """Whether a transaction that failed with this may succeed if it is done again at once."""
    state: Any = getattr(exc, "sqlstate", None)
    return state in _REPEATED or isinstance(exc, asyncpg.InvalidCachedStatementError)


def needs_another_server(exc: BaseException) -> bool:
    """Whether the server that says this is not the one to write to, so that all connections to it are to be left."""
    return isinstance(exc, asyncpg.PostgresError) and exc.sqlstate in ("25006", "57P01", "57P02", "57P03")
