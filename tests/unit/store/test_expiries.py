"""How expired callbacks are gone through: the parts of a look, where each begins, and when the next look is."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.errors import StoreError
from gateway.store.expiries import Expiries
from gateway.store.rows import FOREVER

NOW = 100_000_000
HOUR_MS = 3_600_000
PART = 2


class Engine:
    """Holds when each task's callback expires, by the task's seq; the upstream of all is "a" but of the ``others``."""

    def __init__(self) -> None:
        self.expires_at: dict[int, int] = {}
        self.others: set[int] = set()
        self.reads: list[tuple[str, tuple[Any, ...]]] = []
        self.broken = False
        self.meanwhile = lambda: None
        names = "SELECT_EXPIRY_END SELECT_EXPIRED SELECT_NEXT_EXPIRY SELECT_EXPIRIES"
        self.sql = SimpleNamespace(**{name: name for name in names.split()})

    def array(self, values: list[int]) -> list[int]:
        return list(values)

    async def read(self, statement: str, about: tuple[Any, ...]) -> list[Any]:
        await asyncio.sleep(0)
        if self.broken:
            raise StoreError("The database is away.")
        self.meanwhile()
        self.reads.append((statement, about))
        rows: list[Any] = getattr(self, statement)(*about)
        return rows

    def SELECT_EXPIRY_END(self, begin: int, end: int, offset: int) -> list[Any]:  # noqa: N802 - the statement's name
        return [(at,) for at in sorted(self.expires_at.values()) if begin <= at <= end][offset : offset + 1]

    def SELECT_EXPIRED(self, begin: int, end: int, upstream: str) -> list[Any]:  # noqa: N802
        ours = {seq: at for seq, at in self.expires_at.items() if (seq in self.others) is (upstream != "a")}
        return [(seq,) for seq, at in ours.items() if begin <= at <= end]

    def SELECT_NEXT_EXPIRY(self, now: int) -> list[Any]:  # noqa: N802
        return [(min((at for at in self.expires_at.values() if at > now), default=None),)]

    def SELECT_EXPIRIES(self, asked: list[int]) -> list[Any]:  # noqa: N802
        found = sorted((self.expires_at[seq], seq) for seq in asked if seq in self.expires_at)
        return [(seq, f"t{seq}", at, None, 0) for at, seq in found]

    def looked_from(self) -> list[int]:
        """Return where each part began that was looked through, and forget the reads."""
        begins = [about[0] for statement, about in self.reads if statement == "SELECT_EXPIRED"]
        self.reads.clear()
        return begins


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr("gateway.store.expiries._PART", PART)
    return Engine()


def expiries_on(engine: Engine) -> Expiries:
    handed: Any = engine
    return Expiries(handed)


async def seqs(expiries: Expiries, now: int = NOW, limit: int = 100) -> tuple[list[int], int | None]:
    found, next_at = await expiries.expired("a", now, limit)
    return [task.seq for task in found], next_at


async def test_with_no_callback_nothing_is_looked_for_again(engine: Engine) -> None:
    """None has an expiry: each round comes to the same, and only the first one reads."""
    expiries = expiries_on(engine)
    assert [await seqs(expiries) for _ in range(2)] == [([], None)] * 2
    assert len(engine.looked_from()) == 1


async def test_the_first_look_goes_through_all_time(engine: Engine) -> None:
    """From the first instant on, the one at the clock's zero too."""
    engine.expires_at = {1: 0, 2: NOW, 3: NOW + 1}
    assert await seqs(expiries_on(engine)) == ([1, 2], NOW + 1)


async def test_each_part_goes_on_behind_the_one_before(engine: Engine) -> None:
    """At the next millisecond: whatever expired in a part's last one was found with it."""
    engine.expires_at = {1: 10, 2: 20, 3: 21, 4: 21, 5: 22}
    assert await seqs(expiries_on(engine)) == ([1, 2, 3, 4, 5], None)
    assert engine.looked_from() == [0, 21, 22]


async def test_a_look_has_ten_parts(engine: Engine) -> None:
    """After them polls have their turn, and 20 ms later the look goes on where it was."""
    engine.expires_at = dict(enumerate(range(23 * PART)))
    expiries = expiries_on(engine)
    found, next_at = await seqs(expiries)
    assert (len(found), next_at) == (10 * PART, NOW + 20)
    assert len(engine.looked_from()) == 10
    assert len((await seqs(expiries))[0]) == 20 * PART
    assert engine.looked_from()[0] == 10 * PART
    assert await seqs(expiries) == (list(range(23 * PART)), None)


