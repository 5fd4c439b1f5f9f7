"""Creates that their clients may repeat: taken down before they are forwarded, and their answers kept.

Owns what each of these writes does. Called through ``gateway.store.Registry``, of which this is a part.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec

from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.model import NewCallback, Registration, weight
from gateway.store import rows
from gateway.store.engine import Engine, Run, Touched, Work
from gateway.store.writer import Writer
from gateway.store.writes import Kind

_NAME = attrgetter("client", "upstream", "request_id")

_Ended = tuple[NewCreate, CreateAnswer, Sequence[NewCallback]]


class StoreCreates:
    """The part of ``gateway.store.Registry`` that creates need, on an engine."""

    def __init__(self, engine: Engine, writer: Writer, register_kind: Kind) -> None:
        """Register the callbacks of a create as ``register_kind`` does."""
        self._engine = engine
        self._sql = engine.sql
        self._createsql = engine.createsql
        self._writer = writer
        self._register = register_kind
        self.begin_create_kind = Kind("begin_create", self._apply_begin_create)
        self.end_create_kind = Kind("end_create", self._apply_end_create, register_kind.committed, _registered_for)
        self.lose_create_kind = Kind("lose_create", self._apply_lose_create)
        self.forget_create_kind = Kind("forget_create", self._apply_forget_create)

    async def known_create(self, create: NewCreate) -> KnownCreate | None:
        found = await self._engine.read(self._createsql.SELECT_CREATE, msgspec.structs.asdict(create))
        return rows.known_create(found[0]) if found else None

    async def begin_create(self, create: NewCreate) -> bool:
        begun: bool = await self._writer.submit(self.begin_create_kind, create)
        return begun

    def _apply_begin_create(self, items: Sequence[NewCreate]) -> Work[list[bool]]:
        begun = [False] * len(items)
        # In one order: else two replicas that take down the same ones might wait for one another.
        for place, item in sorted(enumerate(items), key=lambda one: _NAME(one[1])):
            done = yield Run(self._createsql.INSERT_CREATE, msgspec.structs.asdict(item))
            begun[place] = done.count > 0
        return begun

    async def end_create(
        self, create: NewCreate, answer: CreateAnswer, new: Sequence[NewCallback]
    ) -> list[Registration]:
        registrations: list[Registration]
        rows = weight(len(answer.body or b"")) + sum(one.weight for one in new)
        registrations, _ = await self._writer.submit(self.end_create_kind, (create, answer, new), rows)
        return registrations

    def _apply_end_create(self, items: Sequence[_Ended]) -> Work[Sequence[Any] | None]:
        registered = yield from self._register.apply([new for _, _, new in items])
        for create, answer, _ in items:  # last: who begins the same create waits for it
            yield Run(self._createsql.END_CREATE, rows.ended_create(create, answer))
        return registered

    async def lose_create(self, create: NewCreate, now: int) -> None:
        await self._writer.submit(self.lose_create_kind, (create, now))

    def _apply_lose_create(self, items: Sequence[tuple[NewCreate, int]]) -> Work[None]:
        for create, now in items:
            yield Run(self._createsql.LOSE_CREATE, msgspec.structs.asdict(create) | {"lost_at": now})

    async def forget_create(self, create: NewCreate) -> None:
        await self._writer.submit(self.forget_create_kind, create)

    def _apply_forget_create(self, items: Sequence[NewCreate]) -> Work[None]:
        for item in items:
            yield Run(self._createsql.FORGET_CREATE, msgspec.structs.asdict(item))


def _registered_for(items: Sequence[_Ended]) -> Touched:
    return registered_for([one for _, _, new in items for one in new])


def registered_for(new: Sequence[NewCallback]) -> Touched:
    """Return the tasks that callbacks are registered for, also where they are made by that."""
    return Touched(tasks=[(one.upstream, one.task_id) for one in new], new=lambda: rows.new_tasks(new))
