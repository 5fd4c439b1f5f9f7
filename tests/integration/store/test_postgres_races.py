"""Replicas that write at the same moment, whatever each does between the other's statements.

SQLite has one writer; PostgreSQL has one for each replica, whose statements see what others have committed meanwhile.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any

import pytest

from gateway.core.claims import AttemptRecord, DueCallback
from gateway.core.creates import CreateAnswer, NewCreate
from gateway.core.model import Attempt, AttemptResult, CallbackState, Format, NewCallback, PollRecord, Settlement
from gateway.core.reads import PollAgain, ReadWatch
from gateway.store import rows
from gateway.store.engine import Rows, Run, Work
from gateway.store.housekeeping import StoreHousekeeping
from gateway.store.postgres import deliversql, leadsql
from tests.interleaving import Ports, World, group_commit, guarded, ports
from tests.postgres import Database
from tests.storing import ABANDONED, NOW, SUCCESS, new

HOUR = 3_600_000
LEAD = ("polls:up", 1)
LATER = NOW + 10 * HOUR
HOOK = "https://app.example.com/hooks"
CLAIMED_MS = 60_000

LAWS = {
    "a callback waits for a task that nobody polls": """
        SELECT c.id FROM callbacks AS c LEFT JOIN tasks AS t ON t.seq = c.task_seq
        WHERE c.state = 'waiting' AND (t.seq IS NULL OR t.next_poll_at IS NULL)""",
    "a webhook is owed that has no body": """
        SELECT c.id FROM callbacks AS c LEFT JOIN tasks AS t ON t.seq = c.task_seq
        WHERE c.state = 'pending' AND (t.seq IS NULL OR (length(c.body) = 0 AND t.state NOT IN ('success', 'fail')))""",
    "a task is polled that nobody waits for": f"""
        SELECT task_id FROM tasks AS t
        WHERE next_poll_at IS NOT NULL AND coalesce(read_until, 0) <= {LATER} AND NOT EXISTS (
            SELECT FROM callbacks WHERE task_seq = t.seq AND state = 'waiting')""",
    "a callback has no task": "SELECT id FROM callbacks WHERE task_seq NOT IN (SELECT seq FROM tasks)",
    "an attempt has no callback": "SELECT number FROM attempts WHERE callback_seq NOT IN (SELECT seq FROM callbacks)",
    "a callback has other attempts than it counts": """
        SELECT id FROM callbacks AS c
        WHERE attempts <> (SELECT count(*) FROM attempts WHERE callback_seq = c.seq)""",
}  # fmt: skip

BROKEN = " UNION ALL ".join(f"SELECT '{law}' WHERE EXISTS ({statement})" for law, statement in LAWS.items())
"""Selects which laws are broken: one question, as it is asked after each order of two transactions' statements."""


@pytest.fixture
async def world(postgres_ready: Database) -> AsyncIterator[World]:
    async with World.on(postgres_ready.url) as world:
        yield world


@pytest.fixture
def store() -> StoreHousekeeping:
    return ports()


