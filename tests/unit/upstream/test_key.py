"""What upstreams say of a key: it is paused when they say so, doubted, refused, and taken up again."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.core.ratelimit import RateWindow
from gateway.core.telemetry import Metrics
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.key import NEUTRAL_TASK_ID, UpstreamKey
from tests.budgets import FREE, budget, poll_now
from tests.virtualtime import VirtualClock, run_virtual


def key(windows: Sequence[RateWindow] = FREE) -> UpstreamKey:
    return UpstreamKey("up", budget(windows), budget(windows), Metrics())


OK = PollResult(kind=PollKind.RUNNING)
REFUSED = PollResult(kind=PollKind.KEY_REFUSED, error="The upstream answered 401: no")
NOTHING = [PollResult(kind=kind, error="x") for kind in (PollKind.UNREACHABLE, PollKind.BROKEN, PollKind.MAINTENANCE)]
PAGE = PollResult(kind=PollKind.THROTTLED, error="x", by_api=False)


def says(k: UpstreamKey, task_id: str, result: PollResult, *, asked_s_ago: float = 0.0, again: bool = False) -> None:
    """Let the key hear an answer about a task, or to a client's question."""
    k.judge(task_id, VirtualClock().monotonic() - asked_s_ago, result, again=again)


def probed(k: UpstreamKey, task_id: str, result: PollResult, *, asked_s_ago: float = 0.0) -> None:
    """Let it hear the answer to the gateway's own question about the key."""
    k.judge(task_id, VirtualClock().monotonic() - asked_s_ago, result, probe=True)


def refused_key() -> UpstreamKey:
    """Return a key that has just been refused, for a task and for the neutral one."""
    k = key()
    says(k, "t", REFUSED)
    probed(k, NEUTRAL_TASK_ID, REFUSED)
    assert k.refusal == REFUSED.error
    return k


def standing(k: UpstreamKey) -> tuple[bool, bool, int]:
    """Return whether the key is doubted, whether it is refused, and how many requests it may make now."""
    return k.doubted, k.refusal is not None, k.queries.available()


ACCEPTED, DOUBTED = (False, False, 2), (True, False, 2)


def test_a_429_stops_the_key_for_as_long_as_it_says() -> None:
    """The pause is what the answer asks for, and five seconds where it does not say."""

    async def main() -> None:
        for retry_after_s, pause_s in ((17.0, 17.0), (None, 5.0), (0.0, 5.0)):
            k = key()
            k.judge("t", 0.0, PollResult(kind=PollKind.THROTTLED, retry_after_s=retry_after_s))
            assert (k.queries.available(), k.queries.next_available_s()) == (0, pause_s)
            assert k.creates.available() == 2
            assert k.refusal is None

    run_virtual(main())


@pytest.mark.parametrize(
    ("told", "rate_per_s"), [((10, 60.0), 10 / 60), ((600, 60.0), 1.0), ((1, 1.0), 1.0), ((100, 3600.0), 100 / 3600)]
)
def test_a_lower_limit_is_adopted(told: tuple[int, float], rate_per_s: float) -> None:
    """The tier that a 429 names holds from now on where it is lower than configured; a higher one does not."""

    async def main() -> None:
        k = key()
        k.judge("t", 0.0, PollResult(kind=PollKind.THROTTLED, told_window=told))
        assert k.queries.rate_per_s == pytest.approx(rate_per_s)

    run_virtual(main())


def test_a_new_window_counts_what_was_sent_before() -> None:
    """A window that the upstream names is not taken for empty: what was just sent has its places in it."""

    async def main() -> None:
        b = budget()
        await poll_now(b, 2)
        await asyncio.sleep(1)
        assert b.tighten(3, 10.0)
        await poll_now(b, 1)
        assert b.available() == 0
        assert b.next_available_s() == 9.0

    run_virtual(main())


def test_a_refusal_is_explained_by_another_tasks_answer() -> None:
    """Within five seconds of an accepted answer to another question no refusal is held against the key."""

    async def main() -> None:
        k = key()
        says(k, "a", OK)
        await asyncio.sleep(5)
        for _ in range(100):
            says(k, "b", REFUSED)
            says(k, "c", REFUSED)
        assert standing(k) == ACCEPTED
        await asyncio.sleep(0.001)
        says(k, "b", REFUSED)
        assert standing(k) == DOUBTED
        assert k.to_ask == "a"

    run_virtual(main())


