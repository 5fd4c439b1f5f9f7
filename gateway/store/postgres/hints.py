"""What replicas tell one another of what they have written, so that nobody need look for it.

Owns NOTIFY and LISTEN, on one channel, and when to look all the same: a hint may be lost, and behind a pooler that
hands out its servers by the transaction none arrives. What is told is gathered for a moment. Built by ``store.py``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import structlog

from gateway.core.claims import Lane
from gateway.core.errors import StoreError
from gateway.store.postgres.database import PostgresDatabase

_log = structlog.get_logger()

_CHANNEL = "gateway"
_GATHER_S = 0.05
_MOST_BYTES = 7000  # of one message: PostgreSQL takes 8,000
_SETTLED_AT_ONCE = 200  # in one part of a message
_MOST_MESSAGES = 8  # at once: more of them say only that there is much to look for
_LOOK_S, _LOOK_UNTOLD_S = 5.0, 1.0
_AGAIN_S = 1.0
_POOLED_S = 60.0  # until it is looked whether a pooler is in between still
_LOOK_PART = 50
"""A look that takes long is had so many times more seldom: with 100,000 receivers it takes a second."""


class Hearing(msgspec.Struct, frozen=True):
    """What is done with what others tell."""

    task: Callable[[str, str, int], None]
    expiry: Callable[[str, int], None]
    lane: Callable[[Lane, int], None]
    settled: Callable[[int], None]
    freed: Callable[[], None]
    look: Callable[[], Awaitable[None]]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    by: str
    told: list[Any]


class ReplicaHints:
    """``gateway.store.engine.Hints`` for the other replicas, and theirs for this one."""

    def __init__(self, database: PostgresDatabase, replica: str) -> None:
        self._database = database
        self._replica = replica
        self._tasks: dict[tuple[str, str], int] = {}
        self._expiries: dict[str, int] = {}
        self._lanes: dict[Lane, int] = {}
        self._settled: list[int] = []
        self._freed = False
        self._tell = asyncio.Event()
        self._look = asyncio.Event()
        self._listening = False
        self._look_took_s = 0.0
        self._running: list[asyncio.Task[None]] = []
        self.alone = False
        """Whether no other replica lives, as far as is known: then nothing is told."""

    def tasks(self, upstream: str, watchers: str, due_at: int) -> None:
        key = upstream, watchers
        self._tasks[key] = min(due_at, self._tasks.get(key, due_at))
        self._tell.set()

    def expiries(self, upstream: str, expires_at: int) -> None:
        self._expiries[upstream] = min(expires_at, self._expiries.get(upstream, expires_at))
        self._tell.set()

    def lane(self, lane: Lane, due_at: int) -> None:
        self._lanes[lane] = min(due_at, self._lanes.get(lane, due_at))
        self._tell.set()

    def emptied(self, lane: Lane) -> None:
        self._lanes.pop(lane, None)

    def settled(self, seqs: Iterable[int]) -> None:
        self._settled += seqs
        self._tell.set()

    def freed(self) -> None:
        """Tell that something is led no longer."""
        self._freed = True
        self._tell.set()

    def start(self, hearing: Hearing) -> None:
        """Tell, hear and look until it is closed."""
        self._running = [
            asyncio.create_task(_forever(self._tell_once), name="store-hints"),
            asyncio.create_task(_forever(partial(self._hear_until_lost, hearing)), name="store-listen"),
            asyncio.create_task(_forever(partial(self._look_once, hearing.look)), name="store-look"),
        ]

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        await self._send()  # that a lead is free, above all

    async def _tell_once(self) -> None:
        await self._tell.wait()
        await asyncio.sleep(_GATHER_S)
        self._tell.clear()
        await self._send()

    async def _send(self) -> None:
        messages = list(self._messages())
        if self.alone:
            return
        if len(messages) > _MOST_MESSAGES:
            messages = [_encoded(self._replica, [])]
        with suppress(StoreError):  # they look
            for message in messages:
                await self._database.write("SELECT pg_notify($1, $2)", (_CHANNEL, message))

    def _messages(self) -> Iterator[str]:
        told: list[Any] = [["t", *key, at] for key, at in self._tasks.items()]
        told += [["e", upstream, at] for upstream, at in self._expiries.items()]
        told += [["l", *lane, at] for lane, at in self._lanes.items()]
        parts = range(0, len(self._settled), _SETTLED_AT_ONCE)
        told += [["s", *self._settled[first : first + _SETTLED_AT_ONCE]] for first in parts]
        told += [["f"]] if self._freed else []
        self._tasks, self._expiries, self._lanes, self._settled, self._freed = {}, {}, {}, [], False
        part: list[Any] = []
        size = 0
        for one in told:
            its_size = len(msgspec.json.encode(one)) + 1
            if part and size + its_size > _MOST_BYTES:
                yield _encoded(self._replica, part)
                part, size = [], 0
            part.append(one)
            size += its_size
        if part:
            yield _encoded(self._replica, part)

    async def _hear_until_lost(self, hearing: Hearing) -> None:
        session = await self._database.dedicated()
        lost = asyncio.Event()

        def hear(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            self._hear(hearing, payload)

        try:
            if session.server.pooled:
                await asyncio.sleep(_POOLED_S)
                return
            session.raw.add_termination_listener(lambda _: lost.set())
            await session.listen(_CHANNEL, hear)
            self._listening = True
            self._look.set()  # for what was told before
            await lost.wait()
            raise StoreError("The connection that others are heard on is lost.")
        finally:
            session.drop()
            self._listening = False
            self._look.set()  # for what is told meanwhile

    def _hear(self, hearing: Hearing, payload: str) -> None:
        try:
            message = msgspec.json.decode(payload, type=_Message)
            if message.by == self._replica:
                return
            if not message.told:
                self._look.set()
            for kind, *about in message.told:
                match kind:
                    case "t":
                        hearing.task(*about)
                    case "e":
                        hearing.expiry(*about)
                    case "l":
                        hearing.lane(Lane(*about[:2]), about[2])
                    case "s":
                        for seq in about:
                            hearing.settled(seq)
                    case "f":
                        hearing.freed()
        except (msgspec.MsgspecError, TypeError, ValueError, IndexError):
            self._look.set()  # another release's, or somebody else's

    async def _look_once(self, look: Callable[[], Awaitable[None]]) -> None:
        wait_s = max(_LOOK_S if self._listening else _LOOK_UNTOLD_S, _LOOK_PART * self._look_took_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._look.wait()
        self._look.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await look()
        except BaseException:
            self._look.set()
            raise
        self._look_took_s = loop.time() - began


async def _forever(once: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await once()
        except StoreError:  # which the store tells of itself
            await asyncio.sleep(_AGAIN_S)
        except Exception:  # noqa: BLE001 - a defect, and the rest goes on
            _log.exception("store.hints_failed")
            await asyncio.sleep(_AGAIN_S)


def _encoded(replica: str, told: list[Any]) -> str:
    return msgspec.json.encode(_Message(replica, told)).decode()
