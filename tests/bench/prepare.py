"""Databases made beforehand, through the gateway's own store: faster than through a gateway, and the same rows.

Owns what stands in them. The file is complete when a function returns: its write-ahead log is in it.
"""

import asyncio
import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import uvloop

from gateway.config.profile import Profile
from gateway.config.profilefile import config_dir, read_profiles
from gateway.config.settings import DEFAULT_CLIENT, DEFAULT_UPSTREAM
from gateway.core.ids import new_callback_id
from gateway.core.model import NewCallback, Outcome, Settlement
from gateway.store.sqlite.store import SqliteStore
from gateway.upstream.answer import read_answer

CHUNK = 1000
WEEK_S = 7 * 86_400
ANSWER = (Path(__file__).parents[1] / "fixtures" / "aigptimage" / "success.json").read_bytes()


def backlog(database: Path, count: int, receiver_urls: Sequence[str]) -> None:
    """Make ``count`` tasks that have succeeded and whose webhooks are owed, to the receivers in turn."""
    uvloop.run(_backlog(database, count, receiver_urls))


def watched(database: Path, count: int) -> None:
    """Make ``count`` tasks that never end, the upstream of ``sides.py`` says, each due for its first poll."""
    uvloop.run(_watched(database, count))


def copy(database: Path, to: Path) -> None:
    """Copy a database that nobody has open, and wait for the disk: nobody is to be delayed by it later."""
    shutil.copyfile(database, to)
    with to.open("rb") as file:
        os.fsync(file.fileno())


async def _backlog(database: Path, count: int, receiver_urls: Sequence[str]) -> None:
    profile = read_profiles([config_dir() / "upstreams"])[0][DEFAULT_UPSTREAM]
    store = SqliteStore(database)
    await store.open()
    for first in range(0, count, CHUNK):
        new = [
            _callback(f"task-{n}", f"{receiver_urls[n % len(receiver_urls)]}/hook")
            for n in range(first, min(first + CHUNK, count))
        ]
        registered = [registration.callback.task for registration in await store.registry.register(new)]
        settlements = [
            Settlement(
                seq=task.seq,
                upstream=task.upstream,
                outcome=_outcome(profile, task.task_id),
                settled_at=task.created_at,
                polls=1,
            )
            for task in registered
        ]
        await asyncio.gather(*map(store.tasks.settle, settlements))  # together, so that they share transactions
    await store.close()


async def _watched(database: Path, count: int) -> None:
    store = SqliteStore(database)
    await store.open()
    for first in range(0, count, CHUNK):
        await store.registry.register(
            [
                _callback(f"run-{uuid.uuid4()}", f"https://app.example.com/hooks/{n}", b'{"orderId":7}')
                for n in range(first, min(first + CHUNK, count))
            ]
        )
    await store.close()


def _callback(task_id: str, url: str, metadata: bytes = b"{}") -> NewCallback:
    now = int(time.time() * 1000)
    return NewCallback(
        id=new_callback_id(now),
        client=DEFAULT_CLIENT,
        upstream=DEFAULT_UPSTREAM,
        task_id=task_id,
        url=url,
        metadata=metadata,
        timeout_s=WEEK_S,
        created_at=now,
        first_poll_at=now,
    )


def _outcome(profile: Profile, task_id: str) -> Outcome:
    told_id = json.loads(ANSWER)["data"]["taskId"].encode()
    outcome = read_answer(profile, task_id, 200, None, ANSWER.replace(told_id, task_id.encode())).outcome
    assert outcome is not None
    return outcome
