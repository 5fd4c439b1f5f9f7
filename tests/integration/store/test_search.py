"""Looking for callbacks and tasks by what no index has, whatever the database: against the ``Registry`` port alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.model import AttemptResult, Callback, CallbackState, TaskState
from gateway.core.search import Looked, Sought, Wanted, sought
from gateway.store import Store, searching
from tests.lanes import claim_webhooks
from tests.storing import FAIL, NOW, attempt_of, brought_to, new, registered, settle


async def all_callbacks(store: Store, wanted: Wanted, limit: int = 100) -> list[Callback]:
    """Look through everything, a part after the other, as a page's links would."""
    found: list[Callback] = []
    part: Looked[Callback] = Looked([], None)
    for _ in range(100):
        part = await store.registry.search_callbacks(wanted, part.before, limit)
        found += part.found
        if part.before is None:
            return found
    pytest.fail("it never ends")


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(), ["6", "5", "4", "3", "2", "1"]),
        (Wanted(client="bob"), ["6", "3"]),
        (Wanted(state="pending"), ["2"]),
        (Wanted(upstream="other"), ["4"]),
        (Wanted(text="shop.example"), ["3"]),
        (Wanted(text="https://shop.example.com"), ["3"]),
        (Wanted(text="ask-5"), ["5"]),
        (Wanted(text="orderId=7"), ["2", "1"]),
        (Wanted(text="orderId=70"), []),
        (Wanted(text="name=Füße 🐈"), ["5"]),
        (Wanted(text='say=a "word" \\'), ["6"]),
        (Wanted(text="Füße"), ["5"]),
        (Wanted(client="ann", state="waiting", text="orderId=7"), ["1"]),
        (Wanted(text="%"), []),
        (Wanted(text="'; DROP TABLE callbacks; --"), []),
        (Wanted(client="nobody"), []),
    ],
)
async def test_callbacks_are_found_by_what_they_hold(store: Store, wanted: Wanted, names: list[str]) -> None:
    """By client, state, upstream, a part of the receiver or of the task's id, a member of the metadata, or its text."""
    await registered(store, new("task-1", metadata=b'{"orderId":7,"more":[1]}'))
    await brought_to(store, CallbackState.PENDING, new("task-2", metadata=b'{"orderId":"7"}'))
    await registered(store, new("task-3", client="bob", url="https://shop.example.com/hooks"))
    await registered(store, new("task-4", upstream="other"))
    await registered(store, new("task-5", metadata='{"name":"Füße 🐈"}'.encode()))
    await registered(store, new("task-6", client="bob", metadata=b'{"say":"a \\"word\\" \\\\"}'))
    found = await all_callbacks(store, wanted)
    assert [callback.task.task_id for callback in found] == [f"task-{name}" for name in names]


async def test_a_search_goes_on_where_a_part_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is missed and none comes twice, where a part is full, where it has too little, and where rows have gone."""
    monkeypatch.setattr(searching, "_ROWS", 4)
    made = [await registered(store, new(f"task-{n}", url=f"https://r-{n % 3}.example.com/")) for n in range(20)]
    for callback in made[4:15]:
        await store.registry.cancel("ann", callback.id, NOW)
    assert await store.prune(NOW + 1, 0, 100) == 11
    left = [callback.id for callback in reversed(made) if callback not in made[4:15]]
    for limit in (1, 2, 3, 100):
        assert [one.id for one in await all_callbacks(store, Wanted(), limit)] == left
    some = [one.url for one in await all_callbacks(store, Wanted(text="//r-1"), 1)]
    assert some == ["https://r-1.example.com/"] * 3


async def test_a_part_looks_through_some_rows_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rare takes no longer than what is not: the part says where to look on."""
    monkeypatch.setattr(searching, "_ROWS", 4)
    first = await registered(store, new("wanted"))
    for n in range(10):
        await registered(store, new(f"task-{n}"))
    part = await store.registry.search_callbacks(Wanted(text="wanted"), None, 10)
    assert part.found == []
    assert part.before == first.seq + 7
    assert (await store.registry.search_callbacks(Wanted(text="wanted"), first.seq + 1, 10)).found == [first]


async def test_nothing_is_found_where_there_is_nothing(store: Store) -> None:
    """An empty database has no part to go on with."""
    assert await store.registry.search_callbacks(Wanted(), None, 10) == Looked([], None)
    assert await store.registry.search_tasks(Wanted(), None, 10) == Looked([], None)


