"""What waits to be parsed, on a loop of its own: its owner may do anything while it parses."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from gateway.net.unparsed import LARGE_STEP, ParsingTurns, Unparsed


class Owner:
    """Finds a flood of parts in each step, and then does what the test says."""

    step = 3

    def __init__(self) -> None:
        self.parts = 0
        self.taken: list[bytes] = []
        self.then: Callable[[], object] = lambda: None
        self.given_up_for: list[bool] = []

    def take(self, data: bytes) -> None:
        self.taken.append(data)
        self.parts += 1000
        self.then()

    def give_up(self, *, floods: bool) -> None:
        self.given_up_for.append(floods)


def made() -> tuple[Unparsed, Owner, Mock, ParsingTurns]:
    owner, transport, behind = Owner(), Mock(asyncio.Transport), ParsingTurns()
    return Unparsed(owner, transport, behind), owner, transport, behind


def switched(transport: Mock) -> list[str]:
    """Return what the transport was told."""
    return [call[0] for call in transport.method_calls]


async def test_one_step_in_each_turn_in_order() -> None:
    """Whatever comes meanwhile waits behind it, and the transport is told once."""
    unparsed, owner, transport, behind = made()
    unparsed.add(b"abcdefgh")
    unparsed.add(b"ij")
    assert (owner.taken, bool(unparsed.reads), unparsed in behind, behind.size) == ([b"abc"], True, True, 7)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (owner.taken, bool(unparsed.reads), unparsed in behind) == ([b"abc", b"def", b"gh", b"ij"], False, False)
    assert behind.size == 0
    assert switched(transport) == ["pause_reading", "resume_reading"]


async def test_its_owners_pause_lasts() -> None:
    """Reading goes on when nothing waits and the owner wants it, whichever comes last."""
    unparsed, _, transport, _ = made()
    unparsed.add(b"abcd")
    unparsed.pause_reading()
    await asyncio.sleep(0)
    assert not unparsed.reads
    assert switched(transport) == ["pause_reading"]
    unparsed.resume_reading()
    unparsed.add(b"abcd")
    unparsed.pause_reading()
    unparsed.resume_reading()
    assert switched(transport) == ["pause_reading", "resume_reading", "pause_reading"]
    for _ in range(3):
        await asyncio.sleep(0)
    assert switched(transport)[-1] == "resume_reading"


async def test_its_owner_pauses_and_resumes_while_it_parses() -> None:
    """Also where a step's parts were few, so that the next one follows in the same turn."""
    unparsed, owner, transport, _ = made()
    told = iter((unparsed.pause_reading, unparsed.resume_reading, lambda: None))
    owner.then = lambda: (setattr(owner, "parts", 0), next(told)())
    unparsed.add(b"abcdefghi")
    assert (len(owner.taken), bool(unparsed.reads)) == (3, False)
    assert switched(transport) == ["pause_reading", "resume_reading"]


@pytest.mark.parametrize("end", ["drop", "let_go"])
async def test_what_is_dropped_is_not_parsed(end: str) -> None:
    """Not in a later turn, nor in this one where the owner gives up in the middle of it."""
    unparsed, owner, transport, behind = made()
    unparsed.add(b"abcdefgh")
    getattr(unparsed, end)()
    await asyncio.sleep(0)
    assert (owner.taken, bool(unparsed.reads), unparsed in behind, behind.size) == ([b"abc"], False, False, 0)
    other, owner, transport, behind = made()
    owner.then = getattr(other, end)
    other.add(b"abcdefgh")
    await asyncio.sleep(0)
    assert (owner.taken, bool(other.reads), other in behind, behind.size) == ([b"abc"], False, False, 0)
    assert "resume_reading" not in switched(transport)


async def test_a_fault_in_a_later_turn_ends_the_connection() -> None:
    """As the loop does it where a read's own turn fails: else it would stay for ever, and nothing be read of it."""
    unparsed, owner, _, behind = made()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    unparsed.add(b"abcdefgh")
    fault = ValueError()
    owner.then = Mock(side_effect=fault)
    await asyncio.sleep(0)
    assert told == [fault]
    assert (bool(unparsed.reads), unparsed in behind, behind.size) == (False, False, 0)
    assert owner.given_up_for == [False]


def beside(turns: ParsingTurns, told: list[int], number: int, parts: int = 1000) -> Unparsed:
    """Return another connection's, which tells of each step by its number."""
    owner = Owner()

    def then() -> None:
        owner.parts += parts - 1000
        told.append(number)

    owner.then = then
    return Unparsed(owner, Mock(asyncio.Transport), turns)


