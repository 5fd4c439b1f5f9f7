"""What the deliverer claims: of a real store, what the bulkhead has places for."""

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from gateway.core.claims import AttemptRecord, DueCallback, Lane, Share
from gateway.core.errors import StoreError
from gateway.core.model import Attempt, AttemptResult, Callback, Outcome, Settlement, TaskState
from gateway.loops.claiming import claim_due
from gateway.store.sqlite.store import SqliteStore
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.limits import ReceiverLimits, Usage
from tests.claims import Claiming
from tests.lanes import claim_webhooks, fill, lane, webhook, well
from tests.nouns import NOW
from tests.storing import new
from tests.virtualtime import VirtualClock, run_virtual

APP = "https://app.example.com/hooks"

_numbers = count()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "gateway.db")
    await store.open()
    yield store
    await store.close()


async def owed(store: SqliteStore, *urls: str, at: int = NOW, client: str = "ann") -> list[Callback]:
    """Register callbacks on a task, and settle it: their webhooks are due."""
    task_id = f"task-{next(_numbers)}"
    made = await store.registry.register([new(task_id, client=client, url=url, at=at) for url in urls])
    callbacks = [one.callback for one in made]
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = callbacks[0].task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=at, polls=1))
    return callbacks


async def ended(store: SqliteStore, due: DueCallback, result: AttemptResult, next_at: int | None = None) -> None:
    """Record an attempt."""
    made = Attempt(number=due.attempts + 1, started_at=NOW, duration_ms=1, status_code=None, error=None, result=result)
    await store.outbox.record(AttemptRecord(claim=due, attempt=made, next_attempt_at=next_at))


async def retried(store: SqliteStore, *urls: str, at: int) -> list[DueCallback]:
    """Let the first attempts of webhooks fail: these are due again then."""
    await owed(store, *urls)
    found, _ = await claim_webhooks(store, NOW, len(urls))
    for due in found:
        await ended(store, due, AttemptResult.RETRY, at)
    return found


