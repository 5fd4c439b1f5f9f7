"""Defects put into the proxy on purpose: laws on reads and creates that did not notice these would notice nothing.

Each takes away one thing that keeps a read from going back, or a create from being paid for twice.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from gateway.api import creating
from gateway.core.model import PollRecord
from gateway.core.reads import ReadTask
from gateway.loops import pollresults
from gateway.store.registry import StoreRegistry
from gateway.upstream.lastanswers import LastAnswers
from tests.life import PROFILE
from tests.simulation import play

__all__ = ["DEFECTS"]


@contextmanager
def _any_order() -> Iterator[None]:
    """Of two answers about a task the one counts that comes last, whichever was asked for first."""
    keep = LastAnswers.keep

    def keep_all(self: LastAnswers, task_id: str, record: bytes | None, _: float, *, ended: bool = False) -> bool:
        return keep(self, task_id, record, float("inf"), ended=ended)

    with (
        mock.patch.object(LastAnswers, "keep", keep_all),
        mock.patch.object(pollresults, "PollRecord", lambda **about: PollRecord(**about | {"asked_at": None})),
    ):
        yield


def _cached() -> AbstractContextManager[Any]:
    """What was once stored of a task for its readers is told for ever."""
    ask = StoreRegistry.proxied_task
    known: dict[str, ReadTask] = {}

    async def once(self: StoreRegistry, upstream: str, task_id: str) -> ReadTask | None:
        if task_id in known:
            return known[task_id]
        found = await ask(self, upstream, task_id)
        if found is not None and found.record_bytes:
            known[task_id] = found
        return found

    return mock.patch.object(StoreRegistry, "proxied_task", once)


def _new_ids() -> AbstractContextManager[Any]:
    """The upstream sees another X-Request-ID with each try."""
    return mock.patch.object(creating, "_upstream_request_id", side_effect=lambda *_: secrets.token_hex(16))


def _trusting() -> AbstractContextManager[Any]:
    """An upstream that knows no X-Request-ID is sent a create again."""
    return mock.patch.object(play, "FORGETS", PROFILE)


DEFECTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "answers in any order": _any_order,
    "a read that is remembered": _cached,
    "another id for each try": _new_ids,
    "a create sent again in the dark": _trusting,
}
