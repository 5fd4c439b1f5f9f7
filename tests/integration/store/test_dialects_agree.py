"""Both dialects say the same: the ports' work, done on SQLite and on PostgreSQL, leaves the same rows and answers.

By chance, from seeds: few names, so that everything meets everything. Numbers of rows may differ, and what they mean is
compared.
"""

import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from gateway.core.claims import AttemptRecord
from gateway.core.creates import CreateAnswer, NewCreate
from gateway.core.model import (
    Attempt,
    AttemptResult,
    Callback,
    CallbackState,
    Format,
    Outcome,
    PollRecord,
    Settlement,
    TaskState,
)
from gateway.core.reads import PollAgain, ReadWatch
from gateway.store import housekeeping, rows
from gateway.store.dialect import Counted
from gateway.store.engine import Engine, Work
from gateway.store.sqlite import createsql, deliversql, sql, watchsql
from gateway.store.sqlite.atonce import fetch
from gateway.store.sqlite.engine import drive
from tests.interleaving import Ports, World, ports
from tests.nouns import due_webhook
from tests.postgres import Database
from tests.storing import NOW, new
from tests.unit.store.test_moves import MIGRATIONS

STEPS = 250
CLIENTS = ("ann", "bob", "cem")
UPSTREAMS = ("kie", "up")
TASKS = {
    "tasks": """
        SELECT {0}, state, polls, failures, created_at, born_at, model, last_polled_at, watchers, next_poll_at,
            last_error, settled_at, outcome, record, read_until, told_at, denied_at, poll_log
        FROM tasks AS t ORDER BY 1""",
    "callbacks": """
        SELECT c.id, {0}, client, url, receiver, metadata, timeout_s, format, c.state, c.created_at, expires_at,
            attempts, budget_used, redeliveries, next_attempt_at, delivered_at, ended_at, c.last_error,
            cancelled = c.seq, body, trace FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq ORDER BY 1""",
    "attempts": """
        SELECT c.id, number, started_at, duration_ms, status_code, error, result, excerpt
        FROM attempts JOIN callbacks AS c ON c.seq = callback_seq ORDER BY 1, 2""",
    "creates": """
        SELECT client, upstream, request_id, number, digest, at, status, content_type, task_id, answer
        FROM creates ORDER BY 1, 2, 3""",
    "orphans": "SELECT count(*) FROM attempts WHERE callback_seq NOT IN (SELECT seq FROM callbacks)",
}  # fmt: skip
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 rojo=1"
NAME = "t.upstream || ' ' || t.task_id"