class Acts:
    """What a replica does, as work; tasks and callbacks are named by what they are called in the test."""

    def __init__(self, world: World, store: StoreHousekeeping) -> None:
        self._world, self._store = world, store
        self.callbacks: dict[str, NewCallback] = {}
        self.seqs: dict[str, int] = {}
        self.claim: DueCallback | None = None
        self.claims: dict[str, DueCallback] = {}

    def callback(self, name: str, task_id: str = "task-1", **about: Any) -> NewCallback:
        if name not in self.callbacks:
            self.callbacks[name] = new(task_id, **{"url": f"{HOOK}/{name}", **about})
        return self.callbacks[name]

    def register(self, *callbacks: NewCallback) -> Work[Any]:
        return self._store.registry.register_kind.apply([callbacks])

    def settle(self, *tasks: str, expired_by: int | None = None) -> Work[Any]:
        ended = [
            Settlement(
                seq=self.seqs[task], upstream="up", outcome=SUCCESS if expired_by is None else ABANDONED,
                settled_at=LATER, polls=1 if expired_by is None else 0, expired_by=expired_by,
                frame=None if expired_by is None else (b'{"id":"', b'","metadata":', b"}"),
            )
            for task in tasks
        ]  # fmt: skip
        return self._store.tasks.settle_kind.apply([(LEAD, one) for one in ended])

    def reschedule(self, *tasks: str) -> Work[Any]:
        polls = [PollRecord(seq=self.seqs[task], upstream="up", polled_at=NOW, next_poll_at=LATER, error=None)
                 for task in tasks]  # fmt: skip
        return self._store.tasks.reschedule_kind.apply([(LEAD, one) for one in polls])

    def cancel(self, *names: str) -> Work[Any]:
        return self._store.registry.cancel_kind.apply([("ann", self.callbacks[name].id, LATER) for name in names])

    def redeliver(self, name: str) -> Work[Any]:
        item = {"client": "ann", "id": self.callbacks[name].id, "now": LATER}
        return self._store.registry.redeliver_kind.apply([item])

    def redeliver_dead(self) -> Work[Any]:
        about = {"client": "ann", "since": 0, "until": 2 * LATER, "now": LATER, "limit": 100}
        return self._store.registry.redeliver_dead_kind.apply([about])

    def prune(self) -> Work[Any]:
        return self._store._prune.apply([{"ended_before": 2 * LATER, "dead_before": 2 * LATER, "limit": 100}])

    def read(self, *tasks: str, until: int = 2 * LATER) -> Work[Any]:
        wishes = [ReadWatch(upstream="up", task_id=task, client="ann", at=NOW, read_until=until, next_poll_at=NOW)
                  for task in tasks]  # fmt: skip
        return self._store.tasks.watches.watch_kind.apply(wishes)

    def unwatch(self) -> Work[Any]:
        return self._store.tasks.watches.unwatch_kind.apply([LATER])

    def prune_reads(self) -> Work[Any]:
        return self._store.tasks.watches.prune_kind.apply([(LATER, LATER, 100)])

    def take(self, now: int = 2 * LATER) -> Work[list[DueCallback]]:
        about = ["ann"], ["https://app.example.com"], [100], [True], [0], now, CLAIMED_MS
        found = (yield Run(deliversql.CLAIM_WEBHOOKS, about)).rows
        return [rows.due_callback(row) for row in found if row[1] is not None]

    def record(self, result: AttemptResult = AttemptResult.DELIVERED, claim: DueCallback | None = None) -> Work[Any]:
        claim = claim or self.claim
        assert claim is not None
        attempt = Attempt(number=claim.attempts + 1, started_at=LATER, duration_ms=1, status_code=None, error=None,
                          result=result)  # fmt: skip
        again = LATER if result is AttemptResult.RETRY else None
        return self._store.outbox.record_kind.apply(
            [AttemptRecord(claim=claim, attempt=attempt, next_attempt_at=again)]
        )

    async def do(self, *works: Work[Any]) -> None:
        for work in works:
            await self._world.do(work)
            self.seqs = dict(await self._world.look("SELECT task_id, seq FROM tasks"))

    async def claimed(self) -> None:
        (self.claim,) = await self._world.do(self.take())

    async def states(self) -> dict[str, str]:
        found = dict(await self._world.look("SELECT id, state FROM callbacks"))
        return {name: found[one.id] for name, one in self.callbacks.items() if one.id in found}


Begin = Callable[[Acts], Any]
Act = Callable[[Acts], Work[Any] | Awaitable[Work[Any]]]
Check = Callable[[Acts, Sequence[Any]], Any]


async def everything(world: World, store: StoreHousekeeping, begin: Begin, one: Act, other: Act, check: Check) -> int:
    """Let both happen in each order, and hold the laws and the check each time; return how many orders there are."""
    count = 0
    for turned in (False, True):
        first, second = (other, one) if turned else (one, other)
        steps = -1
        more_steps = True
        while more_steps:
            steps, others, more_others = steps + 1, 0, True
            while more_others:
                others += 1
                await world.empty()
                acts = Acts(world, store)
                await begin(acts)
                both = [await work if isawaitable(work := act(acts)) else work for act in (first, second)]
                results, more_steps, more_others = await world.interleave(*both, steps, others)
                order = f"{steps} of {'the other' if turned else 'one'}, then {others}"
                assert await world.look(BROKEN) == [], order
                assert await check(acts, results[::-1] if turned else results), order
                count += 1
    return count


async def fine(_: Acts, __: Sequence[Any]) -> bool:
    return True


# Situations.


async def nothing(_: Acts) -> None: ...