async def test_floods_that_come_in_one_turn_go_on_one_after_the_other() -> None:
    """Of 35, with a step of each in that turn, others waited for 20 ms; each has its turn."""
    turns, told = ParsingTurns(), list[int]()
    for number in range(5):
        beside(turns, told, number).add(b"abcdefghi")
    assert told == [0]
    steps = []
    while turns.size:
        before = len(told)
        await asyncio.sleep(0)
        steps.append(len(told) - before)
    assert max(steps) <= 2, "one that has not flooded yet, and one that has"
    assert sorted(told) == sorted([0, 1, 2, 3, 4] * 3)
    assert [told.index(number) for number in range(5)] == sorted(told.index(number) for number in range(5))


async def test_who_has_not_flooded_waits_behind_no_flood() -> None:
    """A request of 6 KB waited for each of three hundred floods; it is parsed in the next turn."""
    turns, told = ParsingTurns(), list[int]()
    for number in range(20):
        beside(turns, told, number).add(b"abcdef" * 100)
    for _ in range(30):
        await asyncio.sleep(0)
    told.clear()
    beside(turns, told, 77, parts=1).add(b"abcdefghi")
    assert told == []
    await asyncio.sleep(0)
    assert told[:3] == [77, 77, 77]


async def test_who_may_take_large_steps_waits_behind_no_flood() -> None:
    """An upload, say: its parts are few, and it is no flood."""
    flood, _, _, turns = made()
    flood.add(b"abcdef")
    owner = Owner()
    owner.step = LARGE_STEP
    upload = Unparsed(owner, Mock(asyncio.Transport), turns)
    upload.add(bytes(10_000))
    assert owner.taken == [bytes(LARGE_STEP)]
    for _ in range(5):
        await asyncio.sleep(0)
    upload.add(b"more")
    assert len(owner.taken) == 2, "a flood by now: it waits whatever its step is"


async def test_a_flood_in_small_pieces_waits_for_its_turn_too() -> None:
    """None of them is more than one step, and together they are as many parts."""
    unparsed, owner, _, _ = made()
    unparsed.add(b"abcd")
    for _ in range(3):
        await asyncio.sleep(0)
    assert owner.taken == [b"abc", b"d"]
    unparsed.add(b"ef")
    assert owner.taken == [b"abc", b"d"]
    await asyncio.sleep(0)
    assert owner.taken == [b"abc", b"d", b"ef"]


def given_up(*several: Unparsed) -> list[int]:
    """Return how often each was ended as a flood."""
    owners: list[Any] = [one._owner for one in several]
    return [owner.given_up_for.count(True) for owner in owners]


async def test_the_flood_of_which_most_waits_comes_to_its_end_while_too_much_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever brings little, a flood as it may be, does not lose its connection for others' megabytes."""
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 20)
    turns, told = ParsingTurns(), list[int]()
    large, small, other = (beside(turns, told, number) for number in range(3))
    for one in (large, small, other):
        one.found(1000, 0)
    small.add(b"abc")
    large.add(b"abcdef" * 2)
    assert (given_up(large, small, other), turns.size) == ([0, 0, 0], 15)
    other.add(b"abcdef")
    assert (given_up(large, small, other), turns.size) == ([1, 0, 0], 9)
    assert (bool(large.reads), large in turns) == (False, False)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (given_up(large, small, other), turns.size) == ([1, 0, 0], 0)
    assert sorted(told) == [1, 2, 2]


async def test_what_is_no_flood_is_parsed_at_once_while_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would only be more that waits."""
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 10)
    turns, told = ParsingTurns(), list[int]()
    beside(turns, told, 0).add(b"abcdef" * 10)
    beside(turns, told, 1, parts=1).add(b"abcdef" * 10)
    assert told == [0, *[1] * 20]


async def test_who_has_flooded_is_forgiven_after_some_reads_of_few_parts() -> None:
    """A read may have 32 of them; sixteen such reads make up for any number, and eight for being a flood."""
    unparsed, owner, _, turns = made()
    owner.then = lambda: setattr(owner, "parts", owner.parts - 1000)
    unparsed.found(1_000_000, 0)
    reads = 0
    while unparsed.floods:
        unparsed.add(b"ab")
        assert unparsed in turns
        await asyncio.sleep(0)
        reads += 1
    assert (reads, unparsed.owes) == (9, 512 - 9 * 32)
    unparsed.add(b"ab")
    assert unparsed not in turns
    for _ in range(10):
        unparsed.found(33, 4096)
    assert unparsed.owes == 512 - 10 * 32 + 10
    for _ in range(10):
        unparsed.found(1, 4096)
    assert unparsed.owes == 0


async def test_large_parts_are_no_flood_however_many() -> None:
    """An upload in chunks of half a kilobyte and more waits for nobody."""
    unparsed, _, _, _ = made()
    for _ in range(100):
        unparsed.found(1024, 1024 * 256)
    assert unparsed.owes == 0
    unparsed.found(1024 + 256, 1024 * 256)
    assert (unparsed.owes, unparsed.floods) == (256, True)