class Side:
    """One engine: its ports, and how their work is done."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.sql: Any = ports._engine.sql
        self.deliversql: Any = ports._engine.deliversql
        self.watchsql: Any = ports._engine.watchsql

    async def do(self, work: Work[Any]) -> Any:
        raise NotImplementedError

    async def look(self, statement: str, parameters: Any = ()) -> list[Any]:
        raise NotImplementedError

    async def seqs(self) -> dict[str, int]:
        return dict(await self.look(f"SELECT {NAME}, seq FROM tasks AS t"))

    async def dump(self) -> dict[str, list[Any]]:
        return {name: await self.look(text.replace("{0}", NAME)) for name, text in TASKS.items()}


class OnSqlite(Side):
    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(housekeeping.StoreHousekeeping(cast(Engine, _SqliteEngine()), 0.0))
        self._db = db

    async def do(self, work: Work[Any]) -> Any:
        self._db.execute("BEGIN")
        done = drive(self._db, work)
        self._db.execute("COMMIT")
        return done

    async def look(self, statement: str, parameters: Any = ()) -> list[Any]:
        return list(map(tuple, fetch(self._db, statement, parameters)))


class OnPostgres(Side):
    def __init__(self, world: World) -> None:
        super().__init__(ports())
        self._world = world

    async def do(self, work: Work[Any]) -> Any:
        # What is recorded has been claimed, which SQLite keeps in memory.
        await self._world.look("UPDATE callbacks SET claimed_until = 1 WHERE claimed_until = 0 RETURNING seq")
        return await self._world.do(work)

    async def look(self, statement: str, parameters: Any = ()) -> list[Any]:
        return await self._world.read(statement, parameters)


class _SqliteEngine:
    shared = False
    sql, deliversql, watchsql, createsql = sql, deliversql, watchsql, createsql
    webhooks = None

    async def transaction(self, make: Any) -> Any: ...

    def blame(self, exc: Exception) -> Any: ...

    def record(self, attempts: Any) -> Work[bool]:
        yield from ()
        return False

    def guard(self, leads: Any, lock: Any = ()) -> Work[Any]:
        yield from ()
        return leads

    def lock(self, seqs: Any) -> Work[None]:
        yield from ()

    def lock_all(self, touched: Any) -> Work[None]:
        yield from ()


@pytest.fixture
async def sides(postgres: Database) -> AsyncIterator[list[Side]]:
    async with World.on(postgres.url) as world:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            for migration in MIGRATIONS:
                db.executescript(migration.read_text("utf-8"))
            db.execute("PRAGMA foreign_keys = ON")
            yield [OnSqlite(db), OnPostgres(world)]


class Chance:
    """Makes works by chance, the same for both sides."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.now = NOW
        self.ids: list[tuple[str, str]] = []
        self.claims = 0

    def work(self, dump: dict[str, list[Any]]) -> Any:
        """Return what makes the next work of a side's ports and of its tasks' seqs."""
        self.now += self._chance.randrange(0, 2000)
        names = [row[0] for row in dump["tasks"]]
        make = self._chance.choice(
            [self._register, self._register, self._read, self._create]
            + [self._settle, self._settle, self._poll, self._poll, self._poll_now, self._poll_again] * bool(names)
            + [self._cancel, self._redeliver] * bool(self.ids)
            + [self._record] * 3
            + [self._redeliver_dead, self._unwatch, self._prune, self._prune_reads, self._prune_creates]
        )
        return make(names, dump)

    def _some(self, names: list[str]) -> list[str]:
        return self._chance.sample(names, min(len(names), self._chance.randrange(1, 4)))

    def _maybe(self, value: Any) -> Any:
        return self._chance.choice([None, value])

    def _register(self, _: Any, __: Any) -> Any:
        made = [
            new(
                f"task-{self._chance.randrange(6)}",
                upstream=self._chance.choice(UPSTREAMS),
                client=self._chance.choice(CLIENTS),
                url=f"https://app.example.com/{self._chance.randrange(3)}",
                at=self.now,
                timeout_s=self._chance.randrange(1, 20),
                first_poll_at=self.now + self._chance.randrange(3000),
                model=self._maybe("m"),
                shape=self._chance.choice([Format.STANDARD, Format.RECORD]),
                trace=TRACE if self.now % 2 else None,
            )
            for _ in range(self._chance.randrange(1, 5))
        ]
        self.ids += [(one.client, one.id) for one in made]
        return lambda ports, _: ports.registry.register_kind.apply([made])

    def _read(self, _: Any, __: Any) -> Any:
        wishes = [
            ReadWatch(
                upstream=self._chance.choice(UPSTREAMS), task_id=f"task-{self._chance.randrange(6)}",
                client=self._chance.choice(CLIENTS), at=self.now, read_until=self.now + self._chance.randrange(9000),
                next_poll_at=self.now + 5, told=self._chance.random() < 0.5, born_at=self._maybe(self.now),
                model=self._maybe("n"), record=self._maybe(b'{"state":"waiting"}'),
                asked_at=self._maybe(self.now - self._chance.randrange(3000)),
            )
            for _ in range(self._chance.randrange(1, 4))
        ]  # fmt: skip
        return lambda ports, _: ports.tasks.watches.watch_kind.apply(wishes)

    def _create(self, _: Any, __: Any) -> Any:
        request_id = f"r{self._chance.randrange(5)}"
        client = self._chance.choice(CLIENTS)
        create = NewCreate(client=client, upstream="kie", request_id=request_id, digest=b"d", at=self.now)
        answer = CreateAnswer(status=200, content_type=self._maybe("text/plain"), task_id=None, body=self._maybe(b""))
        kind = self._chance.randrange(3)

        def make(ports: Ports, _: object) -> Work[Any]:
            registry = ports.registry
            if kind == 0:
                return registry.begin_create_kind.apply([create])
            return (
                registry.forget_create_kind.apply([create])
                if kind == 1
                else registry.end_create_kind.apply([(create, answer, [])])
            )

        return make

    def _settle(self, names: list[str], dump: dict[str, list[Any]]) -> Any:
        its = self._some(names)
        given_up = self._chance.random() < 0.4
        state = self._chance.choice([TaskState.SUCCESS, TaskState.FAIL])
        about = {
            "upstream": "kie", "settled_at": self.now, "polls": 0 if given_up else 1,
            "outcome": Outcome(state=TaskState.ABANDONED if given_up else state, data=b'{"taskId":"t"}'),
            "expired_by": self.now if given_up else None,
            "frame": (b'{"id":"', b'","metadata":', b"}") if given_up else None,
            "record": self._maybe((b"{", b"record", b"}")), "read": self._chance.random() < 0.5,
            "keeps_record": self.now % 3 == 0,
        }  # fmt: skip
        return lambda ports, seqs: ports.tasks.settle_kind.apply(
            [(("kie", 0), Settlement(seq=seqs[name], **about)) for name in its]
        )

    def _poll(self, names: list[str], _: Any) -> Any:
        its = self._some(names)
        about = {"upstream": "kie", "polled_at": self.now, "next_poll_at": self.now + self._chance.randrange(4000),
                 "error": self._maybe("no\0luck"), "born_at": self._maybe(self.now), "model": self._maybe("o"),
                 "record": self._maybe(b"{}"), "asked_at": self._maybe(self.now - self._chance.randrange(3000)),
                 "denied": self._chance.random() < 0.3,
                 "told": bytes([self._chance.randrange(256)] * self._chance.choice([6, 12, 66]))}  # fmt: skip
        return lambda ports, seqs: ports.tasks.reschedule_kind.apply(
            [(("kie", 0), PollRecord(seq=seqs[name], **about)) for name in its]
        )

    def _poll_now(self, names: list[str], _: Any) -> Any:
        its, now = self._some(names), self.now
        return lambda ports, seqs: ports.tasks.poll_now_kind.apply([(("kie", 0), [(seqs[name], now) for name in its])])

    def _poll_again(self, names: list[str], _: Any) -> Any:
        upstream, _, task_id = self._chance.choice(names).partition(" ")
        wish = PollAgain(upstream=upstream, task_id=task_id, at=self.now, record=self._maybe(b'{"a":1}'),
                         read_until=self.now + 5000)  # fmt: skip
        return lambda ports, _: ports.tasks.watches.poll_again_kind.apply([wish])

    def _cancel(self, _: Any, __: Any) -> Any:
        items = [(client, callback, self.now) for client, callback in self._chance.sample(self.ids, 1)]
        return lambda ports, _: ports.registry.cancel_kind.apply(items)

    def _redeliver(self, _: Any, __: Any) -> Any:
        client, callback = self._chance.choice(self.ids)
        item = {"client": self._maybe(client), "id": callback, "now": self.now}
        return lambda ports, _: ports.registry.redeliver_kind.apply([item])

    def _redeliver_dead(self, _: Any, __: Any) -> Any:
        about = {"client": self._chance.choice(CLIENTS), "since": self.now - 5000, "until": self.now, "now": self.now,
                 "limit": 2}  # fmt: skip
        return lambda ports, _: ports.registry.redeliver_dead_kind.apply([about])

    def _record(self, _: Any, dump: dict[str, list[Any]]) -> Any:
        due = [row for row in dump["callbacks"] if row[8] in ("pending", "cancelled")]
        if not due:
            return self._register(None, None)
        row = self._chance.choice(due)
        result = self._chance.choice(list(AttemptResult))
        attempt = Attempt(number=row[11] + 1, started_at=self.now, duration_ms=7, status_code=self._maybe(500),
                          error=self._maybe("\0"), result=result, excerpt=self._maybe("x"))  # fmt: skip
        redeliveries = row[13] - self._chance.choice([0, 0, 1])
        again = self.now + 50 if result in (AttemptResult.RETRY, AttemptResult.INTERRUPTED) else None

        def make(ports: Ports, seqs: dict[str, int]) -> Work[Any]:
            claim = due_webhook(
                seq=seqs[row[0]], id=row[0], client=row[2], url=row[3], receiver=row[4], attempts=row[11],
                budget_used=row[12], redeliveries=redeliveries, body_bytes=0, body=None,
            )  # fmt: skip
            return ports.outbox.record_kind.apply([AttemptRecord(claim=claim, attempt=attempt, next_attempt_at=again)])

        return make

    def _unwatch(self, _: Any, __: Any) -> Any:
        now = self.now
        return lambda ports, _: ports.tasks.watches.unwatch_kind.apply([now])

    def _prune(self, _: Any, __: Any) -> Any:
        about = {"ended_before": self.now - 3000, "dead_before": self.now - 5000, "limit": 100}
        return lambda ports, _: ports._prune.apply([about])

    def _prune_reads(self, _: Any, __: Any) -> Any:
        about = self.now, self.now - 2000, 100
        return lambda ports, _: ports.tasks.watches.prune_kind.apply([about])

    def _prune_creates(self, _: Any, __: Any) -> Any:
        about = self.now - 9000, 2, 100
        return lambda ports, _: ports._prune_creates.apply([about])


