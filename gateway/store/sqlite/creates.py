"""Creates that their clients may repeat: taken down before they are forwarded, and their answers kept.

Owns what each of these writes does. Called through ``gateway.store.Registry``, of which this is a part.
"""

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

import msgspec

from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.model import NewCallback, Registration
from gateway.store.sqlite import createsql, rows
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.writer import Kind, Writer

__all__ = ["SqliteCreates"]

_Ended = tuple[NewCreate, CreateAnswer, Sequence[NewCallback]]


class SqliteCreates:
    """The part of ``gateway.store.Registry`` that creates need, on one SQLite file."""

    def __init__(self, database: Database, writer: Writer, register_kind: Kind) -> None:
        """Register the callbacks of a create as ``register_kind`` does."""
        self._database = database
        self._writer = writer
        self._register = register_kind
        self.begin_create_kind = Kind("begin_create", self._apply_begin_create)
        self.end_create_kind = Kind("end_create", self._apply_end_create, register_kind.committed)
        self.forget_create_kind = Kind("forget_create", self._apply_forget_create)

    async def known_create(self, create: NewCreate) -> KnownCreate | None:
        found = await self._database.read(createsql.SELECT_CREATE, msgspec.structs.asdict(create))
        return rows.known_create(found[0]) if found else None

    async def begin_create(self, create: NewCreate) -> bool:
        begun: bool = await self._writer.submit(self.begin_create_kind, create)
        return begun

    def _apply_begin_create(self, db: Connection, items: Sequence[NewCreate]) -> list[bool]:
        return [db.execute(createsql.INSERT_CREATE, msgspec.structs.asdict(item)).rowcount > 0 for item in items]

    async def end_create(
        self, create: NewCreate, answer: CreateAnswer, new: Sequence[NewCallback]
    ) -> list[Registration]:
        registrations: list[Registration]
        registrations, _ = await self._writer.submit(self.end_create_kind, (create, answer, new), 1 + len(new))
        return registrations

    def _apply_end_create(self, db: Connection, items: Sequence[_Ended]) -> Sequence[Any] | None:
        for create, answer, _ in items:
            db.execute(createsql.END_CREATE, rows.ended_create(create, answer))
        return self._register.apply(db, [new for _, _, new in items])

    async def forget_create(self, create: NewCreate) -> None:
        await self._writer.submit(self.forget_create_kind, create)

    def _apply_forget_create(self, db: Connection, items: Sequence[NewCreate]) -> None:
        for item in items:
            db.execute(createsql.FORGET_CREATE, msgspec.structs.asdict(item))
