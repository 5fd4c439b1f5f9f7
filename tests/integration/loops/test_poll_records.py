"""What a poll tells of a running task is kept for readers, but for what one of them was told otherwise since."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.reads import ReadWatch
from gateway.upstream.answer import PollKind, PollResult
from tests.life import Life, ScriptedUpstream
from tests.virtualtime import VirtualClock, run_virtual

BEFORE, POLLED, READ = (b'{"progress":%d}' % percent for percent in (10, 20, 30))


@pytest.mark.parametrize("overtaken", [False, True])
def test_an_answer_that_a_read_has_overtaken_is_not_kept(tmp_path: Path, overtaken: bool) -> None:
    """It was asked for first and came last: readers would be told that the task went back."""

    async def reply(task_id: str) -> PollResult:
        await asyncio.sleep(1)
        if overtaken:
            upstream.last_answers.keep(task_id, READ, VirtualClock().monotonic())
        await asyncio.sleep(1)
        return PollResult(kind=PollKind.RUNNING, record=POLLED)

    async def main() -> None:
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream).start()
        now = life.clock.now()
        await life.store.registry.watch(
            ReadWatch(
                upstream="up",
                task_id="t",
                client="rob",
                at=now,
                read_until=now + 60_000,
                next_poll_at=now + 500,
                told=True,
                begins=True,
                record=BEFORE,
            )
        )
        await asyncio.sleep(3)
        found = await life.store.registry.proxied_task("up", "t")
        assert found is not None
        assert found.task.polls == 2, "the read that began the watch, and the poll"
        assert found.record == (BEFORE if overtaken else POLLED)
        await life.stop()

    upstream = ScriptedUpstream(reply)
    run_virtual(main())
