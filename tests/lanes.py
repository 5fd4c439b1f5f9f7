"""Webhooks: on lanes of a test's own for what needs no store, and claimed from one."""

import asyncio
from itertools import count

from gateway.core.claims import DueCallback, Lane, Share
from gateway.store import Store
from gateway.webhook.body import webhook_body
from gateway.webhook.bulkhead import Bulkhead
from tests.nouns import due_webhook

__all__ = ["A", "B", "C", "begin", "body_sent", "claim_webhooks", "end_one", "fill", "lane", "webhook", "well"]

_seqs = count(-1, -1)  # none that a store gives


def lane(name: str, client: str = "ann") -> Lane:
    return Lane(client, f"https://{name}.example.com")


def webhook(on: Lane, *, retry: bool = False) -> DueCallback:
    seq = next(_seqs)
    return due_webhook(
        seq=seq,
        id=f"cb_{seq}",
        client=on.client,
        url=on.receiver,
        receiver=on.receiver,
        attempts=int(retry),
        budget_used=int(retry),
    )


A, B, C = lane("a"), lane("b", "bob"), lane("c", "cid")


def fill(bulkhead: Bulkhead, on: Lane, *, retry: bool = False) -> list[DueCallback]:
    """Take places until one is refused; return whose they are."""
    taken: list[DueCallback] = []
    while bulkhead.admit(one := webhook(on, retry=retry)):
        taken.append(one)
        assert len(taken) <= 1000
    return taken


def begin(bulkhead: Bulkhead, *, each_has: int = 1000) -> list[DueCallback]:
    """Let begin what is given a share, of lanes that have so many webhooks; those that have more wait again."""
    begun = []
    for share in bulkhead.shares(1000):
        webhooks = [webhook(share.lane) for _ in range(min(share.room, each_has))]
        begun += [one for one in webhooks if bulkhead.admit(one)]
        if each_has > share.room:
            bulkhead.wait(share.lane)
    return begun


def well(bulkhead: Bulkhead, *lanes: Lane) -> None:
    """Let a webhook of each be delivered."""
    for on in lanes:
        end_one(bulkhead, on, delivered=True)


def end_one(bulkhead: Bulkhead, on: Lane, *, delivered: bool | None) -> None:
    """Let an attempt begin, be sent and end."""
    one = webhook(on)
    assert bulkhead.admit(one)
    bulkhead.sends(one)
    bulkhead.ended(one, delivered=delivered)


async def claim_webhooks(store: Store, now: int, limit: int) -> tuple[list[DueCallback], int | None]:
    """Claim due webhooks, of each lane as many as of another; also return when there is more."""

    def choose(lanes: list[Lane]) -> list[Share]:
        rooms = [max(1, limit // len(lanes)) if place < limit else 0 for place in range(len(lanes))]
        return [Share(*one, retries=True) for one in zip(lanes, rooms, strict=True)]

    await asyncio.sleep(0)  # where nothing is due nobody is waited for
    claimed = await store.outbox.claim(choose, now)
    return claimed.webhooks, claimed.next_due_at


async def told_of(store: Store, now: int) -> list[Lane]:
    """Return the lanes that are told of, and claim nothing."""
    lanes: list[Lane] = []

    def choose(due: list[Lane]) -> list[Share]:
        lanes.extend(due)
        return []

    await store.outbox.claim(choose, now)
    return lanes


def body_sent(claim: DueCallback) -> bytes:
    """Return the body that came with a claim, as it is sent."""
    assert claim.body is not None
    return webhook_body(claim.id, claim.body)
