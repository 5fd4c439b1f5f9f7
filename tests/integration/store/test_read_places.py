"""Of how many tasks at once a store keeps the proxy's readers, and each client's share of them."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.reads import PollAgain
from gateway.store import Store
from tests.storing import NOW, new, registered
from tests.watching import RECORD, again, seen, wish


async def test_readers_of_few_tasks_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more nobody's readers are waited for: they are prolonged, and begin again once others have gone."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 2)
    assert [await store.registry.watch(wish(name)) is None for name in "abc"] == [False, False, True]
    assert await store.registry.proxied_task("up", "c") is None
    assert await store.registry.watch(again("a", at=NOW + 500_000)) is not None
    await store.prune_reads(NOW + 100_000, NOW + 70_000, 100)
    assert await store.registry.watch(wish("c")) is not None


async def test_only_what_is_kept_takes_a_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a further read of a task, nor news of one that is not kept, nor a look at whose readers have gone."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 3)
    watch, poll_again = store.registry.watch, store.registry.poll_again
    assert await store.tasks.unwatch(NOW) > NOW + 10**10
    await watch(wish("a"))
    await registered(store, new("called"))
    news = PollAgain(upstream="up", task_id="called", at=NOW, read_until=NOW + 60_000)
    for _ in range(3):
        await watch(again("a", at=NOW + 1000))
        await poll_again(news)
    assert await store.tasks.unwatch(NOW + 60_000) == NOW + 61_000
    await poll_again(replace(news, record=RECORD))
    assert [await watch(wish(name)) is None for name in "bc"] == [False, True]


async def counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the statements by which places are counted from now on."""
    if store.shared:
        await store._hints.close()  # which looks, and then it is counted anew
    asked: list[str] = []
    read, watchsql = store._engine.read, store._engine.watchsql

    async def noted(statement: str, parameters: Any = ()) -> list[Any]:
        if statement in (watchsql.COUNT_READ_TASKS, watchsql.COUNT_READ_TASKS_FOR):
            asked.append(statement)
        return await read(statement, parameters)

    monkeypatch.setattr(store._engine, "read", noted)
    return asked


async def test_places_are_counted_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a tenth of a second; and for each client only where few are left."""
    asked, watchsql = await counts(store, monkeypatch), store._engine.watchsql
    for name in "abcd":
        await store.registry.watch(wish(name))
        assert await store.prune_reads(NOW, NOW, 9) == 0
    assert asked == [watchsql.COUNT_READ_TASKS]
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 5)
    assert [await store.registry.watch(wish("e")) for _ in range(2)] == [None, None]
    assert asked == [watchsql.COUNT_READ_TASKS, watchsql.COUNT_READ_TASKS_FOR]


async def test_many_first_reads_at_once_share_a_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of all places, and one of each client's, however many ask while it runs."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 40)
    asked, watchsql = await counts(store, monkeypatch), store._engine.watchsql
    watch = store.registry.watch
    await asyncio.gather(*(watch(wish(f"ann-{number}", client="ann")) for number in range(32)))
    assert asked == [watchsql.COUNT_READ_TASKS]
    begun = (watch(wish(f"{client}-{number}", client=client)) for client in ("rob", "eve") for number in range(8))
    await asyncio.gather(*begun)
    assert asked[1:] == [watchsql.COUNT_READ_TASKS_FOR] * 2


async def test_who_has_places_left_is_not_counted_anew_when_others_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can only have become less; who has none left is counted, as it may have been its own that have gone."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 20)
    for number in range(16):
        await registered(store, new(f"ann-{number}"))
    asked, watchsql = await counts(store, monkeypatch), store._engine.watchsql
    watch = store.registry.watch
    for number in range(16):
        await watch(wish(f"ann-{number}", client="ann", at=NOW + 1000 * number))
    assert await watch(wish("ann-x", client="ann")) is None
    assert await watch(wish("rob-1", client="rob")) is not None
    assert len(asked) == 3
    del asked[:]
    await store.tasks.unwatch(NOW + 60_000)  # one of ann's
    assert await watch(wish("rob-2", client="rob", at=NOW + 60_000)) is not None
    assert asked == []
    assert await watch(wish("ann-x", client="ann", at=NOW + 60_000)) is None
    assert await watch(wish("ann-x", client="ann", at=NOW + 60_000)) is None
    assert asked == [watchsql.COUNT_READ_TASKS_FOR]


async def test_a_clients_further_reads_of_its_tasks_take_no_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few are left, too: it may begin as many as who reads each of its tasks once."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 10)
    watch = store.registry.watch
    for number in range(7):
        await watch(wish(f"eve-{number}", client="eve"))
    for name in "ab":
        await watch(wish(name))
    for _ in range(3):
        assert await watch(again("a")) is not None
    assert await watch(wish("c")) is not None


async def test_places_are_counted_while_some_are_given_back(store: Store) -> None:
    """What begins in that moment is kept, and counted."""
    watch = store.registry.watch
    await watch(wish("a"))
    pruned, begun = await asyncio.gather(store.prune_reads(NOW + 10**6, NOW + 10**6, 9), watch(wish("b", at=NOW)))
    assert pruned == 1
    assert begun == ((await seen(store, "b")).task.seq, False)


async def test_no_client_takes_all_places(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One may have four of five that the others leave; who comes later has as large a part of what is left then."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 100)

    async def begun(client: str, names: str) -> int:
        """Return how many tasks a client has watched before it is refused one."""
        for number in range(100):
            if await store.registry.watch(wish(f"{names}-{number}", client=client)) is None:
                return number
        return 100

    assert [await begun(client, client) for client in ("ann", "rob", "eve")] == [80, 16, 4]
    # What a client watches of another's tasks takes no place.
    assert await store.registry.watch(again("ann-1", client="rob")) is not None
    # Once some have gone there is room again, for whoever has few.
    await store.prune_reads(NOW + 100_000, NOW + 70_000, 50)
    assert [await begun("eve", "more"), await begun("ann", "more-again")] == [40, 2]


async def test_tasks_whose_readers_have_gone_make_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that go on for callbacks are none of the readers' any more, and there is nothing of them to remove."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 2)
    for number in range(5):
        at = NOW + 70_000 * number
        await registered(store, new(f"task-{number}"))
        assert await store.registry.watch(wish(f"task-{number}", at=at)) is not None
        assert await store.tasks.unwatch(at + 60_000) > at + 60_000
    assert await store.prune_reads(NOW + 10**6, NOW + 10**6, 100) == 0


async def test_a_client_whose_readers_have_gone_has_places_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where callbacks wait for its tasks still, too."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 5)
    watch = store.registry.watch
    for name in "abcd":
        await registered(store, new(name))
        assert await watch(wish(name)) is not None
    assert await watch(wish("e")) is None
    later = NOW + 60_000
    await store.tasks.unwatch(later)
    for name, client in (("e", "rob"), ("a", "eve"), ("x", "eve"), ("y", "eve"), ("z", "rob")):
        assert await watch(wish(name, at=later, client=client)) is not None
