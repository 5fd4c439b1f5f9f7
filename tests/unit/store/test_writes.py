"""Whose turn is next among the writes that wait: what is small passes what is large, but not for ever."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from gateway.store.engine import Work
from gateway.store.writes import BATCH, Kind, Wish, WriteRow


def _apply(items: Sequence[Any]) -> Work[None]:
    yield from ()


_SOME, _APART, _ALONE = Kind("some", _apply), Kind("apart", _apply, apart=True), Kind("alone", _apply, alone=True)


def _wish(item: Any, rows: int = 1, kind: Kind = _SOME) -> Wish:
    return Wish(kind, item, rows, asyncio.Future())


def _batches(waiting: WriteRow) -> Iterator[list[Any]]:
    while waiting:
        yield [wish.item for wish in waiting.batch()]


def _row(*wishes: Wish) -> WriteRow:
    waiting = WriteRow()
    for wish in wishes:
        waiting.add(wish)
    return waiting


async def test_what_is_small_does_not_wait_for_megabytes_of_others() -> None:
    """A create's row goes before eight outcomes of a megabyte that were asked for earlier, each a transaction."""
    row = _row(*(_wish(f"outcome {number}", 1025) for number in range(8)), _wish("create"))
    assert next(_batches(row)) == ["create"]
    assert list(_batches(row)) == [[f"outcome {number}"] for number in range(8)]


async def test_what_is_as_small_goes_in_its_order() -> None:
    """Of writes that take about as much none passes another."""
    row = _row(*(_wish(number, 1 + number % 3) for number in range(40)))
    assert list(_batches(row)) == [list(range(40))]


@pytest.mark.parametrize(("rows", "passes"), [(512, 31), (1025, 63)])
async def test_what_is_large_is_passed_by_a_few_only(rows: int, passes: int) -> None:
    """However many small ones keep coming, a large one has its turn after so many of them."""
    row = _row(_wish("large", rows))
    for number in range(1000):
        row.add(_wish(number))
        (first,) = row.batch()[:1]
        if first.item == "large":
            break
    assert number == passes


async def test_what_shares_with_nobody_keeps_its_place_in_time() -> None:
    """What was asked for as if the clock had been followed is written after that, and before it what came earlier."""
    row = _row(
        _wish("large before", 2000),
        _wish("before"),
        _wish("clock", 1, _ALONE),
        _wish("after"),
        _wish("large after", 600),
    )
    assert list(_batches(row)) == [["before"], ["large before"], ["clock"], ["after"], ["large after"]]


async def test_what_has_a_transaction_of_its_own_shares_it_with_nobody() -> None:
    """Neither with what goes before it nor with what comes behind, as it finds out within it what it changes."""
    row = _row(_wish(1), _wish(2, kind=_APART), _wish(3), _wish(4))
    assert list(_batches(row)) == [[1], [2], [3, 4]]


async def test_what_was_taken_and_not_written_has_its_place_again() -> None:
    """A batch that was cut short goes before whoever has come meanwhile, and its rows are counted."""
    row = _row(_wish(1), _wish(2), _wish("large", BATCH))
    batch = row.batch()
    row.add(_wish(3))
    assert (len(batch), row.rows) == (2, BATCH + 1)
    row.put_back(batch)
    assert row.rows == BATCH + 3
    assert list(_batches(row)) == [[1, 2, 3], ["large"]]
    assert row.rows == 0


async def test_what_is_large_and_was_taken_comes_before_what_follows_all_of_it() -> None:
    """Due times that it stores are moved where the clock is followed that was asked for after it."""
    row = _row(_wish("large", 400))
    batch = row.batch()
    row.add(_wish("clock", 1, _ALONE))
    row.add(_wish("after"))
    row.put_back(batch)
    assert list(_batches(row)) == [["large"], ["clock"], ["after"]]


async def test_all_of_them_are_taken_at_once_where_the_writer_ends() -> None:
    """Each is told, in its order, and none is counted any more."""
    row = _row(_wish("large", 100), _wish("small"))
    assert [wish.item for wish in row.all()] == ["small", "large"]
    assert (bool(row), row.rows) == (False, 0)


async def test_all_of_them_are_in_the_order_in_which_they_would_be_written() -> None:
    """What is as late in turn goes in the order of asking."""
    for sizes in product((1, 64, 65, 200), repeat=5):
        one, other = (_row(*(_wish(number, rows) for number, rows in enumerate(sizes))) for _ in range(2))
        assert [wish.item for wish in one.all()] == [item for batch in _batches(other) for item in batch]
