"""The share of a request's client: what of the database's work, and of a batch, is its turn.

Owns how large the pieces are in which a batch is written. ``gateway.core.shares`` has the shares.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from starlette.requests import Request

from gateway.core.shares import WHOLE, Shares

T = TypeVar("T")

_TOGETHER = 512
"""Rows of a batch that are written at once while no other client has just wanted anything: in one transaction they take
a quarter of the time that they take one by one. A client's share has room for two such pieces: with one the database
waits for the next, and batches were a third slower."""

_TOGETHER_BESIDE = 32
"""… beside others, each of whose writes waits for one such piece at least: two milliseconds or so."""


def note(request: Request) -> None:
    """Count a request's client among those who want something, where it waits for no room."""
    _shares(request).note(request.scope["client_name"])


def share(request: Request, cost: int) -> AbstractAsyncContextManager[None]:
    """Wait for room in the share of a request's client."""
    return _shares(request).of(request.scope["client_name"], cost)


def piece(request: Request) -> int:
    """Return how much of a batch is written together, now, in small rows."""
    return _TOGETHER_BESIDE if _is_beside_others(request) else _TOGETHER


def share_for_piece(request: Request, weight: int) -> AbstractAsyncContextManager[None]:
    """Wait for room for a piece of a batch: beside others for all of the share, so that one is written at a time."""
    if _is_beside_others(request):
        return share(request, weight * _shares(request).size // _TOGETHER_BESIDE)
    return share(request, weight * WHOLE // (2 * _TOGETHER))


def _is_beside_others(request: Request) -> bool:
    return _shares(request).beside(request.scope["client_name"])


def _shares(request: Request) -> Shares:
    shares: Shares = request.app.state.shares
    return shares


def paced(request: Request, items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate over what a batch has, and let others go on in between."""
    return _shares(request).paced(request.scope["client_name"], items)
