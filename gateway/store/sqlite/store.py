"""The SQLite store: keeps house, and ties ``registry.py``, ``tasks.py`` and ``outbox.py`` together, a port each.

Owns the order in which writes are applied within a transaction. The statements stand in ``sql.py``, how rows become
types in ``rows.py``. Built by the wiring; called through ``gateway.store.Housekeeping``. A claim is an entry in memory,
made from committed rows and ended once its write is committed: a crash leaves nothing to repair.
"""

from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection

from gateway.store import Standing
from gateway.store.copying import refuse_unfinished
from gateway.store.copytables import COPYING
from gateway.store.sqlite import createsql, sql, watchsql
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.outbox import SqliteOutbox
from gateway.store.sqlite.registry import SqliteRegistry
from gateway.store.sqlite.tasks import SqliteTaskQueue
from gateway.store.sqlite.writer import Kind, Writer

__all__ = ["SqliteStore"]


class SqliteStore:
    """``gateway.store.Store`` on one SQLite file."""

    def __init__(self, path: Path, *, first_attempt_delay_s: float = 0.0) -> None:
        """Keep everything in ``path``; webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self._database = Database(path)
        kinds: list[Kind] = []
        self._writer = Writer(kinds, self._database.transaction)
        delay_ms = round(first_attempt_delay_s * 1000)
        self.outbox = SqliteOutbox(self._database, self._writer)
        self.tasks = SqliteTaskQueue(self._database, self._writer, self.outbox, delay_ms)
        self.registry = SqliteRegistry(self._database, self._writer, self.tasks, self.outbox, delay_ms)
        self._prune = Kind("prune", self._apply_prune)
        self._prune_creates = Kind("prune_creates", self._apply_prune_creates)
        self._swap = Kind("swap", self._apply_swap)
        self._probe = Kind("probe", self._apply_probe)
        self._follow_clock = Kind("follow_clock", self._apply_follow_clock, self._clock_followed, alone=True)
        # The order in which kinds are applied within one transaction: settling before registering means that a
        # callback which arrives with its task's end becomes pending at once.
        kinds += (
            self.tasks.settle_kind,
            self.registry.register_kind,
            self.registry.begin_create_kind,
            self.registry.end_create_kind,
            self.registry.forget_create_kind,
            self.tasks.reschedule_kind,
            self.tasks.poll_now_kind,
            self.tasks.watches.watch_kind,
            self.outbox.record_kind,
            self.registry.cancel_kind,
            self.registry.redeliver_kind,
            self.registry.redeliver_dead_kind,
            self.tasks.watches.unwatch_kind,  # after whoever prolongs
            self._prune,
            self.tasks.watches.prune_kind,
            self._prune_creates,
            self._swap,
            self._probe,
            self._follow_clock,
        )

    async def open(self) -> None:
        await self._database.open()
        refuse_unfinished(await self.load(COPYING))
        await self.outbox.open()
        await self.tasks.open()
        self._writer.start()

    async def close(self) -> None:
        await self._writer.close()
        await self._database.close()

    @property
    def failing(self) -> str | None:
        return self._database.lost or self._database.failing or self._writer.failing

    @property
    def lost(self) -> str | None:
        return self._database.lost

    async def look(self) -> None:
        await self._database.look()

    # One process has the file: it leads everything, always.

    @property
    def shared(self) -> bool:
        return False

    async def lead(self, name: str, ttl_s: float) -> int | None:
        return 0

    async def resign(self, name: str) -> None:
        """Nobody else could lead it."""

    async def standing(self, ttl_s: float) -> Standing:
        return Standing(1, frozenset())

    async def load(self, key: str) -> bytes | None:
        found = await self._database.read(sql.SELECT_META, (key,))
        return bytes(found[0][0]) if found else None

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        swapped: bool = await self._writer.submit(self._swap, (key, old, new))
        return swapped

    def _apply_swap(self, db: Connection, items: Sequence[tuple[str, bytes | None, bytes]]) -> list[bool]:
        swapped = []
        for key, old, new in items:
            statement, values = (sql.INSERT_META, (key, new)) if old is None else (sql.SWAP_META, (new, key, old))
            swapped.append(db.execute(statement, values).rowcount > 0)
        return swapped

    async def probe(self) -> None:
        await self._writer.submit(self._probe, None)

    def _apply_probe(self, db: Connection, _: object) -> None:
        db.execute(sql.PROBE)

    @property
    def set_back_ms(self) -> int:
        return self._database.set_back_ms

    async def follow_clock(self, step_ms: int) -> None:
        await self._writer.submit(self._follow_clock, step_ms)

    def _apply_follow_clock(self, db: Connection, items: Sequence[int]) -> None:
        moves = (sql.MOVE_TASKS, sql.MOVE_EXPIRIES, sql.MOVE_WEBHOOKS, watchsql.MOVE_WATCHES, createsql.MOVE_CREATES)
        for step_ms in items:
            for statement in moves:
                db.execute(statement, {"step": step_ms})

    def _clock_followed(self, items: Sequence[int], _: object) -> None:
        step_ms = sum(items)
        self.outbox.move(step_ms)
        self.tasks.forget_times()

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        count: int = await self._writer.submit(
            self._prune, {"ended_before": ended_before, "dead_before": dead_before, "limit": limit}
        )
        return count

    def _apply_prune(self, db: Connection, items: Sequence[dict[str, int]]) -> list[int]:
        counts = []
        for item in items:
            deleted = db.execute(sql.PRUNE_CALLBACKS, item).fetchall()
            db.executemany(sql.PRUNE_TASK, [{"seq": task_seq} for (task_seq,) in deleted])
            counts.append(len(deleted))
        return counts

    async def prune_reads(self, now: int, read_before: int, limit: int) -> int:
        return await self.tasks.watches.prune(now, read_before, limit)

    async def prune_creates(self, before: int, most: int, limit: int) -> int:
        count: int = await self._writer.submit(self._prune_creates, (before, most, limit))
        return count

    def _apply_prune_creates(self, db: Connection, items: Sequence[tuple[int, int, int]]) -> list[int]:
        counts = []
        for before, most, limit in items:
            left = limit - db.execute(createsql.PRUNE_CREATES, (before, limit)).rowcount
            for (client,) in db.execute(createsql.SELECT_CREATORS).fetchall():
                about = {"client": client, "most": most, "limit": left}
                left -= db.execute(createsql.PRUNE_EXCESS_CREATES, about).rowcount
            counts.append(limit - left)
        return counts

    async def backup(self, target: Path) -> int:
        return await self._database.backup(target)
