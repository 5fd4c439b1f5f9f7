"""Which webhooks were handled: delivery is at least once, and a repetition has the same ``webhook-id``.

Owns what is done with one: one that is new is handled and then remembered; one that was handled is answered 2xx and
nothing more; one that is being handled just now is ``Busy``, to be answered 503, so that it comes again in case that
fails. A handler that raises has not handled it. Several threads may use one object.
"""

import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from os import PathLike
from secrets import token_hex

from gateway.core.errors import GatewayError

_DAY_S = 86_400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS webhook_ids (
  id TEXT PRIMARY KEY,
  claim TEXT, -- of who handles it now; NULL once it is handled
  until REAL NOT NULL -- seconds since the epoch: the claim's end, or when it is forgotten
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS webhook_ids_until ON webhook_ids (until);
"""


class Busy(GatewayError):
    """The webhook is being handled just now: answer 503 with ``Retry-After: {retry_after_s}``, and it comes again."""

    def __init__(self, webhook_id: str, retry_after_s: int = 5) -> None:
        super().__init__(f"{webhook_id} is being handled just now; send it again in a while.")
        self.retry_after_s = retry_after_s


class WebhookIds(ABC):
    """What remembers webhook-ids. One of your own, on your own database, has these three methods."""

    @contextmanager
    def once(self, webhook_id: str) -> Iterator[bool]:
        """``with ids.once(event.webhook_id) as first``: handle the event if ``first``, and answer 2xx either way.

        It is remembered at the block's end, and forgotten where the block raises. Raises Busy.
        """
        claim = self.claim(webhook_id)
        if claim is None:
            yield False
            return
        try:
            yield True
        except BaseException:
            self.release(webhook_id, claim)
            raise
        self.keep(webhook_id)

    @abstractmethod
    def claim(self, webhook_id: str) -> str | None:
        """Return a claim on an id that is new; None for one that was handled. Raises Busy for one that is claimed."""

    @abstractmethod
    def keep(self, webhook_id: str) -> None:
        """Remember an id as handled, whoever has claimed it meanwhile."""

    @abstractmethod
    def release(self, webhook_id: str, claim: str) -> None:
        """Give a claim back; nothing happens where it has lapsed."""


class MemoryIds(WebhookIds):
    """Remembers the last ``limit`` ids in this process, until it ends."""

    def __init__(self, limit: int = 100_000) -> None:
        if limit < 1:
            raise ValueError("limit is at least 1")
        self._limit = limit
        self._claims: dict[str, str] = {}
        self._handled: dict[str, None] = {}  # the oldest first
        self._lock = threading.Lock()

    def claim(self, webhook_id: str) -> str | None:
        with self._lock:
            if webhook_id in self._handled:
                return None
            if webhook_id in self._claims:
                raise Busy(webhook_id)
            claim = self._claims[webhook_id] = token_hex(8)
            return claim

    def keep(self, webhook_id: str) -> None:
        with self._lock:
            self._claims.pop(webhook_id, None)
            self._handled[webhook_id] = None
            if len(self._handled) > self._limit:
                del self._handled[next(iter(self._handled))]

    def release(self, webhook_id: str, claim: str) -> None:
        with self._lock:
            if self._claims.get(webhook_id) == claim:
                del self._claims[webhook_id]


class SqliteIds(WebhookIds):
    """Remembers ids in a SQLite file that threads and processes of one machine share.

    ``keep_days``: for how long; after 90 days the gateway itself has removed what it might redeliver, by default.
    ``claim_s``: a handler that has not ended after so long is taken for dead, and the next attempt is handled. Each
    call waits for the disk, a few milliseconds: from asyncio, use it in a thread.
    """

    def __init__(self, path: str | PathLike[str], *, keep_days: float = 90, claim_s: float = 300) -> None:
        self._path = path
        self._keep_s = keep_days * _DAY_S
        self._claim_s = claim_s
        with closing(self._connect()) as connection:
            connection.executescript(_SCHEMA)

    def claim(self, webhook_id: str) -> str | None:
        with self._transaction() as connection:
            now = time.time()
            connection.execute("DELETE FROM webhook_ids WHERE until <= ?", (now,))
            row = connection.execute("SELECT claim, until FROM webhook_ids WHERE id = ?", (webhook_id,)).fetchone()
            if row is not None:
                if row[0] is None:
                    return None
                raise Busy(webhook_id)
            claim = token_hex(8)
            values = (webhook_id, claim, now + self._claim_s)
            connection.execute("INSERT INTO webhook_ids (id, claim, until) VALUES (?, ?, ?)", values)
            return claim

    def keep(self, webhook_id: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO webhook_ids (id, claim, until) VALUES (?, NULL, ?) "
                "ON CONFLICT (id) DO UPDATE SET claim = NULL, until = excluded.until",
                (webhook_id, time.time() + self._keep_s),
            )

    def release(self, webhook_id: str, claim: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM webhook_ids WHERE id = ? AND claim = ?", (webhook_id, claim))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Begin one that nobody else writes beside, and commit it at the block's end."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        """Open a connection of this call's own, so that no thread, and no process that was forked, shares one."""
        return sqlite3.connect(self._path, timeout=10, isolation_level=None)