async def one_waits(acts: Acts) -> None:
    await acts.do(acts.register(acts.callback("first")))


async def three_tasks(acts: Acts) -> None:
    await acts.do(acts.register(*(acts.callback(f"of {task}", task) for task in ("task-1", "task-2", "task-3"))))


async def nobody_waits(acts: Acts) -> None:
    await one_waits(acts)
    await acts.do(acts.cancel("first"))


async def was_given_up(acts: Acts) -> None:
    await one_waits(acts)
    await acts.do(acts.settle("task-1", expired_by=2 * LATER))


async def readers_have_gone(acts: Acts) -> None:
    await acts.do(acts.read("task-1", until=NOW))


async def has_ended(acts: Acts) -> None:
    await one_waits(acts)
    await acts.do(acts.settle("task-1"))


async def is_claimed(acts: Acts) -> None:
    await has_ended(acts)
    await acts.claimed()


async def has_lapsed(acts: Acts) -> None:
    await is_claimed(acts)
    await acts._world.look("UPDATE callbacks SET claimed_until = 1 RETURNING seq")


async def was_cancelled_while_claimed(acts: Acts) -> None:
    await is_claimed(acts)
    await acts.do(acts.cancel("first"))


async def is_delivered(acts: Acts) -> None:
    await is_claimed(acts)
    await acts.do(acts.record())


async def is_dead(acts: Acts) -> None:
    await is_claimed(acts)
    await acts.do(acts.record(AttemptResult.DEAD))


# What must be so in the end, beside the laws.


def created(result: Any) -> list[bool]:
    return [registration.created for item, _ in result for registration in item]


async def one_has_created_it(acts: Acts, results: Sequence[Any]) -> bool:
    return sorted(created(results[0]) + created(results[1])) == [False, True]


async def both_are_pending(acts: Acts, _: Sequence[Any]) -> bool:
    return set((await acts.states()).values()) == {"pending"}


async def second_waits(acts: Acts, _: Sequence[Any]) -> bool:
    return (await acts.states())["second"] == "waiting"


async def cancelled_if_said_so(acts: Acts, results: Sequence[Any]) -> bool:
    """A client that was told that it could be cancelled gets no webhook."""
    said = results[0][0] in (CallbackState.WAITING, CallbackState.PENDING)
    return ((await acts.states()).get("first", "gone") == "cancelled") is said


async def pending_if_said_so(acts: Acts, results: Sequence[Any]) -> bool:
    found, _ = results[0][0]
    could = found is not None and found[0] in (CallbackState.PENDING, CallbackState.DELIVERED, CallbackState.DEAD)
    return ((await acts.states()).get("first", "gone") == "pending") is could


async def pending_or_delivered(acts: Acts, results: Sequence[Any]) -> bool:
    return (await acts.states())["first"] in ("pending", "delivered")


async def one_has_claimed_it(_: Acts, results: Sequence[Any]) -> bool:
    return len(results[0]) + len(results[1]) == 1


async def recorded_or_taken(acts: Acts, results: Sequence[Any]) -> bool:
    """Whoever is too late changes nothing."""
    found = await acts._world.look("SELECT state, (SELECT count(*) FROM attempts) FROM callbacks")
    return found == [("pending", 0) if results[0] else ("delivered", 1)]


async def task_goes_on(acts: Acts, _: Sequence[Any]) -> bool:
    return bool(await acts._world.look("SELECT FROM tasks WHERE next_poll_at IS NOT NULL"))


def second(acts: Acts) -> Work[Any]:
    return acts.register(acts.callback("second"))


def as_record(acts: Acts) -> Work[Any]:
    return acts.register(acts.callback("second", shape=Format.RECORD))


def of_bob(acts: Acts) -> Work[Any]:
    return acts.register(acts.callback("second", client="bob", model="m"))


