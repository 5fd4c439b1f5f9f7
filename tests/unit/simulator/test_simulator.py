"""The simulated upstream's rules without a socket: plans, envelopes, rate limits, faults, counts."""

from random import Random

import msgspec
import pytest

from gateway.core.ratelimit import RateWindow
from gateway.simulator import Fault, FaultKind, Faults, Plan, PlanMix, parse_windows
from gateway.simulator.scenario import (
    KeyedLimiter,
    SimTask,
    drop_oldest,
    plan_from_task_id,
)
from gateway.simulator.stats import POLLS_KEPT, PeakRate, Stats


def make_task(plan: Plan, created_at: int = 1_000) -> SimTask:
    return SimTask(created_at, plan)


@pytest.mark.parametrize(
    ("task_id", "plan"),
    [
        ("sim-success-1500-xyz", Plan(outcome="success", duration_s=1.5)),
        ("sim-success-0", Plan(outcome="success")),
        ("sim-fail-800-a-b-c", Plan(outcome="fail", duration_s=0.8)),
        ("sim-never", Plan(outcome="never")),
        ("sim-never-5-x", Plan(outcome="never")),
        ("sim-success", None),
        ("sim-success-x-1500", None),
        ("sim-cancel-1500-x", None),
        ("sim-success-1500xyz", None),
        ("xsim-success-1500", None),
        ("", None),
    ],
)
def test_a_task_id_can_carry_its_plan(task_id: str, plan: Plan | None) -> None:
    """The documented forms are read, anything near them is an ordinary id."""
    assert plan_from_task_id(task_id) == plan


def test_a_task_ends_exactly_when_its_duration_has_passed() -> None:
    """One millisecond before the end it still waits; at the end it is done, with the plan's times."""
    task = make_task(Plan(duration_s=1.5), created_at=1_000)
    assert task.envelope("t", 2_499)["data"]["state"] == "waiting"
    data = task.envelope("t", 2_500)["data"]
    assert (data["state"], data["costTime"], data["completeTime"]) == ("success", 1_500, 2_500)
    assert task.envelope("t", 99_999)["data"]["completeTime"] == 2_500


def test_a_task_that_never_ends_waits_for_ever() -> None:
    """A never plan has no end, however late it is asked."""
    assert make_task(Plan(outcome="never")).envelope("t", 10**15)["data"]["state"] == "waiting"


def test_a_failed_task_has_a_string_code_and_no_times() -> None:
    """As on the upstream: failCode is a string, completeTime and costTime stay null."""
    data = make_task(Plan(outcome="fail", fail_code="451", fail_msg="no")).envelope("t", 1_000)["data"]
    assert (data["state"], data["failCode"], data["failMsg"]) == ("fail", "451", "no")
    assert data["completeTime"] is None
    assert data["costTime"] is None
    assert data["resultJson"] is None


@pytest.mark.parametrize(
    ("result", "text"), [({"a": [1]}, '{"a":[1]}'), ("not JSON", "not JSON"), ('{"b": 1}', '{"b": 1}')]
)
def test_a_result_is_encoded_unless_it_is_text_already(result: object, text: str) -> None:
    """A str stands in resultJson as it is, so that a test can send one that is not JSON."""
    assert make_task(Plan(result=result)).envelope("t", 1_000)["data"]["resultJson"] == text


def test_a_mix_draws_the_same_plans_from_the_same_seed() -> None:
    """Seeded runs repeat, and another seed gives other plans."""
    mix = PlanMix(fail_share=0.3, never_share=0.1)
    first, same, other = ([mix.draw(rng) for _ in range(20)] for rng in (Random(1), Random(1), Random(2)))
    assert first == same
    assert first != other


