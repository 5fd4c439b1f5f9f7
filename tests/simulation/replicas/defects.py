"""Defects put into the gateway on purpose: what the laws would not notice of these, they would not notice at all.

Each takes away one of the things that keep replicas apart, and nothing else.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from gateway.app import build
from gateway.core.eventledger import Ledger, WaitingEvent
from gateway.store import Store
from gateway.store.engine import Lead, Work
from gateway.store.postgres import deliversql, sql, webhookleases
from gateway.store.postgres.engine import PostgresEngine
from gateway.store.postgres.webhookleases import WebhookLeases

__all__ = ["DEFECTS"]


@contextmanager
def _no_fence() -> Iterator[None]:
    """Whoever has once claimed a webhook records what became of it, whoever has claimed it since."""
    with ExitStack() as stack:
        for module, name in (
            (deliversql, "INSERT_ATTEMPTS"),
            (deliversql, "RECORD_ATTEMPTS"),
            (deliversql, "RECORD_UNFENCED"),
            (deliversql, "COUNT_ATTEMPTS"),
            (webhookleases, "RELEASE_WEBHOOKS"),
        ):
            statement: str = getattr(module, name)
            changed = re.sub(r"AND ((?:callbacks\.)?fence) = (?:made|given)\.fence", r"AND \1 >= 0", statement)
            assert changed != statement
            stack.enter_context(mock.patch.object(module, name, changed))
        yield


@contextmanager
def _no_epoch() -> Iterator[None]:
    """A leader's writes count for ever."""

    def guard(engine: PostgresEngine, leads: Collection[Lead], lock: Sequence[int] = ()) -> Work[Collection[Lead]]:
        yield from engine.lock(lock)
        return leads

    with mock.patch.object(PostgresEngine, "guard", guard):
        yield


@contextmanager
def _short_lease() -> Iterator[None]:
    """A claim lapses while its attempt is made."""
    with mock.patch.object(webhookleases, "_RECORDED_S", -webhookleases._BEGUN_S - 4.0):
        yield


@contextmanager
def _late_start() -> Iterator[None]:
    """An attempt begins however long ago its webhook was claimed."""
    with mock.patch.object(WebhookLeases, "holds", return_value=True):
        yield


@contextmanager
def _own_budgets() -> Iterator[None]:
    """Each replica counts its own requests alone."""
    kept = build._kept

    def its_own(name: str, store: Store) -> Any:
        return kept(f"{name} {id(store)}" if name.startswith(("queries", "creates")) else name, store)

    with mock.patch.object(build, "_kept", its_own):
        yield


@contextmanager
def _anybodys_event() -> Iterator[None]:
    """An event that one tells is another's to tell as well."""
    claim = Ledger.claim

    def unclaimed(ledger: Ledger, now: int, lease_ms: int, **about: Any) -> WaitingEvent | None:
        return claim(ledger, now, 0, **about)

    with mock.patch.object(Ledger, "claim", unclaimed):
        yield


@contextmanager
def _overwritten_events() -> Iterator[None]:
    """What is to be told takes the place of what another has noted meanwhile."""
    changed = sql.SWAP_META.replace("value = $3", "CAST($3 AS bytea) IS NOT NULL")
    assert changed != sql.SWAP_META
    with mock.patch.object(sql, "SWAP_META", changed):
        yield


DEFECTS: dict[str, Callable[[], Any]] = {
    "no fence": _no_fence,
    "no epoch": _no_epoch,
    "a lease shorter than the attempt": _short_lease,
    "a start after the lease": _late_start,
    "a budget of its own": _own_budgets,
    "an event that is anybody's": _anybodys_event,
    "an event that is overwritten": _overwritten_events,
}
