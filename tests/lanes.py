"""Webhooks on lanes of a test's own, for what needs no store."""

from itertools import count

from gateway.core.model import DueCallback, Lane
from gateway.webhook.bulkhead import Bulkhead

__all__ = ["end_one", "fill", "lane", "webhook", "well"]

_seqs = count(-1, -1)  # none that a store gives


def lane(name: str, client: str = "ann") -> Lane:
    return Lane(client, f"https://{name}.example.com")


def webhook(on: Lane, *, retry: bool = False) -> DueCallback:
    seq = next(_seqs)
    return DueCallback(
        seq=seq,
        id=f"cb_{seq}",
        task_id="t",
        client=on.client,
        url=on.receiver,
        receiver=on.receiver,
        body=b"{}",
        body_bytes=2,
        attempts=int(retry),
        budget_used=int(retry),
        redeliveries=0,
        due_at=0,
    )


def fill(bulkhead: Bulkhead, on: Lane, *, retry: bool = False) -> list[DueCallback]:
    """Take places until one is refused; return whose they are."""
    taken: list[DueCallback] = []
    while bulkhead.admit(one := webhook(on, retry=retry)):
        taken.append(one)
        assert len(taken) <= 1000
    return taken


def well(bulkhead: Bulkhead, *lanes: Lane) -> None:
    """Let a webhook of each be delivered."""
    for on in lanes:
        end_one(bulkhead, on, delivered=True)


def end_one(bulkhead: Bulkhead, on: Lane, *, delivered: bool | None) -> None:
    """Let an attempt begin and end."""
    one = webhook(on)
    assert bulkhead.admit(one)
    bulkhead.ended(one, delivered=delivered)
