"""What the gateway remembers: five ports, each what one kind of caller asks of it, whatever the database.

The API and the loops meet only here: the API asks the ``Registry``, the pollers the ``TaskQueue``, the deliverer the
``Outbox``, who tells the operator ``Events``, and what runs the store ``Housekeeping``. All SQL lives in this package;
rows leave it as ``core.model`` types. Every write returns once it is durable, and is never half done; a caller that is
cancelled meanwhile does not undo it. Every method may raise ``StoreError`` (nothing was written; try again) or, at
``open``, ``StoreUnusable``.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from gateway.core.claims import AttemptRecord, BodyParts, DueCallback, DueGroup, DueTask, Lane, Share
from gateway.core.model import (
    Attempt,
    Backlog,
    Callback,
    CallbackState,
    ExpiredTask,
    NewCallback,
    PollRecord,
    Registration,
    Settlement,
    Task,
)
from gateway.core.pollhistory import PastPoll
from gateway.core.search import Looked, Sought, Wanted
from gateway.store.eventport import Events
from gateway.store.proxyport import ProxyRegistry

Turn = Callable[[], AbstractAsyncContextManager[None]]
"""What each part of a long piece of work is done in: its caller's others may have theirs before."""

Choose = Callable[[list[Lane]], Sequence[Share]]
"""Takes the lanes that have webhooks that are due, that of the longest due one first; returns what is to be claimed.

It is asked as late as can be, when the database is free: who asked before would miss what has fallen due meanwhile."""


class Claimed(NamedTuple):
    """What a claim of webhooks has brought."""

    webhooks: list[DueCallback]
    """The longest due first."""
    only_retries: list[Lane]
    """Of these, nothing is left that is due but retries, which their shares left out: nobody is told of them again."""
    next_due_at: int | None
    """When the next webhook falls due, of the lanes that are not in the caller's hands; None where none does."""


class Standing(NamedTuple):
    """How the replicas that work on one database stand to one another."""

    replicas: int
    """How many live, this one included."""
    led: frozenset[str]
    """What is led at present, whoever leads it."""
    refused: frozenset[str]
    """Of these, what whoever leads it cannot do, as it is refused that."""


class Registry(ProxyRegistry, Protocol):
    """What the API reads and changes."""

    async def register(self, new: Sequence[NewCallback]) -> list[Registration]:
        """Create each callback, or find the one that its client already registered for that task and URL.

        All of them share one transaction. A callback on a task that the upstream has ended is pending at once, with
        no further poll; one on a task that nobody watches any more, or that was given up, makes it polled at once. What
        it tells of its task's model is kept where nothing was known of that.
        """

    # Whose callbacks: ``client`` None means everybody's, those of clients that are no longer configured included.

    async def get_callback(self, client: str | None, callback_id: str) -> Callback | None:
        """Return one callback."""

    async def list_callbacks(
        self,
        client: str | None,
        *,
        state: CallbackState | None,
        task_id: str | None,
        before_seq: int | None,
        limit: int,
    ) -> list[Callback]:
        """Return callbacks, newest first, with ``seq`` below ``before_seq``."""

    async def search_callbacks(self, wanted: Wanted, before_seq: int | None, limit: int) -> Looked[Callback]:
        """Return which of some thousand callbacks with ``seq`` below ``before_seq``, newest first, are as wanted."""

    async def search_tasks(self, wanted: Wanted, before_seq: int | None, limit: int) -> Looked[Task]:
        """Look through some thousand tasks in the same way."""

    async def list_attempts(self, client: str | None, callback_id: str) -> list[Attempt] | None:
        """Return a callback's attempts that are kept, the last 200, in order; None where there is no such callback."""

    async def polls(self, task: Task) -> list[PastPoll]:
        """Return the first and the last polls of a task that the caller may see."""

    async def get_task(self, client: str | None, task_id: str) -> Task | None:
        """Return the task, where the client has registered a callback for it."""

    async def outcome(self, seq: int) -> bytes | None:
        """Return a task's outcome, however large; None where it has none any more."""

    async def wait_settled(self, seq: int, timeout_s: float) -> None:
        """Return when the task settles in this process, or after ``timeout_s`` seconds. A hint: ask again then."""

    async def cancel(self, client: str | None, callback_id: str, now: int) -> CallbackState | None:
        """Cancel a waiting or pending callback; return the state found, None where there is no such callback."""

    async def redeliver(self, client: str | None, callback_id: str, now: int) -> tuple[CallbackState, Callback] | None:
        """Make a pending, delivered or dead callback due now with a fresh budget.

        Return the state found and the callback as it is by that, whatever comes of its next attempt meanwhile; None
        where there is no such callback.
        """

    async def redeliver_dead(
        self,
        client: str | None,
        since: int,
        until: int,
        now: int,
        turn: Turn = nullcontext,
        receiver: Sought | None = None,
    ) -> int:
        """Redeliver every dead callback that died in ``since`` ≤ t < ``until``; return how many.

        ``receiver``: only those that it means, as ``count_dead`` counts them.

        In several transactions, each in a ``turn``, as is each part that is read before, and others go on in between.
        Raises StorePartly where some have been redelivered by then: the same call redelivers the rest.
        """

    async def count_dead(self, client: str | None, since: int, until: int, receiver: Sought | None = None) -> int:
        """Return how many callbacks died in ``since`` ≤ t < ``until``, of the receivers that are meant."""

    async def secret_key(self) -> bytes:
        """Return 32 random bytes made when this database was; they sign list cursors."""

    async def count_callbacks(self) -> dict[CallbackState, int]:
        """Return how many callbacks are in each state that any are in; it reads through all of them."""

    async def tasks_of_others(self, upstreams: Collection[str]) -> dict[str, int]:
        """Return of each upstream that is none of these how many tasks callbacks still wait for; 10,000 where more."""

    async def backlog(self, paused: Collection[Lane] = ()) -> Backlog:
        """Count what waits. It may take a while where that is much, but holds up nobody; see ``Backlog``.

        What waits on lanes that are ``paused``, or held back by these, is counted, and is never the longest due.
        """