def meant(value: Any, names: dict[int, str]) -> Any:
    """Return an answer with a task's name in the place of its number, which stands first in a row."""
    if hasattr(value, "__struct_fields__"):
        return {name: meant(getattr(value, name), names) for name in value.__struct_fields__ if name != "seq"}
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return [names.get(value[0], value[0]), *value[1:]]
    return [meant(one, names) for one in value] if isinstance(value, list | tuple) else value


def questions(side: Side, chance: Chance) -> Iterator[tuple[str, str, Any]]:
    """Yield what is asked of a side: the name, the statement, its parameters."""
    its, now = side.sql, chance.now
    array = rows.array if isinstance(side, OnSqlite) else list
    for client in (None, *CLIENTS[:2]):
        for task_id in (None, "task-1"):
            for state in (None, CallbackState.WAITING, CallbackState.DEAD):
                if client is not None or state is None or task_id is not None:
                    text = its.select_callbacks(state=state, by_task=task_id is not None, every_client=client is None)
                    about = {"client": client, "task_id": task_id, "before": rows.FOREVER, "limit": 7}
                    yield f"list {client} {task_id} {state}", text, about
        yield f"task for {client}", its.SELECT_TASK, {"client": client, "task_id": "task-1"}
    for upstream in UPSTREAMS:
        for watchers in ("ann", "ann,bob"):
            yield "due", its.SELECT_DUE_TASKS, (upstream, watchers, now - 5000, array([]), 3)
        yield "never polled", its.SELECT_NEW_TASKS, (upstream, now - 5000, now, array([]))
        yield "expired", its.SELECT_EXPIRED, (0, now, upstream)
        yield "read", side.watchsql.SELECT_READ_TASK, ("task-1", upstream)
        yield "polled", its.COUNT_POLLED_TASKS, (upstream, 2)
    # One of them gives more at once.
    yield "groups", f"SELECT * FROM ({its.SELECT_NEXT_WATCHERS}) AS following LIMIT 1", ("kie", "ann")
    yield "next expiry", its.SELECT_NEXT_EXPIRY, (now,)
    yield "end of some expiries", its.SELECT_EXPIRY_END, (0, now, 2)
    yield "lanes", side.deliversql.SELECT_LANES, ("", "", 100)
    yield "lanes after one", side.deliversql.SELECT_LANES, ("ann", "z", 2)
    yield "clients", its.SELECT_CLIENTS, ()
    yield "upstreams", its.SELECT_POLLED_UPSTREAMS, ()
    yield "states", its.COUNT_CALLBACKS, ()
    yield "next unread", side.watchsql.SELECT_NEXT_UNREAD, (now,)
    yield "readers", side.watchsql.COUNT_READ_TASKS, ()
    for counted in (its.COUNT_WAITING, its.COUNT_PENDING, its.COUNT_PENDING_LANES, its.COUNT_DEAD):
        assert isinstance(counted, Counted)
        yield "count", counted.part, (*counted.start, 1000)