RACES: dict[str, tuple[Begin, Act, Act, Check]] = {
    "the same is registered twice": (
        nothing, lambda a: a.register(new(url=HOOK)), lambda a: a.register(new(url=HOOK)), one_has_created_it),
    "two register several, in other orders": (
        three_tasks,
        lambda a: a.register(*(a.callback(f"1 {t}", t) for t in ("task-2", "new-1", "task-1", "new-2", "new-1"))),
        lambda a: a.register(*(a.callback(f"2 {t}", t, client="bob") for t in ("new-2", "task-1", "new-1", "task-2"))),
        fine),
    "it is registered while the task ends": (one_waits, second, lambda a: a.settle("task-1"), both_are_pending),
    "a record is registered while the task ends": (
        one_waits, as_record, lambda a: a.settle("task-1"), both_are_pending),
    "another client registers while the task ends": (
        one_waits, of_bob, lambda a: a.settle("task-1"), both_are_pending),
    "it is registered while the task is given up": (
        one_waits, second, lambda a: a.settle("task-1", expired_by=LATER), fine),
    "it is registered while the last one is cancelled": (one_waits, second, lambda a: a.cancel("first"), second_waits),
    "it is registered while the ended task is pruned": (is_delivered, second, Acts.prune, fine),
    "it is registered while the idle task is pruned": (nobody_waits, second, Acts.prune, second_waits),
    "a task is revived while a late poll ends it": (
        nobody_waits, second, lambda a: a.settle("task-1"), fine),
    "a task that was given up is revived twice": (was_given_up, second, of_bob, second_waits),
    "it is registered while the readers' task is left": (readers_have_gone, second, Acts.unwatch, second_waits),
    "it is registered while the readers' task is pruned": (readers_have_gone, second, Acts.prune_reads, second_waits),
    "it is read while the task is left": (readers_have_gone, lambda a: a.read("task-1"), Acts.unwatch, task_goes_on),
    "it is read while the task is pruned": (
        readers_have_gone, lambda a: a.read("task-1"), Acts.prune_reads, task_goes_on),
    "it is read while the last one is cancelled": (
        one_waits, lambda a: a.read("task-1"), lambda a: a.cancel("first"), task_goes_on),
    "it is read while the task ends": (one_waits, lambda a: a.read("task-1"), lambda a: a.settle("task-1"), fine),
    "two read several, in other orders": (
        three_tasks,
        lambda a: a.read("task-2", "new-1", "task-1"), lambda a: a.read("new-1", "task-1", "task-2"), fine),
    "it is cancelled while the task ends": (
        one_waits, lambda a: a.cancel("first"), lambda a: a.settle("task-1"), cancelled_if_said_so),
    "it is cancelled while it is recorded": (
        is_claimed, lambda a: a.cancel("first"), Acts.record, cancelled_if_said_so),
    "it is cancelled while it is claimed": (has_ended, lambda a: a.cancel("first"), Acts.take, cancelled_if_said_so),
    "it is cancelled while it is redelivered": (
        is_claimed, lambda a: a.redeliver("first"), lambda a: a.cancel("first"), fine),
    "it is redelivered while it is recorded": (
        is_claimed, lambda a: a.redeliver("first"), lambda a: a.record(AttemptResult.RETRY), pending_if_said_so),
    "it is redelivered while it is delivered": (
        is_claimed, lambda a: a.redeliver("first"), Acts.record, pending_or_delivered),
    "it is redelivered while it is pruned": (
        is_delivered, lambda a: a.redeliver("first"), Acts.prune, pending_if_said_so),
    "dead ones are redelivered while they are pruned": (is_dead, Acts.redeliver_dead, Acts.prune, fine),
    "dead ones are redelivered twice": (is_dead, Acts.redeliver_dead, Acts.redeliver_dead, both_are_pending),
    "it is recorded while it is pruned": (was_cancelled_while_claimed, Acts.record, Acts.prune, fine),
    "it is recorded late while another claims it": (has_lapsed, Acts.take, Acts.record, recorded_or_taken),
    "two claim": (has_ended, Acts.take, Acts.take, one_has_claimed_it),
    "two prune": (is_delivered, Acts.prune, Acts.prune, fine),
    "a leader polls and another registers, in other orders": (
        three_tasks, lambda a: a.reschedule("task-2", "task-3", "task-1"),
        lambda a: a.register(*(a.callback(f"2 {t}", t, client="bob") for t in ("task-3", "task-1"))), fine),
    "a leader polls and another reads, in other orders": (
        three_tasks, lambda a: a.reschedule("task-2", "task-3", "task-1"), lambda a: a.read("task-3", "task-1"), fine),
    "a leader settles and another registers, in other orders": (
        three_tasks, lambda a: a.settle("task-2", "task-3", "task-1"),
        lambda a: a.register(*(a.callback(f"2 {t}", t) for t in ("task-3", "task-1"))), both_are_pending),
}  # fmt: skip