async def test_as_many_as_were_asked_for_are_enough(engine: Engine) -> None:
    """With just so many found the look ends, for a second: they are to be settled first."""
    engine.expires_at = {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
    expiries = expiries_on(engine)
    assert await seqs(expiries, limit=2 * PART) == ([1, 2, 3, 4], NOW + 1000)
    assert await seqs(expiries, limit=3) == ([1, 2, 3], NOW + 1000)
    assert await seqs(expiries) == ([1, 2, 3, 4, 5], None)


async def test_what_is_registered_during_a_look_is_found(engine: Engine) -> None:
    """It may expire at any time, before what the look has passed as well."""
    engine.expires_at = {1: NOW + 50}
    expiries = expiries_on(engine)
    engine.meanwhile = lambda: expiries.note("a", NOW + 10)
    assert await seqs(expiries) == ([], NOW + 50)
    engine.meanwhile = lambda: None
    assert await seqs(expiries, NOW + 9) == ([], NOW + 10)
    assert len(engine.looked_from()) == 1
    engine.expires_at[2] = NOW + 10
    assert await seqs(expiries, NOW + 10) == ([2], NOW + 50)
    assert engine.looked_from() == [NOW + 10]


async def test_a_read_that_fails_has_found_nothing_out(engine: Engine) -> None:
    """The next look begins where that one did."""
    engine.expires_at = {1: 10}
    expiries = expiries_on(engine)
    engine.broken = True
    with pytest.raises(StoreError):
        await seqs(expiries)
    engine.broken = False
    assert await seqs(expiries) == ([1], None)


async def test_what_was_found_is_told_until_it_is_settled(engine: Engine) -> None:
    """At its very millisecond too; what has none that waits any more is forgotten."""
    engine.expires_at = {1: NOW, 2: NOW - 1}
    expiries = expiries_on(engine)
    assert [await seqs(expiries) for _ in range(2)] == [([2, 1], None)] * 2
    del engine.expires_at[2]
    assert await seqs(expiries) == ([1], None)
    engine.expires_at[2] = NOW - 1  # as no callback comes back, it is found by nobody
    assert await seqs(expiries) == ([1], None)


async def test_one_that_expires_later_after_all_is_looked_for_then(engine: Engine) -> None:
    """Its callback that had expired is settled, and another one of the task's still waits."""
    engine.expires_at = {1: NOW}
    expiries = expiries_on(engine)
    assert await seqs(expiries) == ([1], None)
    engine.expires_at = {1: NOW + 5}
    assert await seqs(expiries, NOW + 1) == ([], None)
    engine.reads.clear()
    assert await seqs(expiries, NOW + 4) == ([], NOW + 5)
    assert not engine.reads  # of what was passed over none is asked about
    assert await seqs(expiries, NOW + 5) == ([1], None)


async def test_what_another_process_stored_late_is_found(engine: Engine) -> None:
    """A new look goes back an hour behind the last whole one."""
    expiries = expiries_on(engine)
    engine.expires_at = {9: NOW + 1}
    await seqs(expiries)
    engine.expires_at |= {1: NOW - HOUR_MS, 2: NOW - HOUR_MS - 1}
    expiries.look_again()
    assert await seqs(expiries) == ([1], NOW + 1)
    assert engine.looked_from()[1:] == [NOW - HOUR_MS]


async def test_a_look_in_the_middle_is_not_begun_anew(engine: Engine) -> None:
    """It goes through what was stored late anyhow: else it would never come to its end."""
    engine.expires_at = dict(enumerate(range(1, 12 * PART + 1)))
    expiries = expiries_on(engine)
    await seqs(expiries)
    engine.looked_from()
    expiries.look_again()
    await seqs(expiries)
    assert engine.looked_from()[0] == 10 * PART + 1


async def test_what_expires_on_another_upstream_is_passed(engine: Engine) -> None:
    """It is looked through once, with this upstream's."""
    engine.expires_at = {1: 10, 2: 20, 3: 30}
    engine.others = {1, 3}
    expiries = expiries_on(engine)
    assert await seqs(expiries) == ([2], None)
    assert engine.looked_from() == [0, 21]
    assert [task.seq for task in (await expiries.expired("b", NOW, 100))[0]] == [1, 3]


async def test_a_clock_that_was_set_forgets_when_they_expire(engine: Engine) -> None:
    """All of time is gone through anew."""
    engine.expires_at = {1: 10}
    expiries = expiries_on(engine)
    await seqs(expiries)
    expiries.forget_times()
    engine.looked_from()
    assert await seqs(expiries) == ([1], None)
    assert engine.looked_from() == [0]


def test_forever_is_later_than_any_instant() -> None:
    """So an upstream of which nothing is known to expire is not looked at, whatever its clock says."""
    assert FOREVER > 253_402_300_799_999  # the last millisecond of the year 9999
