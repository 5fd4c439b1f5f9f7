"""What the poller makes of a key that is refused, and of limits that it is told. In virtual time."""

import asyncio
import math
from collections import Counter
from itertools import count, pairwise
from pathlib import Path

import httpx
import pytest

from gateway.core.model import CallbackState, PollRecord
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.key import _PROBE_S
from tests.life import Life, ScriptedUpstream, until
from tests.polling import FAST, SUCCESS, Upstream, answer, error, running, said
from tests.virtualtime import VirtualClock, run_virtual


def test_a_refused_key_loses_nothing_and_recovers(tmp_path: Path) -> None:
    """One slow probe at a time, whatever is due; with the first good answer everything goes on, without a restart."""

    async def main() -> None:
        good_after_s = 400.0

        async def reply(task_id: str) -> PollResult:
            asked.append(VirtualClock().monotonic())
            await asyncio.sleep(2)
            if asked[-1] < good_after_s:
                return PollResult(kind=PollKind.KEY_REFUSED, error="The upstream answered 401: no")
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        asked: list[float] = []
        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply), rate=FAST).start()
        callbacks = [await life.register(f"t{i}") for i in range(300)]
        await until(lambda: life.key.refusal is not None)
        first = len(asked)
        assert first <= 2 * 64 + 1  # those of the doubt, those before, and the probe
        await until(lambda: VirtualClock().monotonic() > good_after_s)
        assert life.key.refusal == "The upstream answered 401: no"
        refused_s = asked[first - 1]
        # In the first one also those that were registered with the first: nobody had asked about them.
        new = [at for at in asked[first:] if at < refused_s + 30]
        assert len(new) == 4
        assert all(later - sooner >= 7 for sooner, later in pairwise([refused_s, *new]))
        asked[first : first + len(new)] = []
        gaps = [b - a for a, b in zip(asked[first - 1 :], asked[first:], strict=False)]
        # After each pause a task, and once that is refused the neutral one.
        assert len(gaps) == 6
        assert all(gap >= pause_s for gap, pause_s in zip(gaps[::2], _PROBE_S, strict=False))
        assert all(2 <= gap < 2.1 for gap in gaps[1::2])
        await until(lambda: life.key.refusal is None, limit_s=301)
        await asyncio.sleep(60)
        assert {(await life.look(callback)).state for callback in callbacks} == {CallbackState.PENDING}
        await life.stop()

    run_virtual(main())


def test_a_key_that_comes_while_a_refusal_is_stored_is_tried_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the end of the one poll that may be under way, and no longer."""

    async def main() -> None:
        renewed_at = math.inf

        async def reply(task_id: str) -> PollResult:
            if math.isinf(renewed_at):
                return PollResult(kind=PollKind.KEY_REFUSED, error="The upstream answered 401: no")
            asked.append(VirtualClock().monotonic())
            return PollResult(kind=PollKind.TERMINAL, outcome=SUCCESS)

        asked: list[float] = []
        life = await Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(reply)).start()
        reschedule = life.store.tasks.reschedule

        async def slowly(record: PollRecord) -> None:
            await asyncio.sleep(3)
            await reschedule(record)

        monkeypatch.setattr(life.store.tasks, "reschedule", slowly)
        await life.register("t1")
        await until(lambda: life.key.refusal is not None)
        renewed_at = VirtualClock().monotonic()
        life.key.renewed()
        life.store.tasks.due("up").set()
        await until(lambda: life.key.refusal is None)
        assert asked[0] - renewed_at <= 3.1
        await life.stop()

    run_virtual(main())


def test_a_refused_key_recovers_with_nothing_to_poll(tmp_path: Path) -> None:
    """Readiness does not stay red for want of a task: the key is probed without one, as slowly."""

    async def main() -> None:
        words = [said(401, error(401))] * 4 + [said(404, error(404))]
        upstream = Upstream(words[0], neutral=lambda: words.pop(0)())
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        callback = await life.register("t")
        await until(lambda: life.key.refusal is not None)
        reserve, reserved = life.key.queries.reserve, Counter[int]()

        async def counted(count: int) -> int:
            reserved[count] += 1
            return await reserve(count)

        life.key.queries.reserve = counted  # type: ignore[method-assign]
        await life.store.registry.cancel("", callback.id, life.clock.now())
        await until(lambda: life.key.refusal is None, limit_s=600)
        assert upstream.probed == [pytest.approx(at, abs=1) for at in (0, 30, 90, 210, 510)]
        assert reserved == {0: reserved[0], 1: 4}
        await asyncio.sleep(600)
        assert (len(upstream.asked), len(upstream.probed)) == (1, 5)
        assert life.key.queries._limiter.in_flight == 0
        await life.stop()

    run_virtual(main())


def test_a_lower_tier_is_adopted(tmp_path: Path) -> None:
    """The limit that a 429 names holds for a while, and the schedule reckons with it."""

    async def main() -> None:
        told = error(429, data={"retryAfter": 1, "limit": 6, "windowSeconds": 60})
        upstream = Upstream(lambda: answer(429, told), running)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        for i in range(20):
            await life.register(f"t{i}")
        await asyncio.sleep(600)
        for at in upstream.times[1:]:
            assert sum(1 for other in upstream.times[1:] if at - 60 < other <= at) <= 6
        assert len(upstream.asked) > 50
        assert life.timetable._budget_per_s == pytest.approx(0.1)
        await life.stop()

    run_virtual(main())


def test_one_wrong_limit_does_not_stop_polls_for_a_day(tmp_path: Path) -> None:
    """One request a day, says one answer: for an hour that is believed, and told; then the key is as it was."""

    async def main() -> None:
        told = error(429, data={"retryAfter": 1, "limit": 1, "windowSeconds": 86400})
        upstream = Upstream(lambda: answer(429, told), running)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport).start()
        await life.register("t")
        await asyncio.sleep(3500)
        assert (len(upstream.asked), life.key.limited) == (1, True)
        await asyncio.sleep(200)
        assert (len(upstream.asked) > 1, life.key.limited) == (True, False)
        await asyncio.sleep(600)
        assert len(upstream.asked) > 20
        assert life.timetable._budget_per_s == 1.0
        await life.stop()

    run_virtual(main())


def test_limits_without_end_cost_nothing(tmp_path: Path) -> None:
    """Another window in each 429, for hours: few of them hold, and after an hour without any the key is as it was."""

    async def main() -> None:
        names = count(60)

        def limited() -> httpx.Response:
            return answer(429, error(429, data={"retryAfter": 0.1, "limit": 5, "windowSeconds": next(names)}))

        upstream = Upstream(limited)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport, rate=FAST).start()
        for number in range(3):
            await life.register(f"t{number}")
        await asyncio.sleep(4 * 3600)
        limiter = life.key.queries._limiter
        assert len(upstream.asked) > 15
        assert len(limiter._told) <= 3
        assert sum(len(window.leaves_at) for window in limiter._told) <= 3 * 5
        upstream.script = [running]
        await asyncio.sleep(2 * 3600)
        assert not life.key.limited
        assert life.key.queries.rate_per_s == 1000.0
        await life.stop()

    run_virtual(main())