@pytest.mark.parametrize("race", RACES)
async def test_two_replicas_at_once(world: World, store: StoreHousekeeping, race: str) -> None:
    """Whatever the order of their statements: nothing is lost, nobody waits for ever, and no one for one another."""
    assert await everything(world, store, *RACES[race]) > 3


async def test_a_broken_law_is_told(world: World) -> None:
    """Whatever two transactions leave that may not be is seen, by the name of the law."""
    hook = f"'t', 'ann', 9, '{HOOK}', '{HOOK}', '', 1, 1, 1"
    await world.look(
        "WITH called AS (INSERT INTO callbacks (id, client, task_seq, url, receiver, metadata, timeout_s, created_at, "
        f"expires_at) VALUES ({hook}) RETURNING seq), "
        "tried AS (INSERT INTO attempts (callback_seq, number, started_at, duration_ms, result) "
        "SELECT seq + 1, 1, 1, 1, 'dead' FROM called RETURNING 1) SELECT * FROM tried"
    )
    assert {law for (law,) in await world.look(BROKEN)} == {
        "a callback waits for a task that nobody polls", "a callback has no task", "an attempt has no callback",
    }  # fmt: skip


async def test_an_attempt_is_recorded_once(world: World, store: StoreHousekeeping) -> None:
    """Its record is stored again where nobody knew whether it was: it counts once."""
    acts = Acts(world, store)
    await is_claimed(acts)
    statement = "SELECT state, attempts, budget_used, claimed_until, (SELECT count(*) FROM attempts) FROM callbacks"
    for _ in range(2):
        await acts.do(acts.record(AttemptResult.RETRY))
        assert await world.look(statement) == [("pending", 1, 1, 0, 1)]


async def test_two_swap_the_same_values(world: World, store: StoreHousekeeping) -> None:
    """Budgets of several keys, whichever was first to be put down: none waits for the other."""

    async def begin(_: Acts) -> None:
        await world.look("INSERT INTO meta VALUES ('a', '1'), ('b', '1') ON CONFLICT (key) DO UPDATE SET value = '1' "
                         "RETURNING key")  # fmt: skip

    def swap(*keys: str) -> Act:
        return lambda _: store._swap.apply([(key, b"1", b"2") for key in keys])

    async def one_each(_: Acts, results: Sequence[Any]) -> bool:
        (a, b), (other_b, other_a) = results
        return (a, b) == (not other_a, not other_b)

    assert await everything(world, store, begin, swap("a", "b"), swap("b", "a"), one_each) > 3


async def test_a_take_over_waits_for_what_the_leader_writes(world: World, store: StoreHousekeeping) -> None:
    """A leader's guarded write is done before another leads, or not at all; his renewal waits for nothing."""

    async def led(acts: Acts) -> None:
        await one_waits(acts)
        await world.do(one(leadsql.TAKE_LEAD, {"name": LEAD[0], "holder": "me", "ttl_ms": -1, "refused": False}))

    def one(statement: str, parameters: dict[str, Any]) -> Work[Any]:
        return (yield Run(statement, parameters)).rows

    async def in_order(acts: Acts, results: Sequence[Any]) -> bool:
        settled = bool(await world.look("SELECT FROM tasks WHERE state = 'success'"))
        return results[1] == [(2,)] and settled is (results[0] is not None)

    count = await everything(
        world, store, led, lambda a: guarded(*LEAD, a.settle("task-1")),
        lambda _: one(
            leadsql.TAKE_LEAD, {"name": LEAD[0], "holder": "another", "ttl_ms": 10_000, "refused": False}), in_order,
    )  # fmt: skip
    assert count > 3


