"""An event ledger that things happen to, and that is emptied in virtual time; for its tests."""

from collections.abc import Iterable

from gateway.core.claims import Lane
from gateway.core.eventledger import RECEIVER_FAILING, RECEIVER_RECOVERED, Died, Ledger, WaitingEvent

__all__ = ["LEASE_MS", "NOW", "S", "about", "died", "fails", "recovers", "told"]

S = 1000
NOW = 1_777_460_000_000
LEASE_MS = 30 * S


def about(name: str = "a") -> dict[str, str]:
    return {"client": "ann", "receiver": f"https://{name}.example.com"}


def died(ids: Iterable[int], name: str = "a", at: int = NOW) -> list[Died]:
    return [Died(f"cb_{one}", Lane(**about(name)), f"error {one}", at) for one in ids]


def fails(ledger: Ledger, at: int, name: str = "a") -> None:
    ledger.fails(RECEIVER_FAILING, about(name), {"count": 1, "lastError": "no"}, at)


def recovers(ledger: Ledger, at: int, name: str = "a") -> None:
    ledger.recovers(RECEIVER_RECOVERED, about(name), {}, at)


def told(ledger: Ledger, until: int, since: int = NOW) -> list[tuple[str, int, WaitingEvent]]:
    """Send what falls due until then, each the moment it is; return type, seconds since ``since`` and event."""
    sent = []
    while (due_at := ledger.next_due_at) is not None and due_at <= until:
        event = ledger.claim(max(due_at, since), LEASE_MS)
        assert event is not None
        sent.append((event.type, (due_at - since) // S, event))
        ledger.ended(event.id, due_at, None)
    return sent
