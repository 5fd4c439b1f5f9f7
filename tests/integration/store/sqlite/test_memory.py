"""What SQLite's store remembers, against its rows: writes have their turn while a loop reads.

Nothing may be due earlier than is remembered, and nothing be claimed twice or for ever, wherever a commit, and what
follows it, falls between the asking of a read, its statement and what is made of its rows.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from gateway.core.claims import DueCallback, DueTask, Lane, Share
from gateway.core.model import AttemptResult, PollRecord, Settlement
from gateway.core.reads import PollAgain, ReadWatch
from gateway.store.sqlite.store import SqliteStore
from gateway.webhook.body import body_template
from tests.storing import ABANDONED, NOW, SUCCESS, attempt_of, new

_UPSTREAMS = "up", "other"
_TASKS, _RECEIVERS = 14, 3

_TASKS_ROWS = "SELECT seq, upstream, watchers, next_poll_at FROM tasks WHERE next_poll_at IS NOT NULL"
_UNREAD_ROWS = """
SELECT seq, read_until FROM tasks WHERE next_poll_at IS NOT NULL AND read_until IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM callbacks WHERE task_seq = tasks.seq AND callbacks.state = 'waiting')
"""
_PENDING_ROWS = "SELECT seq, client, receiver, next_attempt_at FROM callbacks WHERE state = 'pending'"
_WAITING_ROWS = """
SELECT task_seq, upstream, expires_at FROM callbacks JOIN tasks ON tasks.seq = task_seq
WHERE callbacks.state = 'waiting'
"""


class _Gateway:
    """Clients, and loops of which each has one round at a time; whoever acts does so some turns of the loop later."""

    def __init__(self, store: SqliteStore, rng: random.Random) -> None:
        self.now = NOW
        self.polled: dict[int, DueTask] = {}
        self.sent: dict[int, DueCallback] = {}
        self.in_line: set[Lane] = set()
        """Lanes that wait for room: whoever has them asks again."""
        self._store = store
        self._rng = rng
        self._made: list[tuple[str, str]] = []
        self._work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Let all go on for a while, and return once nothing is under way."""
        clients = [self._register] * 5 + [self._read] * 4 + [self._poll_again] * 2
        clients += [self._cancel, self._redeliver, self._prune, self._count]
        for choices in [clients] * 4 + [[self._round_of(upstream)] for upstream in _UPSTREAMS] + [[self._deliver]]:
            self._begin(self._again_and_again(choices))
        while self._work:
            done, _ = await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
            self._work -= done
            for one in done:
                one.result()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._work.add(asyncio.create_task(work))

    async def _again_and_again(self, choices: list[Callable[[], Awaitable[object]]]) -> None:
        for _ in range(12):
            await self._rng.choice(choices)()
            self.now += self._rng.choice((0, 1, 50, 400))
            await self.later()

    async def later(self) -> None:
        for _ in range(self._rng.randrange(10)):
            await asyncio.sleep(0)

    # Clients.

    async def _register(self) -> None:
        rng = self._rng
        callback = new(
            f"task-{rng.randrange(_TASKS)}",
            client=rng.choice("ab"),
            url=f"https://r{rng.randrange(_RECEIVERS)}.example.com/{rng.randrange(3)}",
            upstream=rng.choice(_UPSTREAMS),
            timeout_s=rng.choice((1, 2, 5, 60)),
            at=self.now,
            first_poll_at=self.now + rng.choice((0, 100, 3000)),
        )
        await self._store.registry.register([callback])
        self._made.append((callback.client, callback.id))

    async def _read(self) -> None:
        rng = self._rng
        wish = ReadWatch(
            upstream="up",
            task_id=f"task-{rng.randrange(2 * _TASKS)}",
            client=rng.choice("abc"),
            at=self.now,
            read_until=self.now + rng.choice((15_000, 30_000)),
            next_poll_at=self.now + rng.choice((0, 2000)),
            told=rng.random() < 0.5,
            record=rng.choice((None, b'{"progress":1}')),
        )
        await self._store.registry.watch(wish)

    async def _poll_again(self) -> None:
        task_id = f"task-{self._rng.randrange(_TASKS)}"
        await self._store.registry.poll_again(PollAgain(upstream="up", task_id=task_id, at=self.now))

    async def _cancel(self) -> None:
        for client, callback_id in self._made[-1:]:
            await self._store.registry.cancel(client, callback_id, self.now)

    async def _redeliver(self) -> None:
        for client, callback_id in self._rng.sample(self._made, min(3, len(self._made))):
            await self._store.registry.redeliver(client, callback_id, self.now)

    async def _prune(self) -> None:
        await self._store.prune(self.now - 10_000, self.now - 20_000, 5)
        await self._store.prune_reads(self.now, self.now - 15_000, 5)

    async def _count(self) -> None:
        await self._store.registry.backlog()

    # Loops.

    def _round_of(self, upstream: str) -> Callable[[], Awaitable[None]]:
        return lambda: self._poll_round(upstream)

    async def _poll_round(self, upstream: str) -> None:
        tasks, now = self._store.tasks, self.now
        frame = body_template(ABANDONED, now).frame
        for one in (await tasks.expired(upstream, now, 10))[0]:
            over = Settlement(
                seq=one.seq, upstream=upstream, settled_at=now, outcome=ABANDONED, frame=frame, polls=0, expired_by=now
            )
            await (tasks.settle(over) if self._rng.random() < 0.5 else tasks.poll_now(upstream, [one.seq], now))
        await tasks.unwatch(now)
        for group in (await tasks.waiting(upstream, now))[0]:
            due, _ = await tasks.longest_due(upstream, group.watchers, now, self._rng.choice((0, 1, 3, 10)))
            self._claimed(await tasks.claim(due[: self._rng.choice((0, 1, 9))]))
        self._claimed(await tasks.claim((await tasks.never_polled(upstream, now - 5000, now))[:1]))

    def _claimed(self, claims: list[DueTask]) -> None:
        for claim in claims:
            assert claim.seq not in self.polled
            self.polled[claim.seq] = claim
            self._begin(self._poll(claim))

    async def _poll(self, claim: DueTask) -> None:
        await self.later()
        asked_at, tasks, about = self.now, self._store.tasks, {"seq": claim.seq, "upstream": claim.upstream}
        await self.later()
        match self._rng.randrange(4):
            case 0:
                del self.polled[claim.seq]
                await tasks.release([claim])
                return
            case 1:
                await tasks.settle(Settlement(**about, settled_at=self.now, outcome=SUCCESS, polls=1))
            case _:
                next_at, error = self.now + self._rng.choice((100, 8000)), self._rng.choice((None, "no answer"))
                told = PollRecord(
                    **about, polled_at=self.now, next_poll_at=next_at, error=error, record=b"{}", asked_at=asked_at
                )
                await tasks.reschedule(told)
        del self.polled[claim.seq]

    async def _deliver(self) -> None:
        def choose(lanes: list[Lane]) -> list[Share]:
            self.in_line.update(lanes)
            chosen = [lane for lane in sorted(self.in_line) if self._rng.random() < 0.7]
            self.in_line.difference_update(chosen)
            return [Share(lane, self._rng.choice((1, 3)), self._rng.random() < 0.6) for lane in chosen]

        found, only_retries, _ = await self._store.outbox.claim(choose, self.now)
        self.in_line.update(only_retries)
        for claim in found:
            assert claim.seq not in self.sent
            self.sent[claim.seq] = claim
            self._begin(self._attempt(claim))

    async def _attempt(self, claim: DueCallback) -> None:
        await self.later()
        if not self._rng.randrange(4):
            del self.sent[claim.seq]
            await self._store.outbox.release([claim])
            return
        result = self._rng.choice((AttemptResult.DELIVERED, AttemptResult.RETRY, AttemptResult.DEAD))
        next_at = self.now + self._rng.choice((10, 5000)) if result is AttemptResult.RETRY else None
        await self._store.outbox.record(attempt_of(claim, result, at=self.now, next_at=next_at))
        del self.sent[claim.seq]


