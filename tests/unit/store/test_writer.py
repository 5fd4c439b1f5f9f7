"""The store's writer by itself: who shares a transaction, and who shares its failure."""

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreDefect, StoreError, StoreLocked, StoreRefused, StoreUnsure
from gateway.store.engine import Run, Touched, Work
from gateway.store.writer import Writer
from gateway.store.writes import Kind
from tests.transactions import Transactions, blame, no_locks, others_blame


@pytest.fixture
def without_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long this machine takes for a turn: no batch is closed by the time."""
    monkeypatch.setattr("gateway.store.writer._GATHER_S", 3600.0)


async def _in_turns(writer: Writer, kind: Kind, steps: Sequence[int], rows: int = 1) -> None:
    """Write, each so many turns of the event loop after the one before it."""
    writes = []
    for number, turns in enumerate(steps):
        for _ in range(turns):
            await asyncio.sleep(0)
        writes.append(asyncio.create_task(writer.submit(kind, number, rows)))
    assert await asyncio.gather(*writes) == list(range(len(steps)))


async def _batches(steps: Sequence[int], rows: int = 1) -> list[Sequence[Any]]:
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    await _in_turns(writer, kind, steps, rows)
    await writer.close()
    return transactions.batches


@pytest.mark.usefixtures("without_hurry")
async def test_writes_of_successive_turns_share_a_transaction() -> None:
    """Requests that arrived together reach the store a turn of the event loop apart: one commit is for all of them."""
    assert await _batches([0, *[1] * 31]) == [list(range(32))]


@pytest.mark.usefixtures("without_hurry")
@pytest.mark.parametrize(("steps", "commits"), [([0, 3], 1), ([0, 4], 2), ([0, 1, 3, 3, 1, 3], 1)])
async def test_a_transaction_waits_until_three_turns_in_a_row_bring_nobody(steps: list[int], commits: int) -> None:
    """Clients that got their answers from the last commit join the next one, and nobody waits for one who is away."""
    assert len(await _batches(steps)) == commits


class _Turns:
    """The event loop's turns, each of which takes so long by the loop's own clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turn_s: float) -> None:
        self.number = 0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.number * turn_s)
        self._turning = asyncio.create_task(self._turn())

    async def _turn(self) -> None:
        while True:
            self.number += 1
            await asyncio.sleep(0)


async def test_a_transaction_waits_for_a_few_milliseconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every turn brings another write, and takes a while, the first ones are stored before many have come."""
    _Turns(monkeypatch, 0.001)
    assert len((await _batches([0, *[1] * 20]))[0]) == 5


@pytest.mark.parametrize(("turn_s", "together"), [(0.001, [[1, 2]]), (0.006, [[1], [2]])])
async def test_a_turn_that_takes_long_is_the_only_wait_for_others(
    monkeypatch: pytest.MonkeyPatch, turn_s: float, together: list[list[int]]
) -> None:
    """Be it the first write's turn or that in which the last commit is told of: a busy loop's turns are long enough."""
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    await asyncio.sleep(0)
    _Turns(monkeypatch, turn_s)
    for _ in range(2):  # an idle writer's, and then one that comes as the last one's caller goes on
        first = asyncio.create_task(writer.submit(kind, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(first, writer.submit(kind, 2))
    await writer.close()
    assert transactions.batches == together * 2


@pytest.mark.parametrize(("waited_s", "at_once"), [(0.001, False), (0.003, True)])
async def test_what_has_waited_during_a_commit_is_begun_as_that_is_told_of(
    monkeypatch: pytest.MonkeyPatch, waited_s: float, at_once: bool
) -> None:
    """Turns of a busy loop are not waited for in between; who has come just now still has others join him.

    What follows the first commit is done before the second transaction begins.
    """
    now = 0.0
    order: list[str] = []
    begun = asyncio.Event()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    transactions = Transactions()
    go_on = asyncio.Event()

    def begin(make: Any, committed: Any, *, hasty: bool) -> Any:
        order.append("begun")
        begun.set()

        async def end() -> None:
            await go_on.wait()
            await transactions(make, committed, hasty=hasty)
            order.append("the turn of the commit is over")

        return end()

    kind = Kind("some", transactions.apply, lambda items, _: order.append(f"what follows {items}"))
    writer = Writer((kind,), begin, blame, no_locks)
    writer.start()
    writes = [asyncio.create_task(writer.submit(kind, 1))]
    await begun.wait()
    writes.append(asyncio.create_task(writer.submit(kind, 2)))
    await asyncio.sleep(0)
    now += waited_s
    go_on.set()
    assert await asyncio.gather(*writes) == [1, 2]
    await writer.close()
    assert transactions.batches == [[1], [2]]
    second = 2 if at_once else 3
    expected = ["begun", "what follows [1]", "the turn of the commit is over"]
    assert order[:4] == [*expected[:second], "begun", *expected[second:]]


async def test_a_writes_caller_goes_on_before_the_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for its row to be durable, and not for a turn more in which the writer would hear of that."""
    order: list[str] = []
    transactions = Transactions()

    async def later(make: Any, committed: Any, *, hasty: bool) -> None:
        await transactions(make, committed, hasty=hasty)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append("the writer")

    kind = Kind("some", transactions.apply, lambda items, _: order.append(f"what follows {items}"))
    writer = Writer((kind,), later, blame, no_locks)
    writer.start()
    order.append(f"the caller of {await writer.submit(kind, 1)}")
    await writer.close()
    assert order == ["what follows [1]", "the caller of 1", "the writer"]


