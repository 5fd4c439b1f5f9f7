"""Looking for callbacks and tasks by what no index has: a part of the rows at a time, along their own order.

Owns how many rows a part is, and how a text is looked for in metadata. Called through ``gateway.store.Registry``, of
which this is a part.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import msgspec

from gateway.core.model import Callback, Task
from gateway.core.search import Looked, Sought, Wanted
from gateway.store import Turn, rows
from gateway.store.engine import Engine

T = TypeVar("T")

_ROWS = 4000
"""Looked at in one part: some ten milliseconds, in which others wait where the database is a file."""
_COUNTED = 10_000
"""Counted in one part, of an index alone: some milliseconds."""
_BY_URL = 200
"""Read in one part where each URL may have to be taken apart: some ten milliseconds, in which the process waits."""


class StoreSearch:
    """The part of ``gateway.store.Registry`` that looks for something, on an engine."""

    _engine: Engine

    async def search_callbacks(self, wanted: Wanted, before_seq: int | None, limit: int) -> Looked[Callback]:
        sql = self._engine.searchsql
        return await self._part(sql.SEARCH_CALLBACKS, sql.LAST_CALLBACK, rows.callback, wanted, before_seq, limit)

    async def search_tasks(self, wanted: Wanted, before_seq: int | None, limit: int) -> Looked[Task]:
        sql = self._engine.searchsql
        return await self._part(sql.SEARCH_TASKS, sql.LAST_TASK, rows.task, wanted, before_seq, limit)

    async def _part(
        self,
        search: str,
        last: str,
        read: Callable[[Any], T],
        wanted: Wanted,
        before_seq: int | None,
        limit: int,
    ) -> Looked[T]:
        before = rows.FOREVER if before_seq is None else before_seq
        # From the next row that there is: between two, any number may have been removed.
        ((newest,),) = await self._engine.read(last, {"before": before})
        if newest is None:
            return Looked([], None)
        first = max(newest - _ROWS + 1, 0)
        about = {**wanted._asdict(), **_needles(wanted.text), "first": first, "before": newest + 1, "limit": limit}
        found = [read(row) for row in await self._engine.read(search, about)]
        if len(found) == limit:
            return Looked(found, found[-1].seq)  # type: ignore[attr-defined]
        return Looked(found, first if first > 0 else None)

    async def count_dead(self, client: str | None, since: int, until: int, receiver: Sought | None = None) -> int:
        if receiver is not None and receiver.path:  # of which the index has nothing
            return sum([len(ids) async for ids in self._dead_of(client, since, until, receiver)])
        text = None if receiver is None else receiver.text
        count = 0
        for one in await self._clients(client):
            at = since
            while at < until:
                about = {"client": one, "since": at, "until": until, "most": _COUNTED, "receiver": text}
                ((some, at),) = await self._engine.read(self._engine.searchsql.COUNT_DIED, about)
                count += some
        return count

    async def _dead_of(
        self, client: str | None, since: int, until: int, receiver: Sought, turn: Turn = nullcontext
    ) -> AsyncIterator[list[str]]:
        """Yield ids of those that ``count_dead`` counts, in parts, each of them read in a ``turn``.

        Between these they may be redelivered.
        """
        most = _BY_URL if receiver.path else _ROWS
        for one in await self._clients(client):
            at, seq, more = since, -1, True
            while more:
                about = {"client": one, "until": until, "at": at, "seq": seq, "limit": most, "receiver": receiver.text}
                async with turn():
                    found = await self._engine.read(self._engine.searchsql.SELECT_DEAD, about)
                more = len(found) == most
                if more:
                    at, seq, *_ = found[-1]
                yield [its_id for _, _, its_id, url in found if url is not None and receiver.has(url)]

    async def _clients(self, client: str | None) -> Sequence[str]:
        engine = self._engine
        return [client] if client is not None else rows.first_column(await engine.read(engine.sql.SELECT_CLIENTS))


def _needles(text: str | None) -> dict[str, bytes | None]:
    """Return what stands in encoded metadata that has a text: as a member's value, a string or not, or anywhere."""
    if text is None:
        return dict.fromkeys(("string", "inner", "last"))
    name, equals, value = text.partition("=")
    if not (name and equals):
        anywhere = msgspec.json.encode(text)[1:-1]
        return dict.fromkeys(("string", "inner", "last"), anywhere)
    member = msgspec.json.encode(name) + b":"
    plain = member + value.encode()
    return {"string": member + msgspec.json.encode(value), "inner": plain + b",", "last": plain + b"}"}