async def test_group_commits_lock_in_one_order(world: World, store: StoreHousekeeping) -> None:
    """Writes of several kinds, each with what the other replica's next kind wants: none waits for one another."""

    async def begin(acts: Acts) -> None:
        await has_ended(acts)
        await acts.claimed()
        await acts.do(acts.register(*(acts.callback(f"of {task}", task) for task in ("task-2", "task-3", "task-4"))))

    def leads(acts: Acts) -> Awaitable[Work[Any]]:
        ended = Settlement(seq=acts.seqs["task-4"], upstream="up", outcome=SUCCESS, settled_at=LATER, polls=1)
        polled = PollRecord(seq=acts.seqs["task-2"], upstream="up", polled_at=NOW, next_poll_at=LATER, error=None)
        assert acts.claim is not None
        attempt = Attempt(number=1, started_at=LATER, duration_ms=1, status_code=None, error=None,
                          result=AttemptResult.DELIVERED)  # fmt: skip
        record = AttemptRecord(claim=acts.claim, attempt=attempt, next_attempt_at=None)
        other = acts.callbacks["of task-3"].id
        return group_commit(lambda its: [
            its.tasks.settle(ended), its.tasks.reschedule(polled), its.outbox.record(record),
            its.registry.cancel("ann", other, LATER),
        ])  # fmt: skip

    def registers(acts: Acts) -> Awaitable[Work[Any]]:
        again = [acts.callback("again", "task-1", url=f"{HOOK}/first"), acts.callback("more", "task-2", client="bob")]
        wishes = [ReadWatch(upstream="up", task_id=f"task-{number}", client="cem", at=NOW, read_until=2 * LATER,
                            next_poll_at=NOW) for number in (2, 4)]  # fmt: skip
        return group_commit(lambda its: [
            its.registry.watch(wishes[0]), its.registry.watch(wishes[1]), its.registry.register(again),
            its.registry.redeliver("ann", acts.callbacks["of task-3"].id, LATER),
        ])  # fmt: skip

    assert await everything(world, store, begin, leads, registers, fine) > 20


async def two_are_claimed(acts: Acts) -> None:
    await acts.do(acts.register(*(acts.callback(f"of {task}", task) for task in ("task-1", "task-2"))))
    await acts.do(acts.settle("task-1"), acts.settle("task-2"))
    claims = await acts._world.do(acts.take())
    acts.claims = {claim.task_id: claim for claim in claims}


async def two_are_dead(acts: Acts) -> None:
    """The one that was registered last has died first."""
    await two_are_claimed(acts)
    for task, ended_at in (("task-1", NOW), ("task-2", NOW - 1)):
        await acts.do(acts.record(AttemptResult.DEAD, acts.claims[task]))
        await acts._world.look(f"UPDATE callbacks SET ended_at = {ended_at} WHERE state = 'dead' AND ended_at > {NOW} "
                               "RETURNING seq")  # fmt: skip


async def two_are_begun(acts: Acts) -> None:
    await acts.do(acts._store.registry.begin_create_kind.apply([create("x"), create("y")]))


def create(name: str) -> NewCreate:
    return NewCreate(client="ann", upstream="up", request_id=name, digest=b"", at=NOW)


def ended(its: Ports, name: str, task: str) -> Any:
    answer = CreateAnswer(status=200, content_type=None, task_id=task, body=b"{}")
    return its.registry.end_create(create(name), answer, [new(task, url=f"{HOOK}/{name}")])


def read(its: Ports, task: str, record: bytes | None = None) -> Any:
    wish = ReadWatch(upstream="up", task_id=task, client="cem", at=NOW, read_until=2 * LATER, next_poll_at=NOW,
                     told=record is not None, record=record)  # fmt: skip
    return its.registry.watch(wish)


def recorded(acts: Acts, its: Ports, task: str) -> Any:
    attempt = Attempt(number=1, started_at=LATER, duration_ms=1, status_code=None, error=None,
                      result=AttemptResult.DELIVERED)  # fmt: skip
    return its.outbox.record(AttemptRecord(claim=acts.claims[task], attempt=attempt, next_attempt_at=None))


def polled(acts: Acts, its: Ports, task: str, record: bytes | None = None) -> Any:
    return its.tasks.reschedule(PollRecord(seq=acts.seqs[task], upstream="up", polled_at=NOW, next_poll_at=LATER,
                                           error=None, record=record))  # fmt: skip


def again(its: Ports, task: str) -> Any:
    return its.registry.poll_again(PollAgain(upstream="up", task_id=task, at=NOW))


def cancelled(acts: Acts, its: Ports, task: str) -> Any:
    return its.registry.cancel("ann", acts.callbacks[f"of {task}"].id, LATER)


def redelivered(acts: Acts, its: Ports, task: str) -> Any:
    return its.registry.redeliver("ann", acts.callbacks[f"of {task}"].id, LATER)


