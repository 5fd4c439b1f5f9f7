"""Removes what is of no more use: old callbacks and their tasks, old creates, what was read. Looks after the store,
and backs it up.

Owns when, where a backup stands, and that one is made at a time; the store owns how. Of several replicas one deletes
at a time. The janitor is run by the supervisor. Backups are told by the wiring, on SIGUSR1: nobody else can read a file
that the gateway holds.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

import structlog

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import Housekeeping

_log = structlog.get_logger()

_EVERY_S = 600.0
_BATCH = 500
_DAY_MS = 86_400_000
_CREATES_MS = _DAY_MS
"""How long a create can be repeated without being paid for twice, as the manual says."""
_CREATES = 50_000  # of each client: of the largest answers that are kept, 800 MB
_READS_EVERY_S = 60.0
_READ_KEPT_MS = 450_000
"""For so long what the proxy's readers waited for is kept after they have gone: with the minute and a half for which a
task is watched without a read, by default, and the minute between two looks, it is gone ten minutes after the last."""
_LEASE_S = 3 * HEARTBEAT_S
_DEAD_FACTOR = 3  # dead letters are kept three times as long: somebody may yet redeliver them


class Janitor:
    """The loop that deletes."""

    name = "janitor"

    def __init__(self, housekeeping: Housekeeping, clock: Clock, retention_days: float) -> None:
        self._housekeeping = housekeeping
        self._clock = clock
        self._retention_ms = round(retention_days * _DAY_MS)
        self._next = self._next_reads = clock.monotonic()

    async def run_once(self) -> float:
        """Delete a batch of each kind, if it is time; return the seconds until the next one."""
        await self._housekeeping.look()
        if self._housekeeping.failing is not None:
            # Nobody else may write while the gateway is not ready: find out whether it works again.
            await self._housekeeping.probe()
            await self._housekeeping.load("probe")
        if await self._housekeeping.lead(self.name, _LEASE_S) is None:
            return HEARTBEAT_S  # another replica does
        return min(await self._prune_reads(), await self._prune_callbacks())

    async def _prune_reads(self) -> float:
        if self._clock.monotonic() < self._next_reads:
            return HEARTBEAT_S
        now = self._clock.now()
        if await self._housekeeping.prune_reads(now, now - _READ_KEPT_MS, _BATCH) == _BATCH:
            return 0.0
        self._next_reads = self._clock.monotonic() + _READS_EVERY_S
        return HEARTBEAT_S

    async def _prune_callbacks(self) -> float:
        if self._clock.monotonic() < self._next:
            return HEARTBEAT_S
        now = self._clock.now()
        count = await self._housekeeping.prune(
            now - self._retention_ms, now - _DEAD_FACTOR * self._retention_ms, _BATCH
        )
        if count:
            _log.info("callbacks.pruned", count=count)
        creates = await self._housekeeping.prune_creates(now - _CREATES_MS, _CREATES, _BATCH)
        if max(count, creates) == _BATCH:
            return 0.0
        self._next = self._clock.monotonic() + _EVERY_S
        return HEARTBEAT_S

    async def wait(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Let another replica go on; nothing is in flight between two batches."""
        with suppress(StoreError):  # then it does once the lease is over
            await self._housekeeping.resign(self.name)


class Backups:
    """Makes backups beside the database, the next one in the place of the last."""

    def __init__(self, housekeeping: Housekeeping, clock: Clock, path: Path | None) -> None:
        """``path``: where one stands; None: the database is a server's, and has backups of its own."""
        self._housekeeping = housekeeping
        self._clock = clock
        self._path = path
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin a backup, where none is being made."""
        if self._path is None:
            _log.warning("backup.refused", reason="back PostgreSQL up itself, with pg_dump or its server's archive")
            return
        if self._task is not None and not self._task.done():
            _log.warning("backup.refused", reason="one is being made")
            return
        self._task = asyncio.create_task(self._make(self._path), name="backup")

    async def stop(self) -> None:
        """Give up the one that is being made; the last one stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make(self, path: Path) -> None:
        started = self._clock.monotonic()
        _log.info("backup.started", path=str(path))
        try:
            size = await self._housekeeping.backup(path)
        except StoreError as exc:
            _log.error("backup.failed", path=str(path), error=exc.message)
        else:
            took_s = round(self._clock.monotonic() - started, 3)
            _log.info("backup.finished", path=str(path), bytes=size, took_s=took_s)
