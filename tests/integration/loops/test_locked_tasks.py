"""Tasks whose rows somebody else has locked: what their polls have brought is stored later, and not asked for again."""

import asyncio
from collections.abc import Container, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import force_setattr

from gateway.core.clock import Moment
from gateway.core.errors import StoreLocked
from gateway.core.memory import SMALL
from gateway.core.model import CallbackState, Outcome, Settlement, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.store.engine import Blame, Work
from gateway.upstream.answer import PollKind, PollResult
from tests.life import Life, ScriptedUpstream, until
from tests.virtualtime import VirtualClock, run_virtual

ENDED = PollResult(kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}'))
LARGE = PollResult(
    kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"%s"}' % (b"x" * SMALL))
)
RUNS = PollResult(kind=PollKind.RUNNING)
LOCKED_S = 300.0
FAST = (RateWindow(1000, 1.0),)


@pytest.mark.parametrize(
    ("result", "locked_s", "polls"),
    [(ENDED, 20.0, 1), (ENDED, LOCKED_S, 6), (RUNS, LOCKED_S, 6), (LARGE, 10.0, 11)],
)
def test_a_locked_task_is_asked_about_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: PollResult, locked_s: float, polls: int
) -> None:
    """Once a minute at most, however long its row is locked; what is large is not kept in memory for that."""
    asked: list[float] = []

    async def reply(_: str) -> PollResult:
        asked.append(clock.monotonic())
        return result

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply)).start()
        began_s = clock.monotonic()
        for name in ("settle", "reschedule"):
            write = getattr(life.store.tasks, name)

            async def locked(one: Any, write: Any = write) -> Any:
                if clock.monotonic() < began_s + locked_s:
                    raise StoreLocked("lock timeout")
                return await write(one)

            monkeypatch.setattr(life.store.tasks, name, locked)
        callback = await life.register("t")

        async def stored() -> bool:
            found = await life.look(callback)
            return found.state is CallbackState.PENDING if result is not RUNS else found.task.polls > 0

        await until(stored, limit_s=locked_s + 70.0)
        assert len([at for at in asked if at < began_s + locked_s]) <= polls
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


def test_what_waits_for_a_lock_ends_with_its_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica asks by then, or this one anew: nothing is stored in a term in which it was not asked."""

    async def reply(_: str) -> PollResult:
        return ENDED

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply)).start()
        tries: list[float] = []

        async def locked(_: object) -> None:
            tries.append(clock.monotonic())
            raise StoreLocked("lock timeout")

        monkeypatch.setattr(life.store.tasks, "settle", locked)
        await life.register("t", at_once=False)
        (claim,), _ = await life.store.tasks.longest_due("up", "", life.clock.now() + 86_400_000, 1)
        ends_s = clock.monotonic() + 2.5

        async def pause(pause_s: float) -> bool:
            await asyncio.sleep(pause_s)
            return clock.monotonic() < ends_s

        with pytest.raises(StoreLocked):
            await life.poller._results.store(claim, ENDED, Moment.of(life.clock), pause)
        assert len([at for at in tries if at >= ends_s]) == 0 < len(tries)
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


class Locks:
    """Whose rows somebody else has locked: those of all tasks, until it is told."""

    held: Container[int] = range(1 << 62)


def lock(life: Life, monkeypatch: pytest.MonkeyPatch) -> Locks:
    locks = Locks()
    write = life.store.tasks.settle

    async def settle(settlement: Settlement) -> list[str] | None:
        if settlement.seq in locks.held:
            raise StoreLocked("lock timeout")
        return await write(settlement)

    monkeypatch.setattr(life.store.tasks, "settle", settle)
    return locks


def test_a_locked_task_holds_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are locked: others are polled meanwhile, of the same client too."""
    monkeypatch.setattr("gateway.loops.poller.MOST_POLLS", 4)

    async def reply(_: str) -> PollResult:
        return ENDED

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply), rate=FAST).start()
        locks = lock(life, monkeypatch)
        callbacks = [await life.register(f"locked-{number}") for number in range(4)]
        locks.held = {callback.task.seq for callback in callbacks}
        await asyncio.sleep(5)
        assert life.poller.in_flight == 0
        assert not life.poller.idle, "who hands its lead over waits for a while for what they have brought"
        others = [await life.register(f"free-{number}") for number in range(8)]
        await asyncio.sleep(1)
        assert {(await life.look(one)).state for one in others} == {CallbackState.PENDING}
        assert {(await life.look(one)).state for one in callbacks} == {CallbackState.WAITING}
        locks.held = ()
        await asyncio.sleep(33)
        assert life.poller.idle
        assert {(await life.look(one)).state for one in callbacks} == {CallbackState.PENDING}
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


