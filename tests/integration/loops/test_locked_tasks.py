"""Tasks whose rows somebody else has locked: what their polls have brought is stored later, and not asked for again."""

from pathlib import Path
from typing import Any

import pytest

from gateway.core.clock import Moment
from gateway.core.errors import StoreLocked
from gateway.core.memory import SMALL
from gateway.core.model import CallbackState, Outcome, TaskState
from gateway.upstream.answer import PollKind, PollResult
from tests.life import Life, ScriptedUpstream, until
from tests.virtualtime import VirtualClock, run_virtual

ENDED = PollResult(kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}'))
LARGE = PollResult(
    kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"%s"}' % (b"x" * SMALL))
)
RUNS = PollResult(kind=PollKind.RUNNING)
LOCKED_S = 300.0


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
        with pytest.raises(StoreLocked):
            await life.poller._results.store(claim, ENDED, Moment.of(life.clock), lambda: clock.monotonic() < ends_s)
        assert len([at for at in tries if at >= ends_s]) == 0 < len(tries)
        await life.stop()

    clock = VirtualClock()
    run_virtual(main())