async def test_a_logger_that_raises_has_nothing_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told of as durable stays so, whatever comes after it."""
    transactions = Transactions(sqlite3.OperationalError("database or disk is full"))
    transactions.go_on.set()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    with pytest.raises(StoreError):
        await writer.submit(kind, 0)

    def raises(*_: object, **__: object) -> None:
        raise OSError("the log's disk is full")

    monkeypatch.setattr("gateway.store.writer._log", SimpleNamespace(info=raises))
    assert await asyncio.gather(writer.submit(kind, 1), writer.submit(kind, 2)) == [1, 2]
    await writer.close()
    assert transactions.batches == [[1, 2]]
    assert writer.failing is None


async def test_answers_that_are_too_few_are_a_defect_before_the_commit() -> None:
    """Nobody waits for an answer for ever, and nothing is committed twice."""
    transactions = Transactions()
    committed: list[Sequence[Any]] = []

    def apply(items: Sequence[Any]) -> Work[Sequence[Any]]:
        yield from transactions.apply(items)
        return items if len(items) == 1 else items[1:]

    kind = Kind("some", apply, lambda items, _: committed.append(items))
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    assert await asyncio.gather(*(writer.submit(kind, number) for number in range(3))) == [0, 1, 2]
    await writer.close()
    assert committed == [[0], [1], [2]]


@pytest.mark.usefixtures("without_hurry")
@pytest.mark.parametrize(("rows", "more", "turns"), [(256, 255, 5), (256, 256, 2), (257, 256, 2)])
async def test_a_transaction_that_is_full_waits_for_nobody(rows: int, more: int, turns: int) -> None:
    """Five hundred rows or so are a transaction, in however few writes they come."""
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    first = asyncio.create_task(writer.submit(kind, 1, rows))
    await asyncio.sleep(0)
    second = asyncio.create_task(writer.submit(kind, 2, more))
    waited = 0
    while not transactions.begun.is_set():
        await asyncio.sleep(0)
        waited += 1
    await asyncio.gather(first, second)
    await writer.close()
    assert waited == turns


@pytest.mark.usefixtures("without_hurry")
@pytest.mark.parametrize(("sizes", "batches"), [([1, 512, 1], [[0, 2], [1]]), ([256, 256, 600, 1], [[3, 0], [1], [2]])])
async def test_a_transaction_holds_no_more_than_is_full(sizes: list[int], batches: list[list[int]]) -> None:
    """Who waits for a row of its own waits for five hundred of others at most, unless one write has more by itself."""
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    await asyncio.gather(*(writer.submit(kind, number, rows) for number, rows in enumerate(sizes)))
    await writer.close()
    assert transactions.batches == batches


@pytest.mark.usefixtures("without_hurry")
async def test_a_full_transaction_is_not_counted_against_the_next_one() -> None:
    """After hundreds of rows have been written, who comes in successive turns shares a commit as before."""
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    await writer.submit(kind, 0, 600)
    await _in_turns(writer, kind, [0, 1, 1, 1])
    await writer.close()
    assert transactions.batches == [[0], [0, 1, 2, 3]]


@pytest.mark.usefixtures("without_hurry")
async def test_who_fails_with_a_write_that_shares_with_nobody_is_not_counted_later() -> None:
    """Whoever waited for it fails too, however many rows that were; who comes after that shares a commit as before."""
    transactions = Transactions(sqlite3.OperationalError("database or disk is full"))
    kind = Kind("some", transactions.apply)
    alone = Kind("alone", transactions.apply, alone=True)
    writer = Writer((kind, alone), transactions, blame, no_locks)
    writer.start()
    first = asyncio.create_task(writer.submit(alone, 1))
    await transactions.begun.wait()
    second = asyncio.create_task(writer.submit(kind, 2, 600))
    await asyncio.sleep(0)
    transactions.go_on.set()
    for write in (first, second):
        with pytest.raises(StoreError, match="Nothing was stored"):
            await write
    # Of a full transaction seven of them are short by one more; had it been full, it would not wait for the eighth.
    await _in_turns(writer, kind, [0, *[1] * 6, 3], rows=64)
    await writer.close()
    assert transactions.batches == [list(range(8))]


async def test_a_transaction_that_fails_is_not_the_failure_of_who_waits() -> None:
    """A full disk refuses what it was asked to write; what came meanwhile has its own try."""
    transactions = Transactions(sqlite3.OperationalError("database or disk is full"))
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    first = asyncio.create_task(writer.submit(kind, 1))
    await transactions.begun.wait()
    second = asyncio.create_task(writer.submit(kind, 2))
    await asyncio.sleep(0)
    assert writer._waiting
    transactions.go_on.set()
    with pytest.raises(StoreError, match="Nothing was stored"):
        await first
    assert await second == 2
    await writer.close()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (sqlite3.IntegrityError("CHECK constraint failed"), StoreRefused),
        (sqlite3.DataError("string or blob too big"), StoreRefused),
        (OverflowError("int too large"), StoreRefused),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), StoreRefused),
        (sqlite3.ProgrammingError("Error binding parameter 1"), StoreDefect),
        (sqlite3.InterfaceError("bad parameter"), StoreDefect),
        (sqlite3.InternalError("bug"), StoreDefect),
        ("SELECT nothing FROM nowhere", StoreDefect),
        (TypeError("a defect"), StoreDefect),
        (AttributeError("a defect"), StoreDefect),
        (KeyError("a defect"), StoreDefect),
        (ValueError("a defect"), StoreDefect),
        (RuntimeError("a defect"), StoreDefect),
    ],
    ids=repr,
)
async def test_one_writes_fault_is_its_own(fault: Exception | str, told: type[StoreError]) -> None:
    """Whatever it is, the others are written; only what the write's own values bring about is said to be that."""

    def apply(items: Sequence[Any]) -> Work[Sequence[Any]]:
        if 2 in items:
            if isinstance(fault, str):
                yield Run(fault)
            else:
                raise fault
        return items

    transactions = Transactions()
    kind = Kind("some", apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    with capture_logs() as log:
        results = await asyncio.gather(*(writer.submit(kind, n) for n in range(4)), return_exceptions=True)
    assert results.pop(2).__class__ is told
    assert results == [0, 1, 3]
    event = "store.write_refused" if told is StoreRefused else "store.write_defect"
    assert [(line["event"], line["kind"]) for line in log] == [(event, "some")]
    assert writer.failing is None
    await writer.close()


async def test_somebody_elses_lock_fails_who_wants_it() -> None:
    """In ever smaller parts, which wait for a moment only: all others are written, and the database is well."""

    def apply(items: Sequence[Any]) -> Work[Sequence[Any]]:
        if {3, 70} & {*items}:
            raise StoreLocked("somebody holds it", reason="slow")
        return (yield from transactions.apply(items))

    transactions = Transactions()
    kind = Kind("some", apply)
    writer = Writer((kind,), transactions, others_blame, no_locks)
    writer.start()
    with capture_logs() as log:
        results = await asyncio.gather(*(writer.submit(kind, n) for n in range(100)), return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, StoreLocked)] == [3, 70]
    assert [result for result in results if not isinstance(result, Exception)] == [
        n for n in range(100) if n not in (3, 70)
    ]
    assert sorted(n for batch in transactions.batches for n in batch) == [n for n in range(100) if n not in (3, 70)]
    assert transactions.hasty == [False, *[True] * (len(transactions.hasty) - 1)]
    assert len(transactions.hasty) < 30
    assert [(line["event"], line["writes"]) for line in log] == [("store.locked", 1)] * 2
    assert writer.failing is None
    await writer.close()


