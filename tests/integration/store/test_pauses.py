"""Receivers that are paused, as every store keeps them: over a restart, and for every replica."""

from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from gateway.core.claims import Lane
from gateway.core.clock import SystemClock
from gateway.core.errors import Conflict, StoreError
from gateway.loops import pauses as module
from gateway.loops.pauses import Pauses
from gateway.store import Store
from gateway.store.sqlite.store import SqliteStore
from tests.storing import NewStore, opened

RECEIVER = "https://app.example.com"


class Clock(SystemClock):
    """Its steady time is set by hand."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


def pauses_of(store: Store, woken: list[None] | None = None, clock: Clock | None = None) -> Pauses:
    return Pauses(store, clock or SystemClock(), lambda: None if woken is None else woken.append(None))


async def test_they_are_read_again_only_where_others_may_have_changed_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is one process's, which knows what it has written; of a server's database each replica asks once more."""
    reads: list[str] = []
    load = store.load

    async def counted(key: str) -> bytes | None:
        reads.append(key)
        return await load(key)

    monkeypatch.setattr(store, "load", counted)
    clock = Clock()
    pauses = pauses_of(store, clock=clock)
    for _ in range(2):
        await pauses.follow()
        clock.now_s += 100
    assert len(reads) == (1 if isinstance(store, SqliteStore) else 2)


async def test_a_pause_outlives_the_process(new_store: NewStore) -> None:
    """With who paused it; to pause or resume it once more changes nothing."""
    async with AsyncExitStack() as stack:
        first = pauses_of(await opened(new_store(), stack))
        assert await first.follow() == frozenset()
        await first.pause("ann", RECEIVER, "ann")
        await first.pause("ann", RECEIVER, "operator")
        await first.pause("bob", RECEIVER, "operator")
    async with AsyncExitStack() as stack:
        again = pauses_of(await opened(new_store(), stack))
        assert await again.follow() == {Lane("ann", RECEIVER), Lane("bob", RECEIVER)}
        found = [again.of(client, RECEIVER) for client in ("ann", "bob")]
        assert [one and one.by for one in found] == ["ann", "operator"]
        await again.resume("ann", RECEIVER, "operator")
        await again.resume("ann", RECEIVER, "operator")
        assert (again.of("ann", RECEIVER), again.lanes) == (None, {Lane("bob", RECEIVER)})


async def test_the_deliverer_is_woken_by_a_change_alone(store: Store) -> None:
    """What it holds is the same object while nothing has changed."""
    woken: list[None] = []
    pauses = pauses_of(store, woken)
    before = await pauses.follow()
    await pauses.resume("ann", RECEIVER, "ann")
    assert (await pauses.follow() is before, woken) == (True, [])
    await pauses.pause("ann", RECEIVER, "ann")
    assert (await pauses.follow() is before, woken) == (False, [None])


async def test_there_is_an_end_to_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value stays small, and who wants more is told so."""
    monkeypatch.setattr(module, "_MOST", 1)
    pauses = pauses_of(store)
    await pauses.pause("ann", RECEIVER, "ann")
    with pytest.raises(Conflict, match="resume some"):
        await pauses.pause("bob", RECEIVER, "bob")


async def test_one_client_leaves_places_for_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may name receivers that do not exist, as many as it likes: half of the places are still there."""
    monkeypatch.setattr(module, "_MOST", 8)
    pauses = pauses_of(store)
    for number in range(4):
        await pauses.pause("ann", f"https://{number}.example.com", "ann")
    with pytest.raises(Conflict, match="4 receivers are paused already"):
        await pauses.pause("ann", RECEIVER, "ann")
    await pauses.pause("bob", RECEIVER, "bob")