def test_only_so_many_are_aside_as_have_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond keep theirs: what has been answered and cannot be stored is bounded, and nothing of it is lost."""
    monkeypatch.setattr("gateway.loops.poller.MOST_POLLS", 2)

    async def reply(_: str) -> PollResult:
        return ENDED

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply), rate=FAST).start()
        locks = lock(life, monkeypatch)
        callbacks = [await life.register(f"locked-{number}") for number in range(5)]
        locks.held = {callback.task.seq for callback in callbacks}
        await asyncio.sleep(10)
        assert 0 < life.poller.in_flight <= 2
        assert life.claims - life.poller.in_flight == 2
        locks.held = ()
        await asyncio.sleep(60)
        assert {(await life.look(one)).state for one in callbacks} == {CallbackState.PENDING}
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


def test_the_stop_waits_for_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost: the task is due after the next start, and is asked about again then."""

    async def reply(_: str) -> PollResult:
        return ENDED

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply)).start()
        lock(life, monkeypatch)
        callback = await life.register("t")
        await asyncio.sleep(5)
        assert life.claims == 1
        began_s = clock.monotonic()
        await life.stop(30)
        assert clock.monotonic() - began_s < 0.1
        assert life.claims == 0
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply)).start()
        await asyncio.sleep(2)
        assert (await life.look(callback)).state is CallbackState.PENDING
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


@pytest.mark.parametrize("write", ["settle", "poll_now"])
def test_an_expired_task_that_is_locked_holds_up_no_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Its callbacks are given up once it is free; meanwhile others are polled in each round, and others given up."""

    async def reply(task_id: str) -> PollResult:
        return ENDED if task_id == "quick" else RUNS

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply), min_s=20.0).start()
        locked, other = [await life.register(name, timeout_s=5) for name in ("locked", "other")]
        free = life.store.tasks.settle, life.store.tasks.poll_now

        async def settle(settlement: Settlement) -> list[str] | None:
            if settlement.seq == locked.task.seq:
                raise StoreLocked("lock timeout")
            return await free[0](settlement)

        async def poll_now(upstream: str, seqs: Sequence[int], now: int) -> None:
            if locked.task.seq in seqs:
                raise StoreLocked("lock timeout")
            await free[1](upstream, seqs, now)

        monkeypatch.setattr(life.store.tasks, write, settle if write == "settle" else poll_now)
        await asyncio.sleep(7)
        quick = await life.register("quick")
        await asyncio.sleep(1)
        assert (await life.look(quick)).state is CallbackState.PENDING
        assert (await life.look(other)).state is CallbackState.PENDING
        assert (await life.look(locked)).state is CallbackState.WAITING
        monkeypatch.undo()
        await asyncio.sleep(11)
        assert (await life.look(locked)).state is CallbackState.PENDING
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


@pytest.mark.parametrize("write", ["settle", "poll_now"])
def test_an_expired_task_that_is_locked_is_left_alone_for_eight_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Each try may hold up the one writer: there is none in each round."""

    async def reply(_: str) -> PollResult:
        return RUNS

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply), min_s=60.0, max_s=60.0).start()
        tries: list[float] = []

        async def locked(*_: object) -> None:
            tries.append(clock.monotonic())
            raise StoreLocked("lock timeout")

        monkeypatch.setattr(life.store.tasks, write, locked)
        await life.register("t", timeout_s=5)
        await until(lambda: len(tries) == 5, limit_s=60)
        assert all(7.9 < later - earlier < 9.1 for earlier, later in pairwise(tries)), "a round is made each second"
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())


@pytest.mark.parametrize("expires", [False, True])
def test_who_comes_again_is_known_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expires: bool) -> None:
    """The one writer waits for the lock for long at the first try alone, whatever the pause before the next one is."""

    async def reply(_: str) -> PollResult:
        return RUNS if expires else ENDED

    async def main() -> None:
        life = await Life(tmp_path / "db", clock, upstream=ScriptedUpstream(reply), min_s=20.0).start()
        writer, began_s = life.store._writer, clock.monotonic()
        transaction, blame = writer._transaction, writer._blame

        async def begun(make: Any, committed: Any, *, hasty: bool) -> Any:
            def work() -> Work[Any]:
                try:
                    return (yield from make())
                except StoreLocked:
                    tries.append(hasty)
                    raise

            return await transaction(work, committed, hasty=hasty)

        def settle(_: Any) -> Work[Any]:
            raise StoreLocked("lock timeout")

        tries: list[bool] = []
        monkeypatch.setattr(writer, "_transaction", begun)
        monkeypatch.setattr(writer, "_blame", lambda exc: Blame.LOCKS if isinstance(exc, StoreLocked) else blame(exc))
        force_setattr(life.store.tasks.settle_kind, "apply", settle)
        await life.register("t", timeout_s=5 if expires else 86_400)
        await until(lambda: clock.monotonic() > began_s + LOCKED_S)
        assert len(tries) > 20
        assert tries == [False] + [True] * (len(tries) - 1)
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())
