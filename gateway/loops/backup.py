"""Copies the database while the gateway runs, whenever it is told to.

Owns where a backup stands and that one is made at a time; how it is copied is for the store to say. Told by the wiring,
on SIGUSR1: nobody else can read a file that the gateway holds.
"""

import asyncio
from pathlib import Path

import structlog

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.store import Housekeeping

__all__ = ["Backups"]

_log = structlog.get_logger()


class Backups:
    """Makes backups beside the database, the next one in the place of the last."""

    def __init__(self, housekeeping: Housekeeping, clock: Clock, path: Path) -> None:
        self._housekeeping = housekeeping
        self._clock = clock
        self._path = path
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin a backup, where none is being made."""
        if self._task is not None and not self._task.done():
            _log.warning("backup.refused", reason="one is being made")
            return
        self._task = asyncio.create_task(self._make(), name="backup")

    async def stop(self) -> None:
        """Give up the one that is being made; the last one stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make(self) -> None:
        started = self._clock.monotonic()
        _log.info("backup.started", path=str(self._path))
        try:
            size = await self._housekeeping.backup(self._path)
        except StoreError as exc:
            _log.error("backup.failed", path=str(self._path), error=exc.message)
        else:
            took_s = round(self._clock.monotonic() - started, 3)
            _log.info("backup.finished", path=str(self._path), bytes=size, took_s=took_s)
