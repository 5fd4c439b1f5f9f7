"""Creates that their clients may repeat, on every store: what ``Registry`` and ``Housekeeping`` promise of them."""

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.errors import StoreRefused
from gateway.core.model import CallbackState
from gateway.store import Store
from tests.storing import NOW, NewStore, brought_to, new, opened

ANSWER = CreateAnswer(status=200, content_type="application/json", task_id="task-1", body=b'{"id":"task-1"}')
OPEN = KnownCreate(digest=b"d", at=NOW, lost_at=None, answer=None)
ANSWERED = KnownCreate(digest=b"d", at=NOW, lost_at=None, answer=ANSWER)


def create(request_id: str = "r-1", *, client: str = "ann", upstream: str = "up", at: int = NOW) -> NewCreate:
    return NewCreate(client=client, upstream=upstream, request_id=request_id, digest=b"d", at=at)


async def begun(store: Store, *request_ids: str, **about: Any) -> None:
    for request_id in request_ids:
        assert await store.registry.begin_create(create(request_id, **about))


async def known(store: Store, *request_ids: str, **about: Any) -> list[str]:
    """Return which of these are known."""
    return [one for one in request_ids if await store.registry.known_create(create(one, **about)) is not None]


async def test_a_create_is_begun_once(store: Store) -> None:
    """Who comes second, with whatever body, is not the one to forward it; of its answer nothing is known."""
    assert await store.registry.known_create(create()) is None
    assert await store.registry.begin_create(create())
    assert not await store.registry.begin_create(msgspec.structs.replace(create(), digest=b"other", at=NOW + 1))
    assert await store.registry.known_create(create()) == OPEN


async def test_an_answer_is_kept(store: Store) -> None:
    """With all that is given again; one that is too large is kept without its body, one without a task without that."""
    bare = CreateAnswer(status=202, content_type=None, task_id=None, body=None)
    for request_id, answer in (("r-1", ANSWER), ("r-2", bare)):
        await begun(store, request_id)
        assert await store.registry.end_create(create(request_id), answer, []) == []
        found = await store.registry.known_create(create(request_id))
        assert found == msgspec.structs.replace(OPEN, answer=answer)


async def test_the_callback_comes_with_the_answer(store: Store) -> None:
    """It is registered as by any registration: found where it is there, and owed at once where its task has ended."""
    await begun(store, "r-1", "r-2")
    (first,) = await store.registry.end_create(create("r-1"), ANSWER, [new("task-1")])
    (second,) = await store.registry.end_create(create("r-2"), ANSWER, [new("task-1")])
    assert (first.created, second.created) == (True, False)
    assert first.callback.id == second.callback.id
    assert await store.registry.known_create(create("r-1")) == ANSWERED
    assert store.tasks.due("up").is_set()
    ended = await brought_to(store, CallbackState.DELIVERED, new("task-2"))
    await begun(store, "r-3")
    (third,) = await store.registry.end_create(create("r-3"), ANSWER, [new("task-2", url="https://b.example.com/")])
    assert (third.callback.state, third.callback.task.seq) == (CallbackState.PENDING, ended.task.seq)