TASK_AT = len(Callback.__struct_fields__) - 1
COUNTS = {"polled", "next expiry", "next unread", "readers"}
SORTED = {"lanes", "clients", "upstreams", "states", "count", "expired", "due", "never polled"}


@pytest.mark.parametrize("seed", [0, 1, 22])
async def test_both_engines_come_to_the_same(sides: list[Side], seed: int) -> None:
    """After each of many writes by chance the same was answered, and the same rows stand."""
    chance = Chance(seed)
    for step in range(STEPS):
        dumps = [await side.dump() for side in sides]
        for table in dumps[0]:
            theirs = [[tuple(_plain(value) for value in row) for row in dump[table]] for dump in dumps]
            assert theirs[0] == theirs[1], f"{table} after {step} steps"
        make = chance.work(dumps[0])
        answers = []
        for side in sides:
            seqs = await side.seqs() | dict(await side.look("SELECT id, seq FROM callbacks"))
            done = await side.do(make(side.ports, seqs))
            told = meant(done, {seq: name for name, seq in (await side.seqs()).items()})
            answers.append(sorted(map(_in_order, told), key=repr) if isinstance(told, list) else told)
        assert answers[0] == answers[1], f"step {step}"
        if step % 10 == 0:
            await _asked(sides, chance)


def _in_order(value: Any) -> Any:
    """Return a list of whatever comes in no order in one."""
    return sorted(value, key=repr) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


async def _asked(sides: list[Side], chance: Chance) -> None:
    found: list[list[tuple[str, Any]]] = []
    for side in sides:
        names = {seq: name for name, seq in (await side.seqs()).items()}
        its = dict(await side.look("SELECT seq, id FROM callbacks"))
        answers = []
        for name, statement, about in questions(side, chance):
            told = await side.look(statement, about)
            if name.startswith("list"):
                told = [(its[row[0]], *row[1:TASK_AT], names[row[TASK_AT]], *row[TASK_AT + 1 :]) for row in told]
            plain = told if name in COUNTS else meant(told, names)
            answers.append((name, sorted(plain, key=repr) if name in SORTED else plain))
        found.append(answers)
    for one, other in zip(*found, strict=True):
        assert one == other
