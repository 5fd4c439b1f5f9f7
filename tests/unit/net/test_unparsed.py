"""What waits to be parsed, on a loop of its own: its owner may do anything while it parses."""

import asyncio
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from gateway.net.unparsed import Unparsed


class Owner:
    """Finds a flood of parts in each step, and then does what the test says."""

    step = 3

    def __init__(self) -> None:
        self.parts = 0
        self.taken: list[bytes] = []
        self.then: Callable[[], object] = lambda: None

    def take(self, data: bytes) -> None:
        self.taken.append(data)
        self.parts += 1000
        self.then()


def made() -> tuple[Unparsed, Owner, Mock, set[Unparsed]]:
    owner, transport, behind = Owner(), Mock(asyncio.Transport), set[Unparsed]()
    return Unparsed(owner, transport, behind), owner, transport, behind


def switched(transport: Mock) -> list[str]:
    """Return what the transport was told."""
    return [call[0] for call in transport.method_calls]


async def test_one_step_in_each_turn_in_order() -> None:
    """Whatever comes meanwhile waits behind it, and the transport is told once."""
    unparsed, owner, transport, behind = made()
    unparsed.add(b"abcdefgh")
    unparsed.add(b"ij")
    assert (owner.taken, bool(unparsed.reads), behind) == ([b"abc"], True, {unparsed})
    for _ in range(3):
        await asyncio.sleep(0)
    assert (owner.taken, bool(unparsed.reads), behind) == ([b"abc", b"def", b"gh", b"ij"], False, set())
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
    assert (owner.taken, bool(unparsed.reads), behind) == ([b"abc"], False, set())
    other, owner, _, behind = made()
    owner.then = getattr(other, end)
    other.add(b"abcdefgh")
    await asyncio.sleep(0)
    assert (owner.taken, bool(other.reads), behind) == ([b"abc"], False, set())
    assert "resume_reading" not in switched(transport)


async def test_a_fault_in_a_later_turn_ends_the_connection() -> None:
    """As the loop does it where a read's own turn fails: else it would stay for ever, and nothing be read of it."""
    unparsed, owner, transport, behind = made()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    unparsed.add(b"abcdefgh")
    fault = ValueError()
    owner.then = Mock(side_effect=fault)
    await asyncio.sleep(0)
    assert told == [fault]
    assert (bool(unparsed.reads), behind) == (False, set())
    transport.abort.assert_called_once_with()