def registered_too(its: Ports, *tasks: str) -> Any:
    return its.registry.register([new(task, client="bob") for task in tasks])


Writes = Callable[[Acts, Ports], Sequence[Any]]
LARGE = b"x" * (rows._PART_BYTES + 1)
CROSSING: dict[str, tuple[Begin, Writes, Writes]] = {
    "new tasks are registered and read": (
        nothing, lambda _, its: [registered_too(its, "n-1"), read(its, "n-2")],
        lambda _, its: [registered_too(its, "n-2"), read(its, "n-1")]),
    "new tasks are created and registered": (
        two_are_begun, lambda _, its: [ended(its, "x", "n-1"), registered_too(its, "n-2")],
        lambda _, its: [registered_too(its, "n-1"), ended(its, "y", "n-2")]),
    "a create ends and is begun again": (
        two_are_begun, lambda _, its: [ended(its, "x", "n-1")],
        lambda _, its: [registered_too(its, "n-1"), its.registry.begin_create(create("x"))]),
    "a create is begun beside another's end": (
        two_are_begun, lambda _, its: [its.registry.begin_create(create("z")), ended(its, "x", "n-1")],
        lambda _, its: [registered_too(its, "n-1"), its.registry.begin_create(create("z"))]),
    "creates are begun in other orders": (
        nothing, lambda _, its: [its.registry.begin_create(create("x")), its.registry.begin_create(create("y"))],
        lambda _, its: [its.registry.begin_create(create("y")), its.registry.begin_create(create("x"))]),
    "new tasks are read, with large records": (
        nothing, lambda _, its: [read(its, "n-1", LARGE), read(its, "n-2", LARGE)],
        lambda _, its: [read(its, "n-2", LARGE), read(its, "n-1", LARGE)]),
    "tasks are polled, with large records": (
        three_tasks, lambda a, its: [polled(a, its, "task-2", LARGE), polled(a, its, "task-1", LARGE)],
        lambda _, its: [registered_too(its, "task-1", "task-2")]),
    "tasks are to be polled again": (
        three_tasks, lambda _, its: [again(its, "task-1"), again(its, "task-2")],
        lambda _, its: [again(its, "task-2"), again(its, "task-1")]),
    "webhooks are recorded and cancelled": (
        two_are_claimed, lambda a, its: [recorded(a, its, "task-2"), cancelled(a, its, "task-1")],
        lambda a, its: [recorded(a, its, "task-1"), cancelled(a, its, "task-2")]),
    "dead webhooks are redelivered, one by one and all": (
        two_are_dead, lambda a, its: [redelivered(a, its, "task-1"), redelivered(a, its, "task-2")],
        lambda _, its: [its.registry._redeliver_some("ann", {"since": 0, "until": 2 * LATER, "now": LATER,
                                                             "limit": 100})]),
}  # fmt: skip


@pytest.mark.parametrize("crossing", CROSSING)
async def test_group_commits_that_want_the_same(world: World, store: StoreHousekeeping, crossing: str) -> None:
    """Stopped after any statement of one: the other waits with nothing in its hands that the first one wants."""
    begin, one, other = CROSSING[crossing]
    for first, second in ((one, other), (other, one)):
        steps, more_steps = -1, True
        while more_steps:
            steps += 1
            await world.empty()
            acts = Acts(world, store)
            await begin(acts)
            both = [await group_commit(partial(writes, acts)) for writes in (first, second)]
            _, more_steps, _ = await world.interleave(*both, steps, 1000)
            for law, statement in LAWS.items():
                assert not await world.look(statement), f"{law}: {steps}"
        assert steps > 1


async def test_a_lock_is_enough(world: World) -> None:
    """What stands between a guard and its commit: others may renew the lead, and nobody takes it."""
    renew = {"name": "polls:up", "holder": "me", "ttl_ms": 10_000, "refused": False}

    def taken() -> Work[Any]:
        return (yield Run(leadsql.TAKE_LEAD, renew)).rows

    def held() -> Work[Any]:
        yield Rows(leadsql.GUARD_LEADS, [("polls:up", 1)])
        return (yield Run("SELECT 1")).rows

    assert await world.do(taken()) == [(1,)]
    results, _, renewed_meanwhile = await world.interleave(held(), taken(), 1, 2)
    assert results[1] == [(1,)]
    assert renewed_meanwhile
