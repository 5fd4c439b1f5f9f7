"""The tables and columns that make up the gateway's data, whatever the database: what copying must not lose.

Owns the one list of them; a test holds it against both engines' schemas. What belongs to one database alone is not in
it: who leads and who has claimed what, the version of the schema, the mark of a copy. Called by ``copying`` and by the
engines' ``copyside``.
"""

from typing import NamedTuple

MOST_WATCHERS = 32
"""Clients that a task names as waiting for it: an entry of PostgreSQL's index has room for no more. The others wait
with these, and none is lost: who waits is known from the callbacks."""

COPYING = "copying"
"""Key in ``meta`` of the mark of a copy that is not finished."""

OWN_META = ("schema", COPYING)
"""Keys in ``meta`` that say something of the database they stand in."""


class Table(NamedTuple):
    """One table; its columns in the order in which a row is passed on, the key's before all others."""

    name: str
    integers: tuple[str, ...]
    texts: tuple[str, ...]
    blobs: tuple[str, ...]
    large: tuple[str, ...] = ()
    """The last of the blobs, which may be of any size; such a table has the key ``seq``."""
    key: int = 1
    """How many columns the key has."""
    numbered: bool = False
    """Whether the database numbers its rows, in the column ``seq``, and uses no number twice."""
    where: str = "true"
    """Which rows are data."""

    @property
    def columns(self) -> tuple[str, ...]:
        return self.integers + self.texts + self.blobs

    @property
    def head(self) -> "Table":
        """All columns but the large ones."""
        return self._replace(blobs=self.blobs[: len(self.blobs) - len(self.large)], large=())

    @property
    def key_columns(self) -> tuple[str, ...]:
        return self.columns[: self.key]

    # Statements that are the same in every database; of keys they hold numbers alone.

    def select(self, after: tuple[int, ...] | None, before: int | None) -> str:
        """Select the rows between these keys, in the key's order."""
        key = ", ".join(self.key_columns)
        above = "" if after is None else f" AND ({key}) > ({', '.join(map(str, after))})"
        below = "" if before is None else f" AND seq < {before}"
        return f"SELECT {', '.join(self.columns)} FROM {self.name} WHERE {self.where}{above}{below} ORDER BY {key}"  # noqa: S608 - names of this file

    def select_large(self, size: int) -> str:
        """Select the keys of the rows that have more than so many bytes in their large columns."""
        sizes = " + ".join(f"coalesce(length({column}), 0)" for column in self.large)
        return f"SELECT seq FROM {self.name} WHERE {sizes} > {size} ORDER BY seq"  # noqa: S608 - as above

    def select_head(self, seq: int) -> str:
        """Select a row without its large columns."""
        return f"SELECT {', '.join(self.head.columns)} FROM {self.name} WHERE seq = {seq}"  # noqa: S608 - as above

    def select_sizes(self, seq: int) -> str:
        """Select the sizes of a row's large columns."""
        return f"SELECT {', '.join(f'length({column})' for column in self.large)} FROM {self.name} WHERE seq = {seq}"  # noqa: S608 - as above

    def select_last(self) -> str:
        """Select the highest key."""
        descending = ", ".join(f"{column} DESC" for column in self.key_columns)
        return f"SELECT {', '.join(self.key_columns)} FROM {self.name} ORDER BY {descending} LIMIT 1"  # noqa: S608 - as above

    def select_count(self) -> str:
        """Count the rows."""
        return f"SELECT count(*) FROM {self.name} WHERE {self.where}"  # noqa: S608 - as above


META = Table("meta", (), ("key",), ("value",), where=f"key NOT IN {OWN_META}")

TABLES = (
    Table(
        "tasks",
        (
            "seq", "created_at", "born_at", "polls", "failures", "last_polled_at", "next_poll_at", "settled_at",
            "read_until", "told_at", "denied_at",
        ),
        ("upstream", "task_id", "state", "watchers", "model", "last_error"),
        ("poll_log", "outcome", "record"),
        large=("outcome", "record"),
        numbered=True,
    ),
    Table(
        "callbacks",
        (
            "seq", "task_seq", "timeout_s", "created_at", "expires_at", "attempts", "budget_used", "redeliveries",
            "next_attempt_at", "delivered_at", "ended_at", "cancelled",
        ),
        ("id", "client", "url", "receiver", "format", "trace", "state", "last_error"),
        ("metadata", "body"),
        large=("body",),
        numbered=True,
    ),
    Table(
        "attempts",
        ("callback_seq", "number", "started_at", "duration_ms", "status_code"),
        ("error", "result", "excerpt"),
        (),
        key=2,
    ),
    Table(
        "creates",
        ("seq", "number", "at", "lost_at", "status"),
        ("client", "upstream", "request_id", "content_type", "task_id"),
        ("digest", "answer"),
        numbered=True,
    ),
    META,
)  # fmt: skip
"""In the order in which they are copied: what refers to a row comes after it."""
