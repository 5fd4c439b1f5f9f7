"""A backup's file beside the database's thread: made durable, checked, and put in the place of what was there.

Owns that its parts run in threads of their own, which a caller that is cancelled waits for. Called by ``database``.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from gateway.store.sqlite import databasefile

__all__ = ["check", "in_thread", "put_in_place", "sync"]

T = TypeVar("T")

_GIVE_UP_AGAIN_S = 0.05


async def in_thread(work: Callable[..., T], *args: Any, give_up: Callable[[], None] | None = None) -> T:
    """Run ``work`` in a thread. A caller that is cancelled calls ``give_up`` until it has ended, and waits for that."""
    running = asyncio.get_running_loop().run_in_executor(None, work, *args)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            if give_up is not None:
                give_up()
            with suppress(asyncio.CancelledError):  # what the thread uses must not be closed under it
                await asyncio.wait((running,), timeout=_GIVE_UP_AGAIN_S)
        running.exception()  # nobody else takes it
        raise


async def check(part: Path) -> None:
    """Look through a copy. Raises sqlite3.DatabaseError: it is damaged."""
    with closing(sqlite3.connect(part, check_same_thread=False)) as db:
        # A check of many gigabytes must not hold up the shutdown. Interrupting does nothing before it has begun.
        ((found,),) = await in_thread(lambda: db.execute(databasefile.QUICK_CHECK).fetchall(), give_up=db.interrupt)
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged, and so may be the database: {' '.join(found.split())}")


def put_in_place(part: Path, target: Path) -> int:
    """Give a copy that is durable its name, durably; return its size in bytes. Raises OSError."""
    sync(part)
    size = part.stat().st_size
    part.replace(target)
    sync(target.parent)
    return size


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk. Raises OSError."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