async def test_both_or_neither(new_store: NewStore) -> None:
    """A callback that the database refuses takes the answer with it: it is one transaction."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        await begun(store, "r-1")
        impossible = msgspec.structs.replace(new(), client=None)
        with pytest.raises(StoreRefused):
            await store.registry.end_create(create(), ANSWER, [impossible])
        assert await store.registry.known_create(create()) == OPEN
        assert await store.registry.list_callbacks(None, state=None, task_id=None, before_seq=None, limit=9) == []


async def test_an_answer_that_will_never_be_known(store: Store) -> None:
    """It is told that there will be none; where one is kept, it stays, whoever says otherwise."""
    await begun(store, "r-1", "r-2")
    await store.registry.end_create(create("r-1"), ANSWER, [])
    for request_id in ("r-1", "r-2", "r-3"):
        await store.registry.lose_create(create(request_id), NOW + 7)
    assert await store.registry.known_create(create("r-1")) == ANSWERED
    assert await store.registry.known_create(create("r-2")) == msgspec.structs.replace(OPEN, lost_at=NOW + 7)
    assert await store.registry.known_create(create("r-3")) is None


async def test_what_made_no_task_is_forgotten(store: Store) -> None:
    """It is as if it had never been; what has an answer stays, whoever says otherwise."""
    await begun(store, "r-1", "r-2")
    await store.registry.end_create(create("r-2"), ANSWER, [])
    for request_id in ("r-1", "r-2", "r-3"):
        await store.registry.forget_create(create(request_id))
    assert await known(store, "r-1", "r-2", "r-3") == ["r-2"]
    assert await store.registry.begin_create(create("r-1"))


@pytest.mark.parametrize("other", [{"client": "bob"}, {"upstream": "down"}, {"request_id": "R-1"}])
async def test_no_other_create_is_meant(store: Store, other: dict[str, str]) -> None:
    """Client, upstream and id name it together, and letter by letter."""
    await begun(store, "r-1")
    await store.registry.end_create(create(), ANSWER, [])
    another = create(**other)
    assert await store.registry.known_create(another) is None
    assert await store.registry.begin_create(another)
    await store.registry.forget_create(another)
    assert await store.registry.known_create(create()) == ANSWERED


async def test_all_outlive_the_process(new_store: NewStore) -> None:
    """What was begun, and what was answered."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        await begun(store, "r-1", "r-2")
        await store.registry.end_create(create("r-2"), ANSWER, [])
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert await store.registry.known_create(create("r-1")) == OPEN
        assert await store.registry.known_create(create("r-2")) == ANSWERED


# Keeping house


async def test_the_old_ones_go(store: Store) -> None:
    """Begun before the instant, answered or not, a bounded number at once."""
    await begun(store, "a", "b", "c", at=NOW)
    await begun(store, "d", at=NOW + 1)
    await store.registry.end_create(create("b"), ANSWER, [])
    assert [await store.prune_creates(NOW + 1, 100, 2) for _ in range(3)] == [2, 1, 0]
    assert await known(store, "a", "b", "c", "d") == ["d"]


async def test_of_a_client_the_last_ones_stay(store: Store) -> None:
    """Each has as many; the oldest go first, and the limit is for all of them together."""
    await begun(store, "a", "b", "c", "d")
    await begun(store, "a", "b", "c", client="bob")
    await begun(store, "a", client="cid")
    assert [await store.prune_creates(NOW, 2, 2) for _ in range(3)] == [2, 1, 0]
    assert await known(store, "a", "b", "c", "d") == ["c", "d"]
    assert await known(store, "a", "b", "c", client="bob") == ["b", "c"]
    assert await known(store, "a", client="cid") == ["a"]


async def test_no_clients_creates_count_for_another(store: Store) -> None:
    """Whoever has few keeps them, however many others begin between them."""
    await begun(store, "a")
    await begun(store, "a", "b", "c", client="bob")
    await begun(store, "b")
    assert await store.prune_creates(NOW, 2, 100) == 1
    assert await known(store, "a", "b") == ["a", "b"]
    assert await known(store, "a", "b", "c", client="bob") == ["b", "c"]


async def test_what_was_forgotten_makes_no_room_for_more(store: Store) -> None:
    """A client's last ones are counted as they are begun: none of them goes while it is one of these."""
    await begun(store, "a", "b", "c")
    await store.registry.forget_create(create("b"))
    await begun(store, "d")
    assert await store.prune_creates(NOW, 3, 100) == 1
    assert await known(store, "a", "b", "c", "d") == ["c", "d"]
    await store.registry.forget_create(create("d"))
    await begun(store, "d", "e")
    assert await store.prune_creates(NOW, 3, 100) == 0


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
async def test_they_follow_the_clock(store: Store) -> None:
    """One that is set forward by a day makes no create a day older."""
    await begun(store, "a")
    await store.follow_clock(86_400_000)
    assert await store.prune_creates(NOW + 86_400_000, 100, 100) == 0
    assert await store.prune_creates(NOW + 86_400_001, 100, 100) == 1
