"""What is kept of a task's polls, for its time line: when each was sent, what came, when and why the next was due."""

import asyncio
from itertools import pairwise
from pathlib import Path

from gateway.core.model import Callback, Outcome, TaskState
from gateway.core.pollhistory import PastPoll, Why
from gateway.upstream.answer import PollKind, PollResult
from tests.life import Life, ScriptedUpstream, until
from tests.virtualtime import VirtualClock, run_virtual

RUNNING = PollResult(kind=PollKind.RUNNING)
NOT_KNOWN = PollResult(kind=PollKind.NOT_KNOWN, error="It knows no such task.")
ENDED = PollResult(kind=PollKind.TERMINAL, outcome=Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}'))


async def live(path: Path, *script: PollResult) -> Life:
    """Begin a life whose upstream answers from a script after two seconds, and with its last word for ever."""
    words = list(script)

    async def reply(_: str) -> PollResult:
        await asyncio.sleep(2)
        return words.pop(0) if len(words) > 1 else words[0]

    return await Life(path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()


async def polls(life: Life, callback: Callback) -> list[PastPoll]:
    return await life.store.registry.polls((await life.look(callback)).task)


def test_each_poll_is_kept_with_what_it_came_to(tmp_path: Path) -> None:
    """From the registration to the end; the next one is due so long after one was sent, whatever its answer took."""

    async def main() -> None:
        life = await live(tmp_path, RUNNING, NOT_KNOWN, ENDED)
        await asyncio.sleep(50)
        callback = await life.register("t", model="m", at_once=False)
        await until(lambda: life.poller.in_flight == 1)
        assert await polls(life, callback) == []
        for count in (2, 3):
            await until(lambda: life.claims == 0)
            assert len(await polls(life, callback)) == count
            await until(lambda: life.poller.in_flight == 1)
        await until(lambda: life.claims == 0)
        kept = await polls(life, callback)
        assert [(one.came, one.left_out) for one in kept] == [
            ("registered", 0),
            ("running", 0),
            ("not_known", 0),
            ("terminal", 0),
        ]
        assert [one.why for one in kept] == [Why.FIRST, Why.EXPLORING, Why.SELDOM, Why.ENDED]
        assert (kept[0].at_ms, kept[-1].next_ms) == (0, 0)
        for one, after in pairwise(kept):
            assert one.next_ms > 0
            assert abs(after.at_ms - one.at_ms - one.next_ms) <= 200, "tenths of a second are kept"
        await life.stop()

    run_virtual(main())


def test_a_task_given_up_as_not_known_has_its_last_poll_kept(tmp_path: Path) -> None:
    """After it none is due."""

    async def main() -> None:
        life = await live(tmp_path, NOT_KNOWN)
        callback = await life.register("t")
        await asyncio.sleep(3600)
        assert (await life.look(callback)).task.state is TaskState.ABANDONED
        kept = await polls(life, callback)
        assert {one.came for one in kept[1:]} == {"not_known"}
        assert [one.why for one in kept] == [Why.FIRST, *[Why.BACKOFF] * (len(kept) - 2), Why.ENDED]
        assert kept[-1].next_ms == 0
        await life.stop()

    run_virtual(main())


def test_a_task_that_is_watched_again_has_a_history_of_its_own(tmp_path: Path) -> None:
    """It begins with the new registration: no time in it is of the watch before."""

    async def main() -> None:
        life = await live(tmp_path, RUNNING)
        first = await life.register("t", timeout_s=60)
        await asyncio.sleep(300)
        assert (await life.look(first)).task.state is TaskState.ABANDONED
        again = await life.register("t", url="https://b.example/")
        await asyncio.sleep(100)
        kept = await polls(life, again)
        assert len(kept) > 2
        assert [one.came for one in kept] == ["registered", *["running"] * (len(kept) - 1)]
        assert max(one.at_ms for one in kept) <= 100_000
        await life.stop()

    run_virtual(main())