def full_of_retries(limit: int, *lanes: Lane) -> tuple[Bulkhead, list[DueCallback]]:
    """Return a bulkhead in which no retry has a place, and those that have one; these lanes are well."""
    bulkhead = Bulkhead(limit)
    others = [webhook(lane(f"r{number}", f"client-{number}"), retry=True) for number in range(limit * 3 // 4)]
    well(bulkhead, *lanes, *(other.lane for other in others))
    assert all(map(bulkhead.admit, others))
    return bulkhead, others


async def test_retries_of_one_claim_take_no_more_than_their_share(store: SqliteStore) -> None:
    """What finds no place is not claimed: it is found again as soon as there is one."""
    urls = [f"https://{name}.example.com/{number}" for name in ("a", "b") for number in range(4)]
    await retried(store, *urls, at=NOW + 1)
    bulkhead = Bulkhead(8)
    well(bulkhead, lane("a"), lane("b"))
    first, _ = await claim_due(store.outbox, bulkhead, NOW + 1, 8)
    assert len(first) == 4
    assert await claim_due(store.outbox, bulkhead, NOW + 1, 8) == ([], None)
    assert bulkhead.waits
    for due in first:
        bulkhead.ended(due, delivered=True)
        await ended(store, due, AttemptResult.DELIVERED)
    rest, _ = await claim_due(store.outbox, bulkhead, NOW + 1, 8)
    assert len(rest) == 4


async def test_who_has_the_fewest_places_comes_first(store: SqliteStore) -> None:
    """Though another receiver's webhook has been due for longer."""
    for number, host in enumerate(("busy", "idle")):
        await owed(store, f"https://{host}.example.com/", at=NOW + number)
    bulkhead = Bulkhead(8)
    well(bulkhead, lane("busy"), lane("idle"))
    assert bulkhead.admit(webhook(lane("busy")))
    for host in ("idle", "busy"):
        (due,), _ = await claim_due(store.outbox, bulkhead, NOW + 9, 1)
        assert due.lane == lane(host)


async def test_first_attempts_are_found_behind_retries_that_have_to_wait(store: SqliteStore) -> None:
    """While retries hold their share, they take no first attempt's place in what a receiver's look brings either."""
    (again,) = await retried(store, APP, at=NOW + 1)
    bulkhead, others = full_of_retries(8, again.lane)
    (fresh,) = await owed(store, APP)
    (first,), _ = await claim_due(store.outbox, bulkhead, NOW + 2, 2)
    assert first.id == fresh.id
    assert (await claim_due(store.outbox, bulkhead, NOW + 2, 2))[0] == []
    for other in others:
        bulkhead.ended(other, delivered=True)
    (second,), _ = await claim_due(store.outbox, bulkhead, NOW + 2, 2)
    assert second.id == again.id


async def test_a_claimed_first_attempt_is_not_claimed_again_while_retries_wait(store: SqliteStore) -> None:
    """What a look for first attempts alone brings may be claimed: the next one is behind it."""
    bulkhead, _ = full_of_retries(16, lane("app"))
    made = [callback for _ in range(2) for callback in await owed(store, APP)]
    for callback in made:
        (due,), _ = await claim_due(store.outbox, bulkhead, NOW, 1)
        assert due.id == callback.id


async def test_places_that_nobody_takes_are_for_who_is_in_line_at_once(store: SqliteStore) -> None:
    """A client has its part of the places whether or not it has webhooks for them: the rest are asked for anew."""
    await owed(store, APP)
    theirs = await owed(store, *(f"https://{host}.example.com/" for host in ("b", "c", "d")), client="bob")
    bulkhead = Bulkhead(64)
    well(bulkhead, lane("app"), *(lane(host, "bob") for host in ("b", "c", "d")))
    claims, next_due_at = await claim_due(store.outbox, bulkhead, NOW, 4)
    assert (len(claims), next_due_at) == (3, NOW)
    rest, next_due_at = await claim_due(store.outbox, bulkhead, NOW, 4)
    assert (len(rest), next_due_at) == (1, None)
    assert {one.id for one in theirs} < {one.id for one in claims + rest}


async def test_a_claim_that_has_a_place_for_each_writes_nothing_else(store: SqliteStore) -> None:
    """Nothing is given back or handed over, which the database would be asked for each time."""
    await owed(store, APP)
    bulkhead = Bulkhead(8)
    well(bulkhead, lane("app"))
    outbox = Mock(claim=store.outbox.claim)
    assert len((await claim_due(outbox, bulkhead, NOW, 2))[0]) == 1
    assert not outbox.mock_calls


async def test_newcomers_that_wait_for_their_turn_are_not_asked_for_at_once(store: SqliteStore) -> None:
    """They have had all the places that there are for them: only time, or an attempt's end, makes more."""
    await owed(store, *(f"https://r{number}.example.com/" for number in range(64)))
    bulkhead = Bulkhead(64)
    claims, next_due_at = await claim_due(store.outbox, bulkhead, NOW, 64)
    assert claims
    assert bulkhead.in_line
    assert next_due_at is None


async def test_retries_are_not_looked_for_while_they_may_have_no_place(store: SqliteStore) -> None:
    """Once they are found to be all that is due with a receiver; a first attempt is found at once all the same."""
    (due,) = await retried(store, APP, at=NOW + 1)
    bulkhead, others = full_of_retries(8, due.lane)
    assert await claim_due(store.outbox, bulkhead, NOW + 1, 2) == ([], None)
    assert bulkhead.waits
    assert bulkhead.shares(2) == []
    bulkhead.ended(others[0], delivered=True)
    (again,), _ = await claim_due(store.outbox, bulkhead, NOW + 2, 2)
    assert again.seq == due.seq
    await owed(store, APP, at=NOW + 3)
    (first,), _ = await claim_due(store.outbox, bulkhead, NOW + 3, 2)
    assert first.budget_used == 0


async def test_a_receiver_that_has_no_room_is_not_looked_at(store: SqliteStore) -> None:
    """Its webhooks, of which there may be thousands, are passed over until one of its places is free."""
    await owed(store, APP)
    bulkhead = Bulkhead(8)
    well(bulkhead, lane("app"))
    held = fill(bulkhead, lane("app"))
    assert await claim_due(store.outbox, bulkhead, NOW, 2) == ([], None)
    assert bulkhead.waits
    assert bulkhead.shares(2) == []
    bulkhead.ended(held[0], delivered=True)
    (due,), _ = await claim_due(store.outbox, bulkhead, NOW, 2)
    assert due.lane == lane("app")


async def test_a_later_retry_of_a_receiver_is_told_while_retries_have_no_place(store: SqliteStore) -> None:
    """Only what is due now has to wait: the loop comes round for what is due later."""
    (due,) = await retried(store, APP, at=NOW + 50)
    bulkhead, _ = full_of_retries(8, due.lane)
    assert await claim_due(store.outbox, bulkhead, NOW, 2) == ([], NOW + 50)
    assert not bulkhead.waits
    assert await claim_due(store.outbox, bulkhead, NOW + 50, 2) == ([], None)
    assert bulkhead.waits


async def test_what_finds_its_place_taken_is_given_back(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt whose name was looked up may take it while the store is asked; the webhook is due all the same."""
    await owed(store, APP)
    bulkhead = Bulkhead(2)
    others = lane("b", "bob"), lane("c", "cat")
    well(bulkhead, lane("app"), *others)
    found = bulkhead.shares
    taken: list[DueCallback] = []

    def shares(limit: int) -> list[Share]:
        computed = found(limit)
        taken.extend(one for on in others for one in fill(bulkhead, on))
        return computed

    monkeypatch.setattr(bulkhead, "shares", shares)
    outbox: Any = Claiming(store.outbox)
    assert await claim_due(outbox, bulkhead, NOW, 1) == ([], NOW)
    monkeypatch.undo()
    assert not outbox.held
    bulkhead.ended(taken[0], delivered=True)
    assert len((await claim_due(outbox, bulkhead, NOW, 1))[0]) == 1


async def test_what_waits_for_its_table_makes_room_on_its_lane(store: SqliteStore) -> None:
    """Webhooks from before a table about their path are handed over to its lanes; those behind them are claimed."""
    usage = Usage(1, None, None, "https://app.example.com/slow")
    limits = ReceiverLimits(lambda: 0.0, lambda url: usage if "/slow" in url else None)
    limits.use([usage])
    bulkhead = Bulkhead(256, limits=limits)
    well(bulkhead, lane("app"))
    slow = await owed(store, *(f"https://app.example.com/slow/{number}" for number in range(9)))
    (other,) = await owed(store, "https://app.example.com/other", at=NOW + 1)
    first, next_due_at = await claim_due(store.outbox, bulkhead, NOW + 1, 4)
    assert ([one.id for one in first], next_due_at) == ([slow[0].id], NOW + 1)
    found: list[DueCallback] = []
    for _ in range(4):
        more, next_due_at = await claim_due(store.outbox, bulkhead, NOW + 1, 4)
        found += more
    assert ([one.id for one in found], next_due_at) == ([other.id], None)
    bulkhead.ended(first[0], delivered=True)
    (second,), _ = await claim_due(store.outbox, bulkhead, NOW + 1, 4)
    assert (second.id, second.receiver) == (slow[1].id, usage.receiver)
    shown = await store.registry.get_callback("ann", slow[2].id)
    assert shown is not None
    assert shown.receiver == usage.receiver


async def test_what_cannot_be_handed_over_is_given_back(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database cannot be written to: what was claimed beside it is sent all the same, and nothing is lost."""
    monkeypatch.setattr("gateway.loops.claiming._STORE_PAUSE_S", 0.0)
    usage = Usage(1, None, None, "https://app.example.com/slow")
    limits = ReceiverLimits(lambda: 0.0, lambda url: usage if "/slow" in url else None)
    limits.use([usage])
    bulkhead = Bulkhead(256, limits=limits)
    well(bulkhead, lane("app"))
    await owed(store, *(f"https://app.example.com/slow/{number}" for number in range(3)))

    async def fails(*_: object) -> None:
        raise StoreError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(store._writer, "submit", fails)
        found, _ = await claim_due(store.outbox, bulkhead, NOW, 4)
        assert len(found) == 1
    for _ in range(3):
        await claim_due(store.outbox, bulkhead, NOW, 4)
    bulkhead.ended(found[0], delivered=True)
    (again,), _ = await claim_due(store.outbox, bulkhead, NOW, 4)
    assert again.receiver == usage.receiver


async def test_who_hands_over_is_told_that_it_failed(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has no claim any more: it is due on its own lane again."""
    (one,) = await owed(store, APP)
    (claimed,), _ = await claim_webhooks(store, NOW, 9)
    monkeypatch.setattr(store._writer, "submit", AsyncMock(side_effect=StoreError("disk I/O error")))
    with pytest.raises(StoreError):
        await store.outbox.hand_over([(claimed, f"{claimed.receiver}/hooks")])
    (again,), _ = await claim_webhooks(store, NOW, 9)
    assert (again.id, again.receiver) == (one.id, claimed.receiver)


def test_what_cannot_be_handed_over_is_left_alone_for_a_second() -> None:
    """It stays due, and would be claimed again at once for as long as the database cannot be written to."""
    usage = Usage(1, None, None, "https://app.example.com/slow")
    limits = ReceiverLimits(lambda: 0.0, lambda url: usage if "/slow" in url else None)
    limits.use([usage])
    bulkhead = Bulkhead(256, limits=limits)
    usage.begin()
    one = msgspec.structs.replace(webhook(lane("app")), url="https://app.example.com/slow/1")
    outbox = Mock(
        claim=AsyncMock(return_value=([one], [], None)), hand_over=AsyncMock(side_effect=StoreError("disk I/O error"))
    )

    async def main() -> None:
        began_s = VirtualClock().monotonic()
        assert await claim_due(outbox, bulkhead, NOW, 4) == ([], NOW)
        assert VirtualClock().monotonic() - began_s == 1.0

    run_virtual(main())