async def test_a_pause_is_not_undone_by_a_look_that_began_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a look finds is older: the page that says "paused" would show the receiver as well again."""
    pauses = pauses_of(store)
    load = store.load

    async def late(key: str) -> bytes | None:
        found = await load(key)
        monkeypatch.setattr(store, "load", load)
        await pauses.pause("ann", RECEIVER, "ann")
        return found

    monkeypatch.setattr(store, "load", late)
    assert await pauses.follow() == {Lane("ann", RECEIVER)}
    assert pauses.of("ann", RECEIVER) is not None


async def test_what_cannot_be_read_at_first_is_nothing_to_begin_with(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a paused receiver got attempts; later on what was known before counts."""
    pauses = pauses_of(store)

    async def failing(_: str) -> bytes | None:
        raise StoreError("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "load", failing)
        with pytest.raises(StoreError):
            await pauses.follow()
    await pauses.pause("ann", RECEIVER, "ann")
    await pauses.follow()
    monkeypatch.setattr(store, "load", failing)
    monkeypatch.setattr(module, "_FRESH_S", 0.0)
    assert await pauses.follow() == {Lane("ann", RECEIVER)}


async def test_what_another_replica_pauses_is_known_in_five_seconds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deliverer asks before each round, and the database is asked once in that time; never where no other is."""
    clock = Clock()
    here, there = pauses_of(store, clock=clock), pauses_of(store)
    await here.follow()
    await there.pause("ann", RECEIVER, "ann")
    monkeypatch.setattr(type(store), "shared", True)  # an SQLite file is not: there is no other
    for now_s, known in ((104.9, False), (105.0, True), (109.9, True), (110.0, False)):
        clock.now_s = now_s
        assert (Lane("ann", RECEIVER) in await here.follow()) == known, now_s
        if now_s == 105.0:
            await there.resume("ann", RECEIVER, "ann")
    await there.pause("ann", RECEIVER, "ann")
    monkeypatch.setattr(type(store), "shared", False)
    clock.now_s = 1000.0
    assert await here.follow() == frozenset()


async def test_what_cannot_be_read_is_asked_for_again_as_late(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database in trouble is not asked before each round."""
    clock, asked = Clock(), 0
    pauses = pauses_of(store, clock=clock)
    await pauses.follow()

    async def failing(_: str) -> bytes | None:
        nonlocal asked
        asked += 1
        raise StoreError("away")

    monkeypatch.setattr(store, "load", failing)
    monkeypatch.setattr(type(store), "shared", True)
    for clock.now_s in (105.0, 106.0, 109.9, 110.0):
        assert await pauses.follow() == frozenset()
    assert asked == 2


async def test_of_two_replicas_that_pause_at_once_neither_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second adds to what the first one has written."""
    here, there = pauses_of(store), pauses_of(store)
    swap = store.swap

    async def late(key: str, was: bytes | None, now: bytes) -> bool:
        monkeypatch.setattr(store, "swap", swap)
        await there.pause("bob", RECEIVER, "bob")
        return await swap(key, was, now)

    monkeypatch.setattr(store, "swap", late)
    with capture_logs() as log:
        await here.pause("ann", RECEIVER, "ann")
    assert here.lanes == {Lane("ann", RECEIVER), Lane("bob", RECEIVER)}
    assert await pauses_of(store).follow() == here.lanes
    assert [(line["event"], line["client"]) for line in log] == [("receiver.paused", "bob"), ("receiver.paused", "ann")]


async def test_a_pause_that_changes_nothing_is_not_told_of(store: Store) -> None:
    """The log says who paused a receiver, and who has it resumed."""
    pauses = pauses_of(store)
    with capture_logs() as log:
        await pauses.resume("ann", RECEIVER, "ann")
        for by in ("ann", "operator"):
            await pauses.pause("ann", RECEIVER, by)
        for by in ("operator", "ann"):
            await pauses.resume("ann", RECEIVER, by)
    assert [(line["event"], line["by"]) for line in log] == [
        ("receiver.paused", "ann"),
        ("receiver.resumed", "operator"),
    ]


async def test_a_pause_of_a_host_is_told_of_what_lies_under_it(store: Store) -> None:
    """With whom it was paused: to resume that is what resumes it. The nearest counts."""
    pauses = pauses_of(store)
    await pauses.pause("ann", RECEIVER, "ann")
    await pauses.pause("ann", f"{RECEIVER}/a/b", "operator")

    def told(path: str, client: str = "ann") -> tuple[str, str] | None:
        found = pauses.of(client, f"{RECEIVER}{path}")
        return None if found is None else (found.receiver, found.by)

    assert told("") == told("/a") == told("/ab") == (RECEIVER, "ann")
    assert told("/a/b") == told("/a/b/c") == (f"{RECEIVER}/a/b", "operator")
    assert told(":8443/a") is told(".org") is told("/a", "bob") is None
    await pauses.resume("ann", RECEIVER, "ann")
    assert told("/a") is None
    assert told("/a/b/c") == (f"{RECEIVER}/a/b", "operator")
