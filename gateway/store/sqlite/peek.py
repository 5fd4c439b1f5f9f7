"""A look into a database file before anything is opened: whether a gateway can use it, and what its webhooks owe.

Changes nothing, and says nothing of a file that another process has, or that it cannot read: where a start is refused
for that, the start says so. Damage is found only where the look meets it. Called by ``preflight``.

It looks through SQLite alone: a reload looks too, in the process that has the file, and where any other code closes the
file there the system lets go of that process's locks on it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from gateway.core.errors import StoreUnusable
from gateway.core.model import CallbackState
from gateway.store.sqlite import sql
from gateway.store.sqlite.databasefile import (
    VERSION,
    beside,
    check_library,
    check_version,
    error_name,
    explain,
    read_only,
    was_not_closed,
)

__all__ = ["count_callbacks", "unusable"]


def unusable(path: Path) -> str | None:
    """Return why the start would refuse the file, in its words; None where nothing is wrong as far as can be seen."""
    alone = _is_alone(path)
    try:
        check_library()
        with _looking(path, alone=alone) as db:
            if db is None:
                return None
            ((application, version, tables),) = db.execute(VERSION)
            check_version(path, application, version, tables)
            return None
    except StoreUnusable as error:
        problem = error.message
    except sqlite3.Error as error:
        if error_name(error)[:2] not in (["SQLITE", "NOTADB"], ["SQLITE", "CORRUPT"]):
            return None
        problem = explain(error, path)
    # A process that has opened it meanwhile may have changed it under a look that takes no lock.
    return None if alone and not _is_alone(path) else problem


def count_callbacks(path: Path) -> dict[CallbackState, int]:
    """Return how many callbacks are in each state; none where there is no file, or none that can be read."""
    try:
        with _looking(path, alone=_is_alone(path)) as db:
            return (
                {} if db is None else {CallbackState(state): count for state, count in db.execute(sql.COUNT_CALLBACKS)}
            )
    except (sqlite3.Error, ValueError):
        return {}


def _is_alone(path: Path) -> bool:
    """Whether all there is of the database is in its file: nobody was killed with it, or writes it now."""
    journal = beside(path, "-journal")
    return not was_not_closed(path) and not (journal.exists() and journal.stat().st_size > 0)


@contextmanager
def _looking(path: Path, *, alone: bool) -> Iterator[sqlite3.Connection | None]:
    """Open the file to read it, if there is one. ``alone``: as it stands, without a lock or a file beside it."""
    with ExitStack() as stack:
        if not path.is_file():
            yield None
            return
        uri = f"{path.absolute().as_uri()}?immutable=1" if alone else stack.enter_context(read_only(path))
        yield stack.enter_context(closing(sqlite3.connect(uri, uri=True, timeout=0)))
