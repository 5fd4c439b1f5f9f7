"""``python -m tests.crash.killable POINT:N serve``: the gateway's commands, dying at the N-th passage of POINT.

Owns where the named points are. The product knows nothing of this: one function is wrapped from outside, and then the
ordinary command line runs. The points are of single moments that a kill from outside would hardly ever meet:

- ``registered``: a registration is committed, its answer not sent
- ``polled``: the upstream's last word on a task was read, and is not stored
- ``settled``: a task's end and the webhooks owed for it are committed, none of them is sent
- ``answered``: a receiver's 2xx was read, and is not recorded
- ``uncommitted``: a transaction has written, to the disk as well, and is not committed
- ``recorded``: an attempt's record is committed, and nobody was told
- ``begun``: it is committed that a create is forwarded, and it is not sent
- ``created``: the upstream's answer to a create was read, and is not stored
- ``kept``: that answer and the callback it brought are committed, the client has none and its webhook is not sent
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from gateway.cli import commands as cli
from gateway.store.outbox import StoreOutbox
from gateway.store.registry import StoreRegistry
from gateway.store.sqlite import database
from gateway.store.tasks import StoreTasks
from gateway.upstream.api import Upstream
from gateway.webhook.sender import Sender, SendResult


class Bomb:
    """Counts passages; the ``nth`` is the last thing that this process does."""

    def __init__(self, point: str, nth: int) -> None:
        self._line = f'{{"event": "crash.killed", "point": "{point}", "nth": {nth}}}\n'.encode()
        self._left = nth

    def passed(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.write(sys.stdout.fileno(), self._line)
            os.kill(os.getpid(), signal.SIGKILL)


def after(owner: Any, name: str, bomb: Bomb, counts: Callable[[Any], bool] = lambda _: True) -> None:
    """Pass the bomb when the coroutine method has returned, where its result is one that counts."""
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        if counts(result):
            bomb.passed()
        return result

    setattr(owner, name, wrapped)


def before_commit(bomb: Bomb) -> None:
    """Pass the bomb within each transaction that changed something, in the database's thread."""
    original = database._transaction

    def transaction(db: Any, work: Callable[[Any], Any]) -> Any:
        def worked(connection: Any) -> Any:
            changes = connection.total_changes
            # As one too large for memory would do: its pages are in the file before the commit.
            connection.execute("PRAGMA cache_size = 1")
            result = work(connection)
            if connection.total_changes > changes:
                bomb.passed()
            return result

        return original(db, worked)

    database._transaction = transaction


def arm(point: str, nth: int) -> None:
    """Wrap the one function at that point."""
    bomb = Bomb(point, nth)
    match point:
        case "registered":
            after(StoreRegistry, "register", bomb)
        case "polled":
            after(Upstream, "poll", bomb, lambda result: result.outcome is not None)
        case "settled":
            after(StoreTasks, "settle", bomb)
        case "answered":
            after(Sender, "send", bomb, _taken)
        case "uncommitted":
            before_commit(bomb)
        case "recorded":
            after(StoreOutbox, "record", bomb)
        case "begun":
            after(StoreRegistry, "begin_create", bomb)
        case "created":
            after(Upstream, "read_created", bomb)
        case "kept":
            after(StoreRegistry, "end_create", bomb)
        case _:
            raise SystemExit(f"no such point: {point}")


def _taken(result: SendResult) -> bool:
    return result.reason is None


if __name__ == "__main__":
    name, _, count = sys.argv.pop(1).partition(":")
    arm(name, int(count or 1))
    cli.main()