async def test_tasks_are_found_too(store: Store) -> None:
    """By state, upstream, a part of the id or of the model; a client sees those that it has callbacks for."""
    ended = await registered(store, new("cat-1", model="gpt-image-2"))
    await settle(store, ended, FAIL)
    await registered(store, new("cat-2", client="bob", upstream="other"))
    await registered(store, new("dog", client="bob"))

    async def tasks(**wanted: str) -> list[str]:
        found, before = await store.registry.search_tasks(Wanted(**wanted), None, 10)
        assert before is None
        return [task.task_id for task in found]

    assert await tasks() == ["dog", "cat-2", "cat-1"]
    assert await tasks(state=TaskState.FAIL.value) == ["cat-1"]
    assert await tasks(upstream="other") == ["cat-2"]
    assert await tasks(text="cat") == ["cat-2", "cat-1"]
    assert await tasks(text="image-2") == ["cat-1"]
    assert await tasks(client="bob") == ["dog", "cat-2"]
    assert await tasks(client="ann", text="cat") == ["cat-1"]


async def test_the_dead_of_a_span_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a redelivery of that span takes, of one client or of all, however many die at one instant."""
    monkeypatch.setattr(searching, "_ROWS", 2)
    monkeypatch.setattr(searching, "_COUNTED", 2)
    for n in range(7):
        url = f"https://r-{n % 2}.example.com/hooks"
        callback = await registered(store, new(f"task-{n}", client="ann" if n < 5 else "bob", url=url))
        await settle(store, callback)
    died: dict[str, int] = {}
    receivers: dict[str, str] = {}
    for n, due in enumerate((await claim_webhooks(store, NOW, 100))[0]):
        await store.outbox.record(attempt_of(due, AttemptResult.DEAD, at=NOW + (n // 3) * 1000))
        died[due.id], receivers[due.id] = NOW + (n // 3) * 1000 + 12, due.receiver
    registry, last = store.registry, NOW * 2

    async def count(client: str | None = None, since: int = 0, until: int = last, receiver: str | None = None) -> int:
        return await registry.count_dead(client, since, until, None if receiver is None else sought(receiver))

    assert (await count(), await count("ann"), await count("nobody")) == (7, 5, 0)
    for receiver in ("//r-1.", "https://r-0.example.com", "", "%", "R-1"):
        assert await count(receiver=receiver) == sum(receiver in its for its in receivers.values())
    for since in (NOW, NOW + 12, NOW + 13, NOW + 1012, NOW + 5000):
        for until in (since, since + 1, since + 1000, last):
            assert await count(None, since, until) == sum(since <= at < until for at in died.values())
    assert await registry.redeliver_dead("ann", 0, last, NOW + 10_000, receiver=sought("//r-1.")) == 2
    assert (await count(), await count("ann"), await count("ann", receiver="//r-1.")) == (5, 3, 0)
    assert await registry.redeliver_dead(None, 0, last, NOW + 10_000, receiver=sought("nobody")) == 0
    early = await count(until=NOW + 13, receiver="r-")
    assert await registry.redeliver_dead(None, 0, NOW + 13, NOW + 10_000, receiver=sought("r-")) == early > 0
    assert await registry.redeliver_dead(None, 0, last, NOW + 10_000) == 5 - early > 0
    assert await count() == 0


async def test_the_dead_are_told_apart_by_their_urls(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their receivers were called then, by tables that have come or gone since; as many as are redelivered."""
    monkeypatch.setattr(searching, "_BY_URL", 2)
    host = "https://h.example.com"
    at_host, at_a, at_ab = host, f"{host}/a", f"{host}/ab"
    for n, (path, receiver) in enumerate(
        (
            ("/a", at_host),
            ("/a/1?order=7", at_a),
            ("/%61/2", at_a),
            ("/ab/1", at_ab),
            ("/ab", at_host),
            ("", at_host),
            (":8443/a", f"{host}:8443"),
            (".org/a", f"{host}.org"),
        )
    ):
        client = "ann" if n % 3 else "bob"
        made = new(f"task-{n}", client=client, url=f"{host}{path}")
        await settle(store, await registered(store, replace(made, receiver=receiver)))
    for due in (await claim_webhooks(store, NOW, 100))[0]:
        await store.outbox.record(attempt_of(due, AttemptResult.DEAD, at=NOW))
    registry, last = store.registry, NOW * 2

    async def count(receiver: str | Sought, client: str | None = None) -> int:
        return await registry.count_dead(client, 0, last, sought(receiver) if isinstance(receiver, str) else receiver)

    below = {"/a": 3, "/a/": 3, "/a/1": 1, "/a/1/x": 0, "/ab": 2, "/b": 0, "": 6, "/": 6, ":8443": 1, ":8443/a": 1}
    assert {path: await count(host + path) for path in below} == below
    assert await count("HTTPS://H.EXAMPLE.COM:443/./a?order=8") == 3
    assert await count("http://h.example.com/a") == 0
    assert (await count(f"{host}/a", "ann"), await count(f"{host}/a", "nobody")) == (2, 0)
    names = {"h.example.com/a": 3, "h.example.com/a/": 2, "/ab": 1, "h.example.com": 8, "h.example.com/": 6}
    assert {text: await count(Sought(text)) for text in names} == names, "a text that is no URL is a part of a name"
    part = Sought("h.example.com/ab")
    for meant, done in ((sought(f"{host}/a"), 3), (part, 1), (sought(f"{host}/ab"), 1), (sought(f"{host}/"), 1)):
        assert await count(meant) == done
        assert await registry.redeliver_dead(None, 0, last, NOW + 10_000, receiver=meant) == done
        assert await count(meant) == 0
    assert await count(host) == 0
    assert await registry.count_dead(None, 0, last) == 2


