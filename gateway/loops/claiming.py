"""What is due → what there are places for.

Owns that a webhook which finds no place goes back, and where to. Called by the deliverer, in each of its rounds.
"""

import asyncio

from gateway.core.claims import DueCallback, Lane, Share
from gateway.core.errors import StoreError
from gateway.store import Outbox
from gateway.webhook.bulkhead import Bulkhead

_STORE_PAUSE_S = 1.0


async def claim_due(outbox: Outbox, bulkhead: Bulkhead, now: int, limit: int) -> tuple[list[DueCallback], int | None]:
    """Claim what there are places for, ``limit`` at most; also return when there is more, though no attempt ends."""
    shares: list[Share] = []

    def choose(due: list[Lane]) -> list[Share]:
        for lane in due:
            bulkhead.wait(lane)
        shares.extend(bulkhead.shares(limit))
        return shares

    found, only_retries, next_due_at = await outbox.claim(choose, now)
    for lane in only_retries:
        bulkhead.wait_for_retries(lane)
    claims: list[DueCallback] = []
    refused: list[DueCallback] = []
    misplaced: list[tuple[DueCallback, str]] = []
    for one in found:
        if bulkhead.admit(one):
            claims.append(one)
        elif (receiver := bulkhead.misplaced(one)) is not None:
            misplaced.append((one, receiver))
        else:
            refused.append(one)
    if refused:  # their places have gone to others meanwhile
        await outbox.release(refused)
    if misplaced:  # else whatever is due behind them on their lane would wait for their table
        await _hand_over(outbox, misplaced)
    # Others may have the places that these had no webhooks for.
    more = bulkhead.in_line and len(claims) < sum(share.room for share in shares)
    return claims, now if more or refused or misplaced else next_due_at


async def _hand_over(outbox: Outbox, misplaced: list[tuple[DueCallback, str]]) -> None:
    """Put webhooks on the lanes of the tables that they go by, which came after they were registered."""
    try:
        await outbox.hand_over(misplaced)
    except StoreError:  # which tells of it itself; what was claimed beside them is to be sent
        await asyncio.sleep(_STORE_PAUSE_S)  # they would be claimed again at once
