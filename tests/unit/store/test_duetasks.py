"""What is due of the upstreams whose polls this process leads: learned when it begins, and forgotten at its end."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.claims import DueGroup, DueTask
from gateway.core.errors import StoreError
from gateway.store.duetasks import DueTasks
from gateway.store.sqlite import sql
from tests.nouns import due_task

NOW = 1000
GROUPS = [("a", "ann", 10), ("a", "bob", 20), ("a", "cyd", 30), ("b", "ann", 40), ("c", "ann", 50)]
"""Upstream, who watches, and when the first task of theirs is due, in the index's order."""


class Engine:
    """An engine that many processes share, or one has for itself; it reads two groups at a time."""

    sql = sql

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.groups = [*GROUPS]
        self.reads: list[tuple[str, str]] = []
        self.broken_at = -1
        self.told: list[tuple[str, str, int]] = []
        self.hints = SimpleNamespace(tasks=lambda *about: self.told.append(about))

    async def read(self, statement: str, about: tuple[Any, ...]) -> list[Any]:
        await asyncio.sleep(0)
        assert statement == sql.SELECT_NEXT_WATCHERS
        if len(self.reads) == self.broken_at:
            raise StoreError("The database is away.")
        self.reads.append(about)
        return [group for group in self.groups if group[:2] > about][:2]

    def require(self) -> None: ...


def due_tasks(engine: Engine) -> DueTasks:
    handed: Any = engine
    return DueTasks(handed)


async def known(tasks: DueTasks) -> dict[str, list[DueGroup]]:
    """Return what is due, by upstream."""
    found = {upstream: (await tasks.waiting(upstream, NOW))[0] for upstream in "abc"}
    return {upstream: groups for upstream, groups in found.items() if groups}


def of(upstream: str) -> list[DueGroup]:
    return [DueGroup(watchers, due_at, 0) for its, watchers, due_at in GROUPS if its == upstream]


def task(seq: int, upstream: str, watchers: str) -> DueTask:
    return due_task(seq=seq, upstream=upstream, watchers=watchers, due_at=5)


async def test_one_process_finds_out_everything_when_it_opens() -> None:
    """All groups of all upstreams, page by page; it leads each for ever, and to begin reads nothing."""
    engine = Engine(shared=False)
    tasks = due_tasks(engine)
    await tasks.open()
    assert await known(tasks) == {upstream: of(upstream) for upstream in "abc"}
    reads = len(engine.reads)
    await tasks.gained("a", 7)
    tasks.lost("a")
    assert (len(engine.reads), tasks.leads("a"), tasks.leads("z")) == (reads, True, True)
    assert tasks.lead("a") == tasks.lead("z") is not None
    assert await known(tasks) == {upstream: of(upstream) for upstream in "abc"}


async def test_of_several_processes_each_knows_what_it_leads() -> None:
    """Nothing until it leads; then that upstream's groups, and no other's that stand beside them."""
    engine = Engine(shared=True)
    tasks = due_tasks(engine)
    await tasks.open()
    assert engine.reads == []
    assert await known(tasks) == {}
    await tasks.gained("a", 7)
    await tasks.gained("c", 8)
    assert await known(tasks) == {"a": of("a"), "c": of("c")}
    assert [tasks.lead(upstream) for upstream in "abc"] == [("a", 7), None, ("c", 8)]
    assert [tasks.leads(upstream) for upstream in "abc"] == [True, False, True]
    tasks.lost("a")
    assert await known(tasks) == {"c": of("c")}
    assert tasks.lead("a") is None


@pytest.mark.parametrize("broken_at", [0, 1])
async def test_what_cannot_be_learned_is_not_led(broken_at: int) -> None:
    """Neither a part of it."""
    engine = Engine(shared=True)
    engine.broken_at = broken_at
    tasks = due_tasks(engine)
    with pytest.raises(StoreError):
        await tasks.gained("a", 7)
    assert tasks.lead("a") is None
    assert await known(tasks) == {}
    engine.broken_at = -1
    await tasks.gained("a", 8)
    assert await known(tasks) == {"a": of("a")}


async def test_what_is_committed_while_it_learns_is_noted() -> None:
    """A task that comes before the place where it reads would be in no page."""
    engine = Engine(shared=True)
    tasks = due_tasks(engine)
    gaining = asyncio.create_task(tasks.gained("a", 7))
    await asyncio.sleep(0)
    tasks.note("a", "ann", 3)
    await gaining
    assert (await known(tasks))["a"][0] == DueGroup("ann", 3, 0)


async def test_claims_end_with_the_lead() -> None:
    """Whoever leads next may have claimed the same; those of other upstreams go on."""
    engine = Engine(shared=True)
    tasks = due_tasks(engine)
    await tasks.gained("a", 7)
    await tasks.gained("c", 7)
    mine, other, foreign = task(1, "a", "ann"), task(2, "c", "ann"), task(3, "b", "ann")
    assert await tasks.claim([mine, other, foreign]) == [mine, other]
    assert await tasks.claim([mine, other]) == []
    tasks.lost("a")
    await tasks.gained("a", 8)
    assert await tasks.claim([mine, other]) == [mine]


async def test_looking_again_wakes_who_leads() -> None:
    """Hints may have been lost: what is led is read anew, and nothing else."""
    engine = Engine(shared=True)
    tasks = due_tasks(engine)
    await tasks.gained("b", 7)
    engine.groups.append(("b", "zoe", 7))
    engine.groups.sort()
    engine.reads.clear()
    await tasks.look_again()
    assert (await known(tasks))["b"][-1] == DueGroup("zoe", 7, 0)
    assert [tasks.due(upstream).is_set() for upstream in "abc"] == [False, True, False]
    assert {upstream for upstream, _ in engine.reads} == {"b"}


async def test_a_change_is_told_to_whoever_leads() -> None:
    """Also where that is another process, which is all that this one has to do with it."""
    engine = Engine(shared=True)
    tasks = due_tasks(engine)
    await tasks.gained("b", 7)
    tasks.tell("b", "ann", 2)
    tasks.tell("c", "ann", 2)
    assert await known(tasks) == {"b": [DueGroup("ann", 2, 0)]}
    await tasks.gained("c", 8)
    assert (await known(tasks))["c"] == of("c"), "it is found in the database once it leads"
    assert engine.told == [("b", "ann", 2), ("c", "ann", 2)]
