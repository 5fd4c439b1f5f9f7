"""Requests in places of a budget, as tests send them."""

from gateway.upstream.budget import Budget
from gateway.upstream.turns import Waiter

__all__ = ["answered"]


def answered(budget: Budget, waiter: Waiter | None = None) -> None:
    """Send a request in a place that was taken, and have it answered at once."""
    with budget.sending(waiter):
        pass
