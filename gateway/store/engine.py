"""What an engine gives to the ports: how it reads, writes and claims, and what it tells of its errors.

The ports stand once, in the modules beside this one; an engine is a folder below. What a port writes is a generator of
steps: it knows no connection, and an engine drives it within one transaction, in whatever thread or loop that needs.
Rows are tuples. Owns no logic; called by the ports and by the engines.
"""

from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from gateway.core.claims import AttemptRecord, DueCallback, Lane, Share
from gateway.store.dialect import CreateStatements, DeliverStatements, ReadStatements, SearchStatements, Statements

T = TypeVar("T")

Column = Literal["outcome", "record"]
"""Columns of ``tasks`` that may be large."""

Lead = tuple[str, int]
"""An upstream whose polls one process leads, and in which epoch."""


class Rows(NamedTuple):
    """One statement over many rows: however many, also none."""

    statement: str
    rows: Sequence[tuple[Any, ...]]


class Run(NamedTuple):
    """One statement, once."""

    statement: str
    parameters: Any = ()
    """A mapping for ``:name``, in which others may stand too; else a sequence."""


class Write(NamedTuple):
    """A large value, into the column of a task's row that was left empty for it; not where it is not empty."""

    seq: int
    column: Column
    parts: Sequence[bytes]


class Touched(NamedTuple):
    """Tasks that work will change, by whatever names them."""

    seqs: Collection[int] = ()
    tasks: Collection[tuple[str, str]] = ()
    """Upstream and task_id."""
    callbacks: Collection[str] = ()
    """Ids of their callbacks."""
    new: "Callable[[], Sequence[tuple[Any, ...]]] | None" = None
    """Makes the rows of INSERT_TASKS, of those of ``tasks`` that are made where there are none."""
    webhooks: Collection[int] = ()
    """Seqs of callbacks that are changed whatever becomes of their tasks."""


class Result(msgspec.Struct, frozen=True):
    """What a step has brought."""

    rows: list[Any]
    count: int
    """Rows that were inserted, updated or deleted by the statement itself; 0 for one that only reads."""


Step = Rows | Run | Write
Work = Generator[Step, Result, T]
"""What is done within a transaction. It may be driven anew from its start, so it changes nothing but by its steps."""


class Blame(Enum):
    """Whose fault an exception is that a transaction has raised."""

    DATABASES = "database"
    """The next write will meet it too."""
    VALUES = "values"
    """A write's own values: a constraint, a size, a number, a text."""
    DEFECT = "defect"
    """The gateway's: everything else."""
    LOCKS = "locks"
    """Somebody else's, who holds what one of the writes wants: the others may be written."""


class Hints(Protocol):
    """Tells other replicas of what a commit has changed. Nothing depends on it: they find that out by themselves."""

    def tasks(self, upstream: str, watchers: str, due_at: int) -> None:
        """Tell that a task of this group is due then, or later than that."""

    def expiries(self, upstream: str, expires_at: int) -> None:
        """Tell that a callback on one of its tasks expires then, or later than that."""

    def lane(self, lane: Lane, due_at: int) -> None:
        """Tell that a webhook of this lane falls due then, or later than that."""

    def emptied(self, lane: Lane) -> None:
        """Hear that this process has claimed all that this lane has: whoever was not told of it yet need not be."""

    def settled(self, seqs: Iterable[int]) -> None:
        """Tell whoever waits for these tasks' ends."""


class Left(NamedTuple):
    """What a claim has left of a lane."""

    next_due_at: int | None
    """When its next unclaimed webhook is due."""
    only_retries: bool
    """Whether that is due already, and a retry, which its share left out."""


class Due(NamedTuple):
    """What was claimed of the lanes."""

    webhooks: list[DueCallback]
    """The longest due first."""
    left: list[Left]
    """Of each lane, in the shares' order."""


class WebhookClaims(Protocol):
    """Whose each webhook is that is being sent."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Keep others of this process from claiming until this is left; what ``claim`` needs is free then."""

    async def claim(self, shares: Sequence[Share], since: Sequence[int], now: int) -> Due:
        """Claim due webhooks, within a turn: of each lane as many as its share says, the longest due ones.

        ``since``: before when none is due of each lane, so that nobody need look there.
        """

    def holds(self, claim: DueCallback) -> bool:
        """Whether a claim lasts for a whole attempt that begins now."""

    async def keep(self, claim: DueCallback) -> bool:
        """Begin a claim's time anew, which has waited before its attempt; False where it is another's by now."""

    async def release(self, claims: Sequence[DueCallback]) -> None:
        """Give claims back of which nothing was recorded. Raises nothing."""

    def recorded(self, claims: Iterable[DueCallback]) -> None:
        """Hear that attempts have been recorded: their claims have ended."""


class Engine(Protocol):
    """A database, as the ports use it."""

    shared: bool
    """Whether other processes may work on the database, and one of them leads an upstream's polls."""
    sql: Statements
    deliversql: DeliverStatements
    watchsql: ReadStatements
    createsql: CreateStatements
    searchsql: SearchStatements
    hints: Hints
    webhooks: WebhookClaims

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        """Run one statement that changes nothing, and return its rows. Raises StoreError.

        It sees what is committed when it begins; what is written meanwhile may be told of before its rows are there.
        """

    async def large(self, seq: int, column: Column) -> bytes | None:
        """Return a value that may be large; None where there is none. Raises StoreError."""

    def transaction(
        self, make: Callable[[], Work[T]], committed: Callable[[T, bool], None], *, hasty: bool
    ) -> Coroutine[Any, Any, object]:
        """Do work within one transaction; ``committed`` is called with what it returned, and whether it wrote anything.

        It may begin before it is awaited, which it is to be in any case. ``committed`` is called in the event loop, as
        soon as it is durable, and before this returns. Nothing is done, and it is not called, where this raises. Work
        may be made and driven several times. ``hasty``: what others have locked is waited for for a moment only.
        """

    def blame(self, exc: Exception) -> Blame:
        """Say whose fault it is that a transaction has raised this."""

    def require(self) -> None:
        """Raise StoreError where it is known that nothing can be written at the moment, so that nothing is claimed."""

    def array(self, values: Sequence[Any]) -> Any:
        """Return a parameter that is many values: where a statement says so."""

    def record(self, attempts: Sequence[AttemptRecord]) -> Work[bool]:
        """Record attempts and what becomes of their webhooks, where it takes fewer statements to do both at once.

        False where it does not, or something has fenced one of them off: then the rest is left to each statement alone.
        """

    def guard(self, leads: Collection[Lead], lock: Sequence[int] = ()) -> Work[Collection[Lead]]:
        """Return which of these go on, until the transaction ends. With one process all do, and no step is taken.

        ``lock``: as ``lock`` of these tasks, at the same time.
        """

    def lock(self, seqs: Sequence[int]) -> Work[None]:
        """Keep others from changing who waits for these tasks until the transaction ends.

        Comes first where what is done depends on that. Where one writes at a time, no step is taken.
        """

    def lock_all(self, touched: Iterable[Touched]) -> Work[None]:
        """As ``lock``, of all that several statements of a transaction will change, each its part: in one order.

        Else two transactions might wait for one another, each for what the other's first statement has locked. New
        tasks that several of them would make are made here.
        """