def test_a_mix_keeps_its_median_and_shares() -> None:
    """Of 4,000 draws the median and both shares are near what was asked for."""
    mix = PlanMix(median_s=32, sigma=0.35, fail_share=0.2, never_share=0.1)
    rng = Random(7)
    plans = [mix.draw(rng) for _ in range(4_000)]
    durations = sorted(plan.duration_s for plan in plans if plan.outcome != "never")
    assert 30 < durations[len(durations) // 2] < 34
    assert 0.17 < sum(plan.outcome == "fail" for plan in plans) / 4_000 < 0.23
    assert 0.08 < sum(plan.outcome == "never" for plan in plans) / 4_000 < 0.12


def test_windows_are_parsed_from_the_settings_form() -> None:
    """``2/1,60/60`` is two windows; an empty text is none."""
    assert parse_windows("2/1, 60/60") == (RateWindow(2, 1), RateWindow(60, 60))
    assert parse_windows("") == ()


@pytest.mark.parametrize("text", ["2", "2/", "0/1", "2/0", "a/b", "2/1,", "-1/1", "2/1;60/60"])
def test_a_malformed_window_is_refused(text: str) -> None:
    """What is not requests/seconds raises, naming the form."""
    with pytest.raises(ValueError, match="requests/seconds"):
        parse_windows(text)


def test_the_window_with_the_longest_wait_answers() -> None:
    """With both windows full the wait is that of the minute, in whole seconds rounded up."""
    limiter = KeyedLimiter(parse_windows("2/1,3/60"))
    assert [limiter.check("k", at) for at in (0.0, 0.1)] == [None, None]
    refusal = limiter.check("k", 0.2)
    assert refusal is not None
    assert (refusal.window, refusal.retry_after_s) == (RateWindow(2, 1), 1)
    assert limiter.check("k", 1.0) is None
    refusal = limiter.check("k", 1.05)
    assert refusal is not None
    assert (refusal.window, refusal.retry_after_s) == (RateWindow(3, 60), 59)


def test_a_window_never_lets_more_through_than_its_limit() -> None:
    """Asked all the time, each window passes exactly its limit in any span of its length; refusals do not count."""
    limiter = KeyedLimiter([RateWindow(5, 1), RateWindow(20, 10)])
    passed = [tick / 100 for tick in range(3_000) if limiter.check("k", tick / 100) is None]
    for limit, seconds in ((5, 1), (20, 10)):
        assert max(sum(at <= other < at + seconds for other in passed) for at in passed) == limit
    assert len(passed) == 60


def test_keys_are_limited_apart() -> None:
    """One key's requests take nothing from another's."""
    limiter = KeyedLimiter([RateWindow(1, 60)])
    assert limiter.check("a", 0) is None
    assert limiter.check("b", 0) is None
    assert limiter.check("a", 0) is not None


def test_without_windows_there_is_no_limit() -> None:
    """The default lets everything through."""
    limiter = KeyedLimiter([])
    assert all(limiter.check("k", 0) is None for _ in range(1_000))


def test_a_fault_hits_as_many_requests_as_asked_then_ends() -> None:
    """``times`` counts down on the simulator's copy, not on the caller's fault."""
    fault = Fault(kind=FaultKind.HANG, times=2)
    faults = Faults(Random(1))
    faults.add(fault)
    assert [faults.pick("recordInfo", "t") is not None for _ in range(4)] == [True, True, False, False]
    assert faults.active == []
    assert fault.times == 2


def test_a_fault_keeps_to_its_endpoint_and_task() -> None:
    """Other endpoints and tasks are spared, and do not count it down."""
    faults = Faults(Random(1))
    faults.add(Fault(kind=FaultKind.HANG, endpoint="recordInfo", task_id="t", times=1))
    assert faults.pick("createTask", None) is None
    assert faults.pick("recordInfo", "other") is None
    assert faults.pick("recordInfo", "t") is not None


def test_a_probable_fault_repeats_with_its_seed() -> None:
    """The same seed spoils the same requests, about as many as the probability says."""

    def draw() -> list[bool]:
        faults = Faults(Random(3))
        faults.add(Fault(kind=FaultKind.HTML, probability=0.25))
        return [faults.pick("recordInfo", "t") is not None for _ in range(1_000)]

    assert draw() == draw()
    assert 200 < sum(draw()) < 300


def test_the_first_fitting_fault_wins() -> None:
    """Faults are tried in the order they were added; clear takes all away."""
    faults = Faults(Random(1))
    faults.add(Fault(kind=FaultKind.HTML, task_id="a"), Fault(kind=FaultKind.HANG))
    picked = [faults.pick("recordInfo", task_id) for task_id in ("a", "b")]
    assert [fault.kind for fault in picked if fault] == [FaultKind.HTML, FaultKind.HANG]
    faults.clear()
    assert faults.pick("recordInfo", "a") is None


SUCCESS = make_task(Plan()).envelope("t", 1_000)
FAIL = make_task(Plan(outcome="fail")).envelope("t", 1_000)
WAITING = make_task(Plan(outcome="never")).envelope("t", 1_000)


def test_every_kind_of_fault_changes_some_answer() -> None:
    """No kind is without effect: each replaces or distorts at least one answer, or acts on the connection."""
    on_the_connection = {FaultKind.HANG, FaultKind.SLOW, FaultKind.RESET}
    for kind in set(FaultKind) - on_the_connection:
        fault = Fault(kind=kind, size=10)
        plain = [msgspec.json.encode(envelope) for envelope in (SUCCESS, FAIL, WAITING)]
        spoiled = [
            fault.spoil_body(msgspec.json.encode(fault.spoil_envelope(envelope)))
            for envelope in (SUCCESS, FAIL, WAITING)
        ]
        assert spoiled != plain or fault.replacement().status != 200, kind


def test_distorting_leaves_the_original_alone() -> None:
    """Envelopes are not changed in place, as they may be shared."""
    before = msgspec.json.encode([SUCCESS, FAIL, WAITING])
    for kind in FaultKind:
        for envelope in (SUCCESS, FAIL, WAITING):
            Fault(kind=kind, size=10).spoil_envelope(envelope)
    assert msgspec.json.encode([SUCCESS, FAIL, WAITING]) == before


def test_the_familys_differences_keep_the_meaning() -> None:
    """The variants that a client must accept differ in the one member they are about."""

    def data(kind: FaultKind, envelope: dict[str, object]) -> dict[str, object]:
        changed: dict[str, object] = Fault(kind=kind).spoil_envelope(envelope)["data"]
        return changed

    assert data(FaultKind.RUNNING_STATE, WAITING)["state"] == "generating"
    assert data(FaultKind.RUNNING_STATE, SUCCESS)["state"] == "success"
    assert data(FaultKind.RESULT_OBJECT, SUCCESS)["resultJson"] == {
        "resultUrls": ["https://cdn.example.com/result.png"]
    }
    assert data(FaultKind.INTEGER_FAIL_CODE, FAIL)["failCode"] == 400
    assert "failCode" not in data(FaultKind.OMIT_NULLS, WAITING)
    assert data(FaultKind.EMPTY_FOR_NULL, WAITING)["failCode"] == ""
    assert data(FaultKind.EXTRA_MEMBERS, SUCCESS)["creditsConsumed"] == 4.5


def test_values_that_cannot_be_converted_are_left_as_they_are() -> None:
    """A result that is not JSON and a code that is not a number pass through the variants unharmed."""
    odd = make_task(Plan(result="not JSON")).envelope("t", 1_000)
    assert Fault(kind=FaultKind.RESULT_OBJECT).spoil_envelope(odd) == odd
    named = make_task(Plan(outcome="fail", fail_code="E1")).envelope("t", 1_000)
    assert Fault(kind=FaultKind.INTEGER_FAIL_CODE).spoil_envelope(named) == named


def test_an_error_fault_tells_status_and_code_apart() -> None:
    """HTTP 200 with an error code inside is one form; without a code it follows the status."""
    answer = Fault(kind=FaultKind.ERROR, status=200, code=422, msg="recordInfo is null").replacement()
    assert answer.status == 200
    assert msgspec.json.decode(answer.body) == {"code": 422, "msg": "recordInfo is null", "data": None}
    answer = Fault(kind=FaultKind.ERROR, status=503, headers={"Retry-After": "7"}).replacement()
    assert msgspec.json.decode(answer.body)["code"] == 503
    assert answer.headers == [(b"retry-after", b"7")]


def test_the_peak_is_that_of_any_one_second() -> None:
    """A burst across the border of two clock seconds is one peak."""
    rate = PeakRate()
    for at in (0.0, 0.9, 0.95, 1.0, 1.05, 1.1, 3.0):
        rate.count(at)
    assert rate.peak == 5


def test_dropping_makes_room_by_taking_the_oldest() -> None:
    """At its limit a dict loses its oldest entries and never holds more than the limit after the next one."""
    entries: dict[str, int] = {}
    for number in range(1_000):
        drop_oldest(entries, 100)
        entries[str(number)] = number
        assert len(entries) <= 100
    assert len(entries) > 90
    assert list(entries) == [str(number) for number in range(1_000 - len(entries), 1_000)]


def test_poll_counts_are_bounded() -> None:
    """However many ids are asked for, only the newest are counted."""
    stats = Stats()
    for number in range(POLLS_KEPT + 500):
        stats.count_poll(str(number))
    stats.count_poll(str(POLLS_KEPT))
    assert len(stats.polls) <= POLLS_KEPT
    assert stats.polls[str(POLLS_KEPT)] == 2
    assert "0" not in stats.polls