async def test_what_others_have_redelivered_meanwhile_is_theirs(store: Store) -> None:
    """Of four that were found dead one has been delivered, one has died again and one waits: these are left alone."""
    made = [await registered(store, new(f"task-{n}")) for n in range(4)]
    for one in made:
        await settle(store, one)
    for due in (await claim_webhooks(store, NOW, 9))[0]:
        await store.outbox.record(attempt_of(due, AttemptResult.DEAD, at=NOW))
    registry, now = store.registry, NOW + 10_000
    delivered, again, waiting, dead = (one.id for one in made)
    turns = 0

    @asynccontextmanager
    async def others() -> AsyncIterator[None]:
        """They come first, in the second turn: in the first one is read which are dead."""
        nonlocal turns
        turns += 1
        if turns != 2:
            yield
            return
        for one in (delivered, again):
            assert await registry.redeliver(None, one, now)
        for due in (await claim_webhooks(store, now, 9))[0]:
            result = AttemptResult.DELIVERED if due.id == delivered else AttemptResult.DEAD
            await store.outbox.record(attempt_of(due, result, at=now))
        assert await registry.redeliver(None, waiting, now)
        yield

    found = sought("https://app.example.com/")
    assert await registry.redeliver_dead(None, 0, NOW * 2, now, others, found) == 1
    states = {one.id: one.state for one in await all_callbacks(store, Wanted())}
    assert states == {
        delivered: CallbackState.DELIVERED,
        again: CallbackState.DEAD,
        waiting: CallbackState.PENDING,
        dead: CallbackState.PENDING,
    }


async def test_what_is_redelivered_of_a_receiver_is_read_in_turns_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is written: a client's many redeliveries at once would read all that is dead at the same time."""
    monkeypatch.setattr(searching, "_BY_URL", 2)
    for n in range(5):
        await settle(store, await registered(store, new(f"task-{n}")))
    for due in (await claim_webhooks(store, NOW, 9))[0]:
        await store.outbox.record(attempt_of(due, AttemptResult.DEAD, at=NOW))
    inside = False
    reads: list[bool] = []

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        nonlocal inside
        assert not inside, "within one another they would wait for ever"
        inside = True
        yield
        inside = False

    engine: Any = store.registry._engine  # type: ignore[attr-defined]
    read = engine.read

    async def noted(statement: Any, *about: Any) -> Any:
        if statement == engine.searchsql.SELECT_DEAD:
            reads.append(inside)
        return await read(statement, *about)

    monkeypatch.setattr(engine, "read", noted)
    found = sought("https://app.example.com/hooks")
    assert await store.registry.redeliver_dead("ann", 0, NOW * 2, NOW + 10_000, turn, found) == 5
    assert reads == [True] * 3