def test_a_task_does_not_vouch_for_itself() -> None:
    """Where the task itself was the last one that the key was accepted for, its refusal may be the key's."""

    async def main() -> None:
        k = key()
        says(k, "a", OK)
        await asyncio.sleep(1)
        says(k, "a", REFUSED)
        assert standing(k) == DOUBTED
        assert k.to_ask == NEUTRAL_TASK_ID

    run_virtual(main())


@pytest.mark.parametrize("kind", [PollKind.TERMINAL, PollKind.NOT_KNOWN, PollKind.CREDITS, PollKind.RUNNING])
@pytest.mark.parametrize("about", [NEUTRAL_TASK_ID, "another"])
def test_a_doubt_ends_with_an_accepted_answer(kind: PollKind, about: str) -> None:
    """Whoever is asked about: the refusals were their tasks' own, and there is no doubt for five seconds."""

    async def main() -> None:
        k = key()
        says(k, "t", REFUSED)
        assert standing(k) == DOUBTED
        await asyncio.sleep(0.1)
        says(k, about, PollResult(kind=kind))
        says(k, "t", REFUSED)
        assert standing(k) == ACCEPTED
        assert k.accepted_since(0.05)
        assert not k.accepted_since(0.1)

    run_virtual(main())


def test_a_witness_who_is_refused_leaves_the_word_to_the_neutral_task() -> None:
    """The task that was last accepted is asked about first; only where both are refused is the key."""

    async def main() -> None:
        for word, standing_then in ((OK, ACCEPTED), (REFUSED, (False, True, 0))):
            k = key()
            says(k, "a", OK)
            await asyncio.sleep(6)
            says(k, "t", REFUSED)
            assert k.to_ask == "a"
            says(k, "a", REFUSED)
            assert standing(k) == DOUBTED
            assert k.to_ask == NEUTRAL_TASK_ID
            probed(k, NEUTRAL_TASK_ID, word)
            assert standing(k) == standing_then

    run_virtual(main())


def test_an_upstream_that_refuses_unknown_ids_refuses_no_key() -> None:
    """While the key is accepted for a task, a neutral one that is refused means nothing."""

    async def main() -> None:
        k = key()
        says(k, "t", REFUSED)
        says(k, "a", OK)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert standing(k) == ACCEPTED
        await asyncio.sleep(6)
        for number in range(9):
            says(k, f"t{number}", REFUSED)
        assert (standing(k), k.to_ask) == (DOUBTED, "a")
        says(k, "a", OK)
        assert standing(k) == ACCEPTED

    run_virtual(main())


@pytest.mark.parametrize("nothing", [*NOTHING, PAGE])
def test_an_outage_explains_nothing(nothing: PollResult) -> None:
    """An answer that says nothing of the key neither clears nor convicts it: the same is asked again a while later."""

    async def main() -> None:
        k = key()
        says(k, "a", OK)
        for _ in range(3):
            await asyncio.sleep(5.001)
            says(k, "t", REFUSED)
            assert (k.doubted, k.to_ask) == (True, "a")
            probed(k, "a", nothing)
            says(k, "t", REFUSED)
            assert standing(k)[:2] == ACCEPTED[:2]
            assert not k.accepted_since(0.0), "nobody has found it accepted"
        await asyncio.sleep(5.001)
        says(k, "t", REFUSED)
        probed(k, "a", REFUSED)
        for _ in range(3):
            assert (k.doubted, k.to_ask) == (True, NEUTRAL_TASK_ID)
            probed(k, NEUTRAL_TASK_ID, nothing)
            await asyncio.sleep(5)
            says(k, "t", REFUSED)
            assert standing(k)[:2] == ACCEPTED[:2]
            await asyncio.sleep(0.001)
            says(k, "t", REFUSED)

    run_virtual(main())


UNKNOWN = PollResult(kind=PollKind.NOT_KNOWN, error="x")


@pytest.mark.parametrize("neutral", [UNKNOWN, *NOTHING, PAGE])
@pytest.mark.parametrize("known", [False, True])
def test_tasks_refuse_a_key_that_the_neutral_one_does_not(neutral: PollResult, known: bool) -> None:
    """Three different ones, each refused again, with none told of since: whatever an unknown id is answered."""

    async def main() -> None:
        k = key()
        if known:
            says(k, "t2", OK)
        await asyncio.sleep(6)
        for task_id in ("t0", "t1", "t1", "t0", "t0"):
            says(k, task_id, REFUSED, again=True)
        if known:
            probed(k, "t2", REFUSED)
        else:
            probed(k, NEUTRAL_TASK_ID, neutral)
            assert standing(k)[:2] == ACCEPTED[:2], "two are not enough"
            await asyncio.sleep(6)
            says(k, "t2", REFUSED, again=True)
        says(k, "u", UNKNOWN)
        assert standing(k) == DOUBTED, "such an API says it of any id"
        probed(k, NEUTRAL_TASK_ID, neutral)
        for _ in range(5):
            assert (standing(k), k.queries.next_available_s()) == ((False, True, 0), 30.0)
            assert k.refused_by_tasks
            assert k.refusal == REFUSED.error
            await asyncio.sleep(30)
            says(k, "t1", REFUSED, again=True)
        await asyncio.sleep(30)
        says(k, "t3", UNKNOWN)
        assert (k.refusal, k.queries.next_available_s()) == (REFUSED.error, 30.0)
        await asyncio.sleep(30)
        says(k, "t3", OK)
        assert standing(k)[:2] == ACCEPTED[:2]
        await asyncio.sleep(6)
        says(k, "t0", REFUSED, again=True)
        assert (standing(k), k.to_ask) == (DOUBTED, "t3")

    run_virtual(main())


