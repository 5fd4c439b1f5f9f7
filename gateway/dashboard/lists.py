"""The lists of callbacks and tasks: filters, search, and the way from one page to the next.

Owns what may be looked for, how long a search may take, and the cursors. A search looks through a part of the rows at
a time, the newest first; what it has not come to in its time the next page looks through.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from itsdangerous import BadSignature, URLSafeSerializer

from gateway.core.clock import Clock
from gateway.core.errors import InvalidRequest, without_frames
from gateway.core.model import Callback, CallbackState, Task, TaskState
from gateway.core.search import Looked, Wanted, host_of
from gateway.core.telling import told
from gateway.dashboard.asked import Asked, Shown, one_of, text_of
from gateway.dashboard.parts import PageParts
from gateway.store import Registry

T = TypeVar("T", Callback, Task)

_ROWS = 50
_SEARCH_S = 0.04
"""So long a search goes on, once a part that has too little has been looked through."""


class _Listed(NamedTuple):
    rows: list[Any]
    before: int | None
    """Where the next page begins; None: there is none."""
    ended: bool
    """Whether the next page, where there is one, is known to have something."""


class Lists:
    """Both pages."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts
        self._registry: Registry = parts.registry
        self._clock: Clock = parts.clock

    async def callbacks(self, asked: Asked) -> Shown:
        state = one_of(asked, "state", CallbackState)
        text, upstream = text_of(asked.query, "q"), text_of(asked.query, "upstream")
        client = self._client(asked)
        before = await self._before(asked)
        found = None
        if text is not None and upstream is None:
            found = await self._named(client, text, state, before)
        elif upstream is None:
            found = _page(
                await self._registry.list_callbacks(
                    client, state=state, task_id=None, before_seq=before, limit=_ROWS + 1
                )
            )
        if found is None:
            wanted = Wanted(client, state, upstream, text)
            found = await self._search(lambda at: self._registry.search_callbacks(wanted, at, _ROWS + 1), before)
        upstreams = {one.name for one in self._parts.upstreams()}
        found = found._replace(
            rows=[msgspec.structs.replace(one, task=told(one.task, upstreams)) for one in found.rows]
        )
        return await self._shown("callbacks", asked, found, {"states": list(CallbackState), "state": state or ""})

    async def tasks(self, asked: Asked) -> Shown:
        state = one_of(asked, "state", TaskState)
        wanted = Wanted(self._client(asked), state, text_of(asked.query, "upstream"), text_of(asked.query, "q"))
        before = await self._before(asked)
        found = await self._search(lambda at: self._registry.search_tasks(wanted, at, _ROWS + 1), before)
        upstreams = {one.name for one in self._parts.upstreams()}
        found = found._replace(rows=[told(one, upstreams) for one in found.rows])
        return await self._shown("tasks", asked, found, {"states": list(TaskState), "state": state or ""})

    async def _named(
        self, client: str | None, text: str, state: CallbackState | None, before: int | None
    ) -> _Listed | None:
        """Return what a whole id names, which indexes find; None where it names nothing."""
        if (callback := await self._registry.get_callback(client, text)) is not None:
            return _Listed([callback], None, ended=True)
        of_task = await self._registry.list_callbacks(
            client, state=state, task_id=text, before_seq=before, limit=_ROWS + 1
        )
        is_task = of_task or (before is not None and await self._registry.get_task(client, text) is not None)
        return _page(of_task) if is_task else None

    async def _search(self, look: Callable[[int | None], Awaitable[Looked[T]]], before: int | None) -> _Listed:
        rows: list[T] = []
        until = self._clock.monotonic() + _SEARCH_S
        while True:
            part = await look(before)
            rows += part.found
            before = part.before
            if len(rows) > _ROWS:
                return _page(rows)
            if before is None or self._clock.monotonic() >= until:
                return _Listed(rows, before, ended=before is None)

    async def _shown(self, name: str, asked: Asked, found: _Listed, more: dict[str, Any]) -> Shown:
        kept = {key: asked.query[key] for key in ("q", "state", "upstream", "client") if asked.query.get(key)}
        upstreams = [one.name for one in self._parts.upstreams()]
        cursor = None if found.before is None else (await self._cursors()).dumps(found.before)
        context = {
            "rows": found.rows,
            "cursor": cursor,
            "ended": found.ended,
            "first": "before" not in asked.query,
            "kept": kept,
            "upstreams": upstreams,
            "host": host_of(kept.get("q", "")),
            **more,
        }
        return Shown(f"{name}.html", name, context)

    def _client(self, asked: Asked) -> str | None:
        """Return whose are shown: a client's own, and to the operator everybody's or one client's."""
        own = asked.visitor.client
        return text_of(asked.query, "client") if own is None else own

    async def _before(self, asked: Asked) -> int | None:
        text = asked.query.get("before")
        if not text:
            return None
        try:
            seq = (await self._cursors()).loads(text)
        except BadSignature as error:
            without_frames(error)  # one of them keeps it
            seq = None
        if not isinstance(seq, int):
            raise InvalidRequest("This link is too old: go on from the first page of the list.")
        return seq

    async def _cursors(self) -> URLSafeSerializer:
        # itsdangerous' defaults are SHA-1 and a plain concatenation: name better ones.
        return URLSafeSerializer(
            await self._registry.secret_key(),
            salt="dashboard-cursor",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )


def _page(rows: list[T]) -> _Listed:
    """Return a page of rows, of which there is one more than it shows where there is a next one."""
    return _Listed(rows[:_ROWS], rows[_ROWS - 1].seq if len(rows) > _ROWS else None, ended=True)