class TaskQueue(Protocol):
    """Tasks that are to be polled, of the upstreams whose polls this replica leads.

    Of the others nothing is due, has expired or can be claimed. What is written of a task counts only while the
    leadership under which it was claimed, or read, goes on: else it changes nothing.
    """

    async def gained(self, upstream: str, epoch: int) -> None:
        """Learn what is due of an upstream, whose polls this replica leads from now on, in that epoch.

        Raises StoreError: then it knows nothing, as before.
        """

    def lost(self, upstream: str) -> None:
        """Hear that this replica leads an upstream's polls no longer: its claims have ended, and nothing is due."""

    def due(self, upstream: str) -> asyncio.Event:
        """Return what is set when a task is registered, released or moved with the clock. It only wakes.

        Correctness never depends on it. Who reschedules a task knows when it is due by himself.
        """

    async def waiting(self, upstream: str, now: int) -> tuple[list[DueGroup], int | None]:
        """Return the groups in which something may be due, and when the first task of all the others will be."""

    async def longest_due(self, upstream: str, watchers: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
        """Return unclaimed tasks of a group that are due, the longest due first, and when the one after them is.

        Fewer than ``limit`` though more are due: others watched those that are claimed; they are passed over next.
        """

    async def never_polled(self, upstream: str, since: int, now: int) -> list[DueTask]:
        """Return each group's first that is due, unclaimed and registered since then, of the last 1,000 registered."""

    async def claim(self, tasks: Sequence[DueTask]) -> list[DueTask]:
        """Claim tasks read before; return those nobody had claimed. A claim ends with reschedule, settle or release."""

    async def release(self, claims: Sequence[DueTask]) -> None:
        """Give claims back with nothing recorded, and wake the poller."""

    async def reschedule(self, record: PollRecord) -> None:
        """Store a poll that did not end the task and when the next one is due."""

    async def settle(self, settlement: Settlement) -> list[str] | None:
        """End a task, unless it has, and make its webhooks due, in one transaction; return their callbacks' ids.

        None: nothing is done, as another process leads its upstream's polls.
        Where only callbacks' time has passed, a task goes on that others wait for, or readers.
        """

    async def expired(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        """Return waiting tasks with callbacks whose time has passed, and when the next callback's will.

        Sooner, where there is more to be looked through: a part at a time, so that polls have their turn.
        """

    async def traces(self, seq: int) -> list[str]:
        """Return what some callbacks that wait for a task are a part of, in their order: ``core.tracecontext``."""

    async def unwatch(self, now: int) -> int:
        """Stop polling tasks whose readers have gone and that no callback waits for; return when to call again.

        A part at a time; whatever the upstream. Where others have locked one, later.
        """

    async def poll_now(self, upstream: str, seqs: Sequence[int], now: int) -> None:
        """Make waiting tasks due now of which a callback's time has passed.

        It may have been cancelled meanwhile.
        """


class Outbox(Protocol):
    """Webhooks that are to be sent."""

    due: asyncio.Event
    """Set when a webhook may be due earlier than the deliverer knows. Only wakes: correctness never depends on it."""

    async def claim(self, choose: Choose, now: int) -> Claimed:
        """Claim due webhooks: of each lane as many as its share says, the longest due ones, with retries or without.

        Of a lane ``choose`` is told once: it is in the caller's hands until it is claimed of, or something more is due
        on it. What is left of a lane is told of again when it is due. A claim that fails has claimed nothing, and all
        lanes that it has shares of are told of again. Each webhook is its claimer's until record or release.
        """

    def holds(self, claim: DueCallback) -> bool:
        """Whether a claim is the caller's for a whole attempt yet: this process may have been stopped meanwhile."""

    async def body(self, claim: DueCallback) -> BodyParts | bytes | None:
        """Return a claimed webhook's body, or what it is made of; None where it was cancelled meanwhile.

        That may have been long: where the claim has lapsed meanwhile and is another's, there is none either.
        """

    async def release(self, claims: Sequence[DueCallback]) -> None:
        """Give claims back with nothing recorded. Raises nothing: what cannot be given back ends by itself."""

    async def hand_over(self, claims: Sequence[tuple[DueCallback, str]]) -> None:
        """Give claims back with nothing recorded, on the lanes of other receivers, each named beside its claim."""

    async def record(self, record: AttemptRecord) -> None:
        """Store an attempt and its callback's next state in one transaction.

        Of several in a row that do not count the first and the last one stay in the log.

        A callback that was cancelled meanwhile stays cancelled; one that was redelivered meanwhile keeps its fresh
        budget, unless the attempt delivered it.
        """


class Housekeeping(Protocol):
    """What keeps a store open, watched, backed up, small and in step with the clock, and small durable values.

    And who leads, of the replicas that may work on it.
    """

    freed: asyncio.Event
    """Set when another replica has resigned something that it led. Only wakes: correctness never depends on it."""

    @property
    def shared(self) -> bool:
        """Whether other processes may work on this database beside this one, as replicas."""

    async def lead(self, name: str, ttl_s: float, *, refused: bool = ...) -> int | None:
        """Lead what has this name for so long from now on; return in which epoch, None where another replica leads it.

        Who leads goes on in the same epoch if it asks in time. Each take-over, and whoever was late, begins another.
        The others see for as long whether it is ``refused`` what it leads for.
        """

    async def resign(self, name: str) -> None:
        """Lead it no longer: another may at once. Nothing changes where another leads it already."""

    async def standing(self, ttl_s: float) -> Standing:
        """Tell that this replica lives for so long from now on, and see how all of them stand."""

    @property
    def stale_writes(self) -> int:
        """How many writes have changed nothing, as their task or webhook was another replica's by then."""

    async def open(self) -> None:
        """Open the database and bring its schema up to date."""

    async def close(self) -> None:
        """Finish the writes that wait, then let the database go."""

    @property
    def failing(self) -> str | None:
        """Why the last write or read failed, or that the file is damaged or gone; None where all is well."""

    @property
    def lost(self) -> str | None:
        """What has become of the database's file, in words for everybody; None while it is the one that was opened.

        Meanwhile nothing is written and nothing can be claimed.
        """

    async def look(self) -> None:
        """See whether the database's file is still the one that was opened. Raises StoreError: it is not."""

    async def load(self, key: str) -> bytes | None:
        """Return the small value that stands under a key."""

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Put a small value in the place of ``old`` (None: of nothing); False where something else stands there."""

    async def probe(self) -> None:
        """Write something, only to learn whether that is possible. Raises StoreError: it is not."""

    @property
    def set_back_ms(self) -> int:
        """By how many milliseconds the wall clock was set back while the store was closed; 0 where nobody can tell."""

    async def follow_clock(self, step_ms: int) -> None:
        """Move all that is still to happen by so much, as the wall clock was; what is history stays.

        Every write that was asked for before moves too, none that is asked for after does.
        """

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        """Delete callbacks that were delivered or cancelled before ``ended_before`` or died before ``dead_before``.

        Their attempts go with them, and tasks that no callback is left for, nor a reader. Return how many callbacks
        went; at most ``limit`` at once, so that no write waits long.
        """

    async def prune_reads(self, now: int, read_before: int, limit: int) -> int:
        """Forget readers that waited until before ``read_before``, and delete tasks that have no callback besides.

        Return how many tasks that was, at most ``limit``.
        """

    async def prune_creates(self, before: int, most: int, limit: int) -> int:
        """Delete creates that were begun before then, and each client's oldest where they are more than ``most``.

        Return how many went; at most ``limit`` at once.
        """

    async def backup(self, target: Path) -> int:
        """Copy everything into a file, in the place of what was there; return its size in bytes.

        All that was durable before the call is in it. Reads and writes go on meanwhile. A call that fails or is
        cancelled leaves what was there.
        """


class Store(Housekeeping, Protocol):
    """One database: it keeps its own house, and has the other four ports."""

    @property
    def registry(self) -> Registry: ...

    @property
    def tasks(self) -> TaskQueue: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def events(self) -> Events: ...