def test_a_key_that_its_tasks_refuse_is_accepted_with_the_last_of_them_gone() -> None:
    """Else readiness stayed red with nobody left who could put it right; one that the neutral task refuses stays so."""

    async def main() -> None:
        k = key()
        for number in range(3):
            says(k, f"t{number}", REFUSED, again=True)
        k.no_task_left()
        assert standing(k) == DOUBTED
        probed(k, NEUTRAL_TASK_ID, UNKNOWN)
        k.no_task_left()
        assert standing(k)[:2] == ACCEPTED[:2]
        other = refused_key()
        other.no_task_left()
        assert other.refusal == REFUSED.error

    run_virtual(main())


def test_nine_tasks_of_another_account_refuse_no_key() -> None:
    """While the key is accepted for a tenth, asked when it may, nobody convicts it, and neither do lost answers."""

    async def main() -> None:
        for nothing in (*NOTHING, PAGE, UNKNOWN):
            k = key()
            says(k, "own", OK)
            for _ in range(20):
                await asyncio.sleep(6)
                for number in range(9):
                    says(k, f"t{number}", REFUSED, again=True)
                assert (k.doubted, k.to_ask) == (True, "own")
                probed(k, "own", nothing)
                assert standing(k)[:2] == ACCEPTED[:2]
            await asyncio.sleep(6)
            says(k, "t0", REFUSED, again=True)
            probed(k, "own", OK)
            assert standing(k)[:2] == ACCEPTED[:2]

    run_virtual(main())


@pytest.mark.parametrize("neutral", [UNKNOWN, REFUSED])
def test_an_answer_that_was_under_way_ends_the_refusal(neutral: PollResult) -> None:
    """A slow one that tells of a task, asked when the doubt began, comes after the others have convicted the key."""

    async def main() -> None:
        k = key()
        for number in range(3):
            says(k, f"t{number}", REFUSED, again=True)
        await asyncio.sleep(0.1)
        probed(k, NEUTRAL_TASK_ID, neutral)
        assert k.refusal is not None
        says(k, "own", OK, asked_s_ago=6)
        assert k.refusal is not None
        says(k, "own", OK, asked_s_ago=5)
        assert standing(k) == ACCEPTED

    run_virtual(main())


def test_a_clients_questions_about_the_neutral_task_convict_nobody() -> None:
    """Its id is known to all: where unknown ids are refused, who asked twice would stop everybody's polls."""

    async def main() -> None:
        for witness in (None, "a"):
            k = key()
            if witness:
                says(k, witness, OK)
            await asyncio.sleep(6)
            for _ in range(20):
                says(k, NEUTRAL_TASK_ID, REFUSED)
            assert (standing(k), k.to_ask) == (DOUBTED, witness or NEUTRAL_TASK_ID)
            probed(k, k.to_ask, OK)
            assert standing(k) == ACCEPTED

    run_virtual(main())


def test_clients_reads_count_for_no_task() -> None:
    """Whoever reads the ids of others cannot make up the three that refuse the key."""

    async def main() -> None:
        k = key()
        for _ in range(3):
            await asyncio.sleep(6)
            for number in range(20):
                says(k, f"t{number}", REFUSED)
            probed(k, NEUTRAL_TASK_ID, UNKNOWN)
            assert standing(k) == ACCEPTED

    run_virtual(main())