@pytest.mark.parametrize("long", [True, False])
async def test_a_lock_on_everything_is_not_tried_in_parts_for_ever(monkeypatch: pytest.MonkeyPatch, long: bool) -> None:
    """After a while all are told; and where nothing else is met for a while, the store is failing until it is over."""
    monkeypatch.setattr("gateway.store.writer._PARTS_S", -1.0)
    monkeypatch.setattr("gateway.store.writer._LOCKED_S", 0.0 if long else 3600.0)
    transactions = Transactions(*(StoreLocked("somebody holds it") for _ in range(2)))
    transactions.go_on.set()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, others_blame, no_locks)
    writer.start()
    for fails in (False, long):
        results = await asyncio.gather(*(writer.submit(kind, n) for n in range(100)), return_exceptions=True)
        assert {type(result) for result in results} == {StoreLocked}
        assert (writer.failing is not None) is fails
    assert await writer.submit(kind, 1) == 1
    assert writer.failing is None
    assert len(transactions.hasty) == 3
    await writer.close()


async def test_a_fault_and_the_databases_trouble_at_once() -> None:
    """Parts that are left when the database fails are written with the next transaction, or fail with that."""

    def apply(items: Sequence[Any]) -> Work[Sequence[Any]]:
        if 2 in items:
            raise KeyError("a defect")
        if 0 in items and transactions.hasty:
            raise sqlite3.OperationalError("disk I/O error")
        return (yield from transactions.apply(items))

    transactions = Transactions()
    kind = Kind("some", apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    results = await asyncio.gather(*(writer.submit(kind, n) for n in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, StoreError, StoreDefect, int]
    assert transactions.batches == [[3]]
    await writer.close()


@pytest.mark.parametrize(
    "trouble",
    [
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.DatabaseError("database disk image is malformed"),
        StoreError("The store is closed."),
        OSError("the disk is gone"),
        MemoryError(),
    ],
    ids=repr,
)
async def test_the_databases_trouble_is_everybodys(trouble: Exception) -> None:
    """It is met once, not once for each write, and until something is written the store is failing."""
    transactions = Transactions(trouble)
    transactions.go_on.set()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    with capture_logs() as log:
        results = await asyncio.gather(*(writer.submit(kind, n) for n in range(4)), return_exceptions=True)
    assert {result.__class__ for result in results} == {StoreError}
    told = [] if isinstance(trouble, StoreError) else [("store.write_failed", 4)]  # who raises that has told of it
    assert [(line["event"], line["writes"]) for line in log] == told
    assert await writer.submit(kind, "nothing") == "nothing"
    assert writer.failing is not None, "what writes nothing needs no room"
    assert await writer.submit(kind, 5) == 5
    assert writer.failing is None
    await writer.close()


async def test_a_defect_in_a_write_that_shares_with_nobody_is_of_who_waits_too() -> None:
    """What was asked for as if it had been done must not be written without it."""
    transactions = Transactions(KeyError("a defect"))
    kind = Kind("some", transactions.apply)
    alone = Kind("alone", transactions.apply, alone=True)
    writer = Writer((kind, alone), transactions, blame, no_locks)
    writer.start()
    first = asyncio.create_task(writer.submit(alone, 1))
    await transactions.begun.wait()
    second = asyncio.create_task(writer.submit(kind, 2))
    await asyncio.sleep(0)
    transactions.go_on.set()
    for write in (first, second):
        with pytest.raises(StoreError, match="Nothing was stored"):
            await write
    assert transactions.batches == []
    await writer.close()


@pytest.mark.parametrize("kind_of_error", [StoreError, StoreUnsure])
async def test_what_the_engine_says_is_passed_on(kind_of_error: type[StoreError]) -> None:
    """Where it has told of the database's trouble, the writes' callers hear that: it knows whether they were stored."""
    transactions = Transactions(kind_of_error("It is starting.", reason="restarting"))
    transactions.go_on.set()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    with pytest.raises(kind_of_error, match=r"^It is starting\.$") as caught:
        await writer.submit(kind, 1)
    assert (type(caught.value), caught.value.reason) == (kind_of_error, "restarting")
    await writer.close()


async def test_what_follows_a_commit_does_not_make_it_a_failure() -> None:
    """A defect in who is told of a commit is logged; what is on disk is not said to have failed."""
    transactions = Transactions()

    def raises(*_: Any) -> None:
        raise RuntimeError("a defect")

    kind = Kind("some", transactions.apply, raises)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    with capture_logs() as log:
        assert await writer.submit(kind, 1) == 1
    assert [(line["event"], line["kind"]) for line in log] == [("store.follow_up_failed", "some")]
    assert writer.failing is None
    await writer.close()


async def test_nobody_waits_for_a_writer_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a defect ends it, even one in telling of a failure, whoever waits hears of it, and who comes later too."""

    def raises(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("gateway.store.writer._log", SimpleNamespace(error=raises))
    transactions = Transactions(sqlite3.OperationalError("disk I/O error"))
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    first = asyncio.create_task(writer.submit(kind, 1))
    await transactions.begun.wait()
    second = asyncio.create_task(writer.submit(kind, 2))
    await asyncio.sleep(0)
    transactions.go_on.set()
    for write in (first, second, writer.submit(kind, 3)):
        with pytest.raises(StoreError):
            await write
    with pytest.raises(RuntimeError):
        await writer.close()


async def test_what_several_kinds_touch_is_locked_first_and_together() -> None:
    """Two replicas whose writes of one kind have what the other's next kind wants would wait for one another."""
    transactions = Transactions()
    steps: list[object] = []

    def lock_all(touched: Collection[Touched]) -> Work[None]:
        steps.append([*touched])
        yield from ()

    def applied(items: Sequence[Any]) -> Work[Sequence[Any]]:
        steps.append(items)
        return (yield from transactions.apply(items))

    one = Kind("one", applied, touches=lambda items: Touched(seqs=items))
    other = Kind("other", applied, touches=lambda items: Touched(tasks=[("up", item) for item in items]))
    none = Kind("none", applied)
    single = Kind("single", applied, touches=lambda items: Touched(seqs=items), singly=True)
    writer = Writer((one, none, other, single), transactions, blame, lock_all)
    writer.start()
    await asyncio.gather(
        writer.submit(other, "t"), writer.submit(none, 0), writer.submit(one, 1), writer.submit(one, 2)
    )
    assert steps == [[Touched(seqs=[1, 2]), Touched(), Touched(tasks=[("up", "t")])], [1, 2], [0], ["t"]]
    steps.clear()
    await asyncio.gather(writer.submit(one, 1), writer.submit(one, 2))
    assert steps == [[1, 2]], "one kind locks in one order by itself"
    steps.clear()
    await asyncio.gather(writer.submit(single, 1), writer.submit(single, 2))
    assert steps == [[Touched(seqs=[1]), Touched(seqs=[2])], [1, 2]], "unless each of its items does"
    steps.clear()
    await writer.submit(single, 1)
    assert steps == [[1]]
    await writer.close()


async def test_what_finds_out_within_what_it_touches_is_written_apart() -> None:
    """It could lock in no order together with others; they succeed where it fails."""
    transactions = Transactions()
    some, apart = Kind("some", transactions.apply), Kind("apart", transactions.apply, apart=True)
    writer = Writer((some, apart), transactions, blame, no_locks)
    writer.start()
    await asyncio.gather(*(writer.submit(kind, item) for item, kind in enumerate((some, some, apart, some))))
    assert transactions.batches == [[0, 1], [2], [3]]
    await writer.close()