async def _forgotten(store: SqliteStore, gateway: _Gateway) -> list[tuple[Any, ...]]:
    """Return what falls due, or is over, and is not remembered by then."""
    tasks, lanes, read = store.tasks, store.outbox._lanes._at, store._database.read
    found: list[tuple[Any, ...]] = []
    for row in await read(_TASKS_ROWS):
        seq, upstream, watchers, next_poll_at = row
        group = tasks._groups[upstream].get(watchers)
        if seq not in gateway.polled and (group is None or group.due_at is None or group.due_at > next_poll_at):
            found.append(row)
    for row in await read(_UNREAD_ROWS):
        seq, read_until = row
        if (read_until, seq) <= tasks.watches._gone or read_until < tasks.watches._gone_at:
            found.append(row)
    for row in await read(_PENDING_ROWS):
        seq, client, receiver, next_attempt_at = row
        lane = Lane(client, receiver)
        if not {seq} & gateway.sent.keys() and lane not in gateway.in_line and lanes.get(lane, 2**62) > next_attempt_at:
            found.append(row)
    for row in await read(_WAITING_ROWS):
        seq, upstream, expires_at = row
        look = tasks._expiries._looks[upstream]
        if expires_at < look.begin and seq not in look.found:
            found.append(row)
    return found


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_due_before_it_is_remembered(
    seed: int, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever clients and loops do at once, and however their statements fall between one another."""
    monkeypatch.setattr("gateway.store.expiries._PART", 3)
    monkeypatch.setattr("gateway.store.registry._PART", 2)
    gateway = _Gateway(store, rng := random.Random(seed))
    call = store._database.call

    async def called_later(*work: Any) -> Any:
        await gateway.later()
        return await call(*work)

    monkeypatch.setattr(store._database, "call", called_later)
    for _ in range(5):
        await gateway.run()
        assert await _forgotten(store, gateway) == []
        claimed = {seq for seqs in store._engine.webhooks._claimed.values() for seq in seqs}
        assert (set(store.tasks._claimed), claimed) == (set(gateway.polled), set(gateway.sent)) == (set(), set())
        gateway.now += rng.choice((0, 5000, 14_000, 40_000))