def test_a_witness_that_came_while_the_neutral_task_was_asked_about_has_its_say() -> None:
    """An answer older than the doubt does not end it, but whom it tells of is asked before the key is refused."""

    async def main() -> None:
        k = key()
        await asyncio.sleep(8)
        says(k, "t", REFUSED)
        says(k, "slow", OK, asked_s_ago=8)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert (standing(k), k.to_ask) == (DOUBTED, "slow")
        probed(k, "slow", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert k.refusal == REFUSED.error
        await asyncio.sleep(30)
        says(k, "slow", REFUSED)
        assert (k.to_ask, k.neutral_next) == (NEUTRAL_TASK_ID, True)

    run_virtual(main())


def test_what_is_not_the_apis_word_is_no_acceptance() -> None:
    """Neither a page of the CDN's nor what the gateway says by itself clears a key that is refused."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, "..", PollResult(kind=PollKind.NOT_KNOWN, error="x", by_api=False))
        assert k.refusal == REFUSED.error

    run_virtual(main())


def test_a_refused_key_is_probed_with_growing_pauses() -> None:
    """Each probe that is refused again makes the pause longer, up to five minutes; the reason is kept."""

    async def main() -> None:
        k = refused_key()
        for pause_s in (30.0, 60.0, 120.0, 300.0, 300.0):
            assert k.queries.next_available_s() == pause_s
            assert k.refusal == REFUSED.error
            await asyncio.sleep(pause_s)
            assert not k.neutral_next
            says(k, "t", REFUSED)
            assert (k.neutral_next, k.to_ask, k.queries.available()) == (True, NEUTRAL_TASK_ID, 2)
            probed(k, NEUTRAL_TASK_ID, REFUSED)
        await asyncio.sleep(300)
        says(k, "t", OK)
        assert standing(k) == ACCEPTED
        await asyncio.sleep(6)
        says(k, "u", REFUSED)
        says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert k.queries.next_available_s() == 30.0

    run_virtual(main())


@pytest.mark.parametrize("about", ["t", NEUTRAL_TASK_ID, "another"])
@pytest.mark.parametrize("kind", [PollKind.TERMINAL, PollKind.NOT_KNOWN, PollKind.CREDITS, PollKind.THROTTLED])
def test_an_answer_that_needs_an_accepted_key_ends_the_refusal(kind: PollKind, about: str) -> None:
    """The upstream looked at the key and went on: it is accepted again."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, about, PollResult(kind=kind, error="x"))
        assert (k.refusal, k.neutral_next) == (None, False)

    run_virtual(main())


def test_many_refusals_at_once_are_one() -> None:
    """The answers to requests sent before the key was refused do not make the pause longer, nor do old ones end it."""

    async def main() -> None:
        k = key()
        await asyncio.sleep(10)
        for _ in range(64):
            says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        for _ in range(64):
            says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        says(k, "a", OK, asked_s_ago=5.001)
        await asyncio.sleep(1)
        says(k, "b", OK, asked_s_ago=8)
        assert (k.refusal, k.neutral_next, k.queries.next_available_s()) == (REFUSED.error, False, 29.0)

    run_virtual(main())


def test_a_task_that_was_asked_about_beside_the_neutral_one_ends_the_pause() -> None:
    """Of two words about the same moment the one that accepts the key counts: its pause is over at once."""

    async def main() -> None:
        k = key()
        says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED, asked_s_ago=0.5)
        says(k, "a", OK, asked_s_ago=0.5)
        assert standing(k) == ACCEPTED

    run_virtual(main())


def test_the_upstreams_own_pause_outlasts_ours() -> None:
    """A key that is accepted again waits all the same for as long as a 429 has asked."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, "a", PollResult(kind=PollKind.THROTTLED, retry_after_s=17.0))
        assert (k.refusal, k.queries.next_available_s()) == (None, 17.0)

    run_virtual(main())


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_probe_that_says_nothing_of_the_key_is_made_again(nothing: PollResult) -> None:
    """An outage during a probe neither clears the refusal nor lets the probes come thick and fast."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, "t", nothing)
        assert (k.refusal, k.neutral_next) == (REFUSED.error, True)
        probed(k, NEUTRAL_TASK_ID, nothing)
        assert (k.refusal, k.queries.next_available_s()) == (REFUSED.error, 30.0)

    run_virtual(main())


def test_the_metric_follows_the_refusal() -> None:
    """``gateway_upstream_refused`` stands at 0 from the start, and at 1 while the key is refused."""

    async def main() -> None:
        metrics = Metrics()
        k = UpstreamKey("up", budget(), budget(), metrics)

        def shown() -> float | None:
            return metrics.registry.get_sample_value("gateway_upstream_refused", {"upstream": "up"})

        assert shown() == 0.0
        says(k, "t", REFUSED)
        assert shown() == 0.0
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert shown() == 1.0
        await asyncio.sleep(30)
        says(k, "t", OK)
        assert shown() == 0.0

    run_virtual(main())
