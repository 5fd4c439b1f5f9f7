"""What the gateway learns about how long tasks take."""

import math
import random

import pytest

from gateway.upstream import durations as module
from gateway.upstream.distribution import PRIOR, Distribution
from gateway.upstream.durations import KEPT_STREAMS, REBUILD_S, Durations, of_client, of_model

MODEL = of_model("model")


def taught(*durations_s: float, stream: str = MODEL) -> Durations:
    durations = Durations()
    for duration_s in durations_s:
        durations.ended(stream, 0.0, duration_s)
    return durations


def lognormal(median_s: float, sigma: float, count: int, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.lognormvariate(math.log(median_s), sigma) for _ in range(count)]


def median(distribution: Distribution) -> float:
    return next(age for age in (0.05 * step for step in range(1, 100_000)) if distribution.survival_at(age) <= 0.5)


def within(distribution: Distribution, low_s: float, high_s: float) -> float:
    return distribution.survival_at(low_s) - distribution.survival_at(high_s)


def hazard_per_s(distribution: Distribution, age_s: float) -> float:
    """Return how likely a task of this age is to end within the next second, as a rate."""
    step_s = 1e-6
    return within(distribution, age_s, age_s + step_s) / step_s / distribution.survival_at(age_s)


def uniform_to(end_s: float) -> Distribution:
    return Distribution([0.0, end_s / 2, end_s], [1.0, 0.5, 1e-9])


@pytest.mark.parametrize("durations_s", [[], [3.0], [30.0] * 300, lognormal(32, 1.2, 100), [0.0, 0.0, 1e6]])
def test_survival_falls_from_one_and_never_to_nothing(durations_s: list[float]) -> None:
    """Whatever was seen, a task of any age may still run, and the older the age the fewer tasks reach it."""
    distribution = taught(*durations_s).distribution(MODEL, 0.0)
    ages = [0.0, 0.01, 0.5, *range(1, 2000, 7), 1e5, 1e7]
    survival = [distribution.survival_at(age) for age in ages]
    assert survival[0] == 1
    assert survival == sorted(survival, reverse=True)
    assert survival[-1] > 0


def test_expected_unnoticed_time_is_the_mean_of_what_it_says() -> None:
    """E[(age - D)+ | D > last poll], by the formula and by counting; nothing where no time has passed."""
    distribution = taught(*lognormal(30, 0.5, 200)).distribution(MODEL, 0.0)
    rng = random.Random(3)
    ranked = [distribution.survival_at(step / 100) for step in range(20_000)]
    draws: list[float] = []
    while len(draws) < 2000:
        level = rng.random()
        duration_s = next((step / 100 for step in range(0, 20_000, 10) if ranked[step] <= level), 200.0)
        if duration_s > 20:
            draws.append(max(40 - duration_s, 0.0))
    assert distribution.expected_unnoticed_s(20, 40) == pytest.approx(sum(draws) / len(draws), rel=0.06)
    assert distribution.expected_unnoticed_s(40, 40) == 0
    assert distribution.expected_unnoticed_s(41, 40) == 0


def test_integrals_are_exact_where_they_are_known() -> None:
    """A uniform duration up to 10 s: mean 5 s, hazard 1/(10 - t), and 1.25 s unnoticed at 5 s."""
    distribution = uniform_to(10)
    assert distribution.area_at_s(1e9) == pytest.approx(5, abs=1e-6)
    assert distribution.area_at_s(5) == pytest.approx(3.75)
    assert hazard_per_s(distribution, 5) == pytest.approx(0.2)
    assert distribution.expected_unnoticed_s(0, 5) == pytest.approx(1.25)
    assert distribution.survival_at(-3) == 1


def test_many_ages_at_once_are_told_what_each_is_told() -> None:
    """To the last bit: on a point, between two, at the end, and beyond."""
    for distribution in (PRIOR, Distribution([0.0, 2.0, 5.0], [1.0, 0.5, 0.25])):
        ages_s = sorted({0.0, *distribution.ages_s, *(distribution.end_s * part / 7 for part in range(20))})
        alive, area = distribution.at(ages_s)
        assert alive == [distribution.survival_at(age_s) for age_s in ages_s]
        assert area == [distribution.area_at_s(age_s) for age_s in ages_s]
    assert PRIOR.at([]) == ([], [])


def test_unnoticed_time_keeps_growing_for_a_task_that_outlives_everything() -> None:
    """Past the longest seen a task still gains in rank, so that it is not starved."""
    distribution = taught(*lognormal(30, 0.3, 200)).distribution(MODEL, 0.0)
    end_s = distribution.end_s
    values = [distribution.expected_unnoticed_s(end_s, end_s + wait_s) for wait_s in (10, 100, 1000, 10_000)]
    assert values == sorted(values)
    assert values[-1] > 5000


def test_unknown_model_gets_a_broad_prior() -> None:
    """Nothing is known: median 30 s, with seconds and minutes both credible."""
    distribution = Durations().distribution(of_model("new"), 0.0)
    assert median(distribution) == pytest.approx(30, rel=0.05)
    assert distribution.survival_at(6) < 0.95
    assert distribution.survival_at(100) > 0.1


def test_new_model_starts_from_the_pool_of_the_others_and_the_prior() -> None:
    """Where the other models take 5 s, a new one is expected at 5 s, but not with certainty."""
    durations = taught(*lognormal(5, 0.1, 200), stream=of_model("fast"))
    distribution = durations.distribution(of_model("new"), 0.0)
    assert 0.4 < within(distribution, 3, 7) < 0.7


def test_own_durations_outweigh_what_was_assumed() -> None:
    """After some ten tasks the model's own durations decide."""
    durations = taught(*[5.0] * 200, stream=of_model("fast"))
    for _ in range(12):
        durations.ended(of_model("slow"), 0.0, 120.0)
    assert median(durations.distribution(of_model("slow"), 0.0)) == pytest.approx(120, rel=0.25)


def test_learned_lognormal_is_close_to_the_true_one() -> None:
    """After 200 tasks the estimate is within six hundredths of the truth at every age."""
    distribution = taught(*lognormal(32, 0.35, 200)).distribution(MODEL, 0.0)
    for age in range(5, 120):
        true = math.erfc(math.log(age / 32) / 0.35 / math.sqrt(2)) / 2
        assert distribution.survival_at(age) == pytest.approx(true, abs=0.06)


def test_two_peaks_keep_the_valley_between_them() -> None:
    """Half at 12 s and half at 90 s: next to nothing is expected between."""
    rng = random.Random(4)
    durations_s = [rng.lognormvariate(math.log(rng.choice((12, 90))), 0.15) for _ in range(200)]
    distribution = taught(*durations_s).distribution(MODEL, 0.0)
    assert within(distribution, 22, 55) < 0.04
    assert within(distribution, 6, 22) == pytest.approx(0.5, abs=0.08)


def test_narrow_peak_stays_narrow() -> None:
    """Tasks that all take 30 s, to half a second, are expected then."""
    rng = random.Random(5)
    distribution = taught(*[rng.gauss(30, 0.5) for _ in range(200)]).distribution(MODEL, 0.0)
    assert within(distribution, 28, 32) > 0.9


def test_memoryless_durations_get_an_even_hazard() -> None:
    """Exponential durations are recognised, so that chance clusters do not pass for peaks."""
    rng = random.Random(6)
    distribution = taught(*[rng.expovariate(1 / 30) for _ in range(200)]).distribution(MODEL, 0.0)
    assert all(hazard_per_s(distribution, age) == pytest.approx(1 / 30, rel=0.35) for age in range(2, 90))


def test_long_tail_is_not_cut_off() -> None:
    """Some tasks take ten times the median: the estimate reaches beyond them."""
    durations_s = lognormal(32, 1.2, 200)
    distribution = taught(*durations_s).distribution(MODEL, 0.0)
    assert distribution.end_s >= max(durations_s)
    assert distribution.survival_at(320) == pytest.approx(0.0275, abs=0.025)


def test_recent_durations_weigh_more() -> None:
    """When a model slows from 20 s to 60 s, the estimate is there long before the window is."""
    distribution = taught(*lognormal(20, 0.1, 150), *lognormal(60, 0.1, 100)).distribution(MODEL, 0.0)
    assert distribution.survival_at(40) > 0.47
    moved = taught(*lognormal(20, 0.1, 150), *lognormal(60, 0.1, 400)).distribution(MODEL, 0.0)
    assert moved.survival_at(40) > 0.95


def burst(durations: Durations, durations_s: list[float], at_s: float) -> None:
    """Poll tasks that all began at once every two seconds, until they are that old."""
    for duration_s in durations_s:
        for poll in range(1, int(at_s / 2) + 1):
            if duration_s <= 2 * poll:
                durations.ended(MODEL, 2.0 * (poll - 1), duration_s)
                break
            durations.alive(MODEL, 2.0 * (poll - 1), 2.0 * poll)


def two_peaks(count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.lognormvariate(math.log(12 if rng.random() < 0.6 else 90), 0.2) for _ in range(count)]


@pytest.mark.parametrize("at_s", [8, 16, 24, 50])
def test_the_short_ones_of_a_burst_do_not_push_out_what_is_known(at_s: float) -> None:
    """Those that still run have lasted at least so long: at no time is the estimate far from the truth."""
    durations = taught(*two_peaks(200, 1))
    burst(durations, two_peaks(500, 2), at_s)
    distribution = durations.distribution(MODEL, 0.0)
    assert distribution.survival_at(30) == pytest.approx(0.4, abs=0.07)
    assert distribution.survival_at(90) == pytest.approx(0.2, abs=0.07)


def test_the_living_are_heard_where_nothing_was_known() -> None:
    """None of 100 has ended by 40 s, so hardly one in a hundred does; and beyond that the assumption decides."""
    durations = Durations()
    burst(durations, [1000.0] * 100, 40)
    distribution = durations.distribution(MODEL, 0.0)
    assert distribution.survival_at(38) > 0.95
    before, after = Durations().distribution(MODEL, 0.0), distribution
    assert after.survival_at(80) / after.survival_at(41) == pytest.approx(
        before.survival_at(80) / before.survival_at(41), abs=0.05
    )


def test_tasks_none_of_which_ever_ends() -> None:
    """They are expected to run on, and so is any other of the upstream's; a task of any age may still end."""
    durations = Durations()
    burst(durations, [1e6] * 60, 1200)
    for stream in (MODEL, of_model("new")):
        distribution = durations.distribution(stream, 0.0)
        assert 1 > distribution.survival_at(100) > 0.3
        assert distribution.survival_at(1e6) > 0
    assert durations.distribution(MODEL, 0.0).survival_at(1000) > 0.9


@pytest.mark.parametrize("running", [100, 300, 1000, 5000])
def test_a_few_early_ends_say_nothing_of_the_many_that_run(running: int) -> None:
    """Twenty prompts are refused, and then nothing ends for long: soon they have faded, over a restart too."""
    durations = taught(*[2.0] * 20)
    for number in range(running):
        durations.alive(MODEL, 0.0, 30.0)
        if number == running // 2:
            again = Durations()
            again.restore(durations.dump())
            durations = again
    for stream in (MODEL, of_model("new")):
        distribution = durations.distribution(stream, 0.0)
        assert distribution.survival_at(300) / distribution.survival_at(30) < 0.15


def test_a_few_that_are_old_already_do_not_speak_for_all() -> None:
    """One task that has lasted 100 s says little of whether the others will."""
    durations = Durations()
    burst(durations, [1000.0] * 100, 20)
    durations.alive(MODEL, 0.0, 100.0)
    distribution = durations.distribution(MODEL, 0.0)
    assert distribution.survival_at(60) < 0.8


def test_refusals_that_come_at_once_do_not_spoil_the_peak() -> None:
    """However many fail after two seconds, what is known of those that do not stays."""
    known = lognormal(32, 0.3, 200)
    durations = taught(*known)
    alone = durations.distribution(MODEL, 0.0)
    for _ in range(600):
        durations.ended(MODEL, 0.0, 2.0)
    mixed = durations.distribution(MODEL, REBUILD_S)
    assert mixed.survival_at(3) < 0.1
    for age in (25, 32, 40, 50):
        assert mixed.survival_at(age) / mixed.survival_at(3) == pytest.approx(alone.survival_at(age), abs=0.07)


def test_it_does_not_matter_how_often_a_task_is_polled() -> None:
    """A life that is told in many stretches, the last of which ends it, counts as one."""
    often, once = Durations(), Durations()
    for duration_s in lognormal(30, 0.5, 100):
        once.ended(MODEL, 0.0, duration_s)
        at_s = 0.0
        while at_s + 1 < duration_s:
            often.alive(MODEL, at_s, at_s + 1)
            at_s += 1
        often.ended(MODEL, at_s, duration_s)
    for age in (10, 20, 30, 40, 60):
        expected = once.distribution(MODEL, 0.0).survival_at(age)
        assert often.distribution(MODEL, 0.0).survival_at(age) == pytest.approx(expected, abs=0.02)


def test_a_task_that_is_seen_again_after_its_end_ended_there() -> None:
    """Where the upstream's word on a duration is less than the age at which it was found running, that age counts."""
    durations = Durations()
    for _ in range(50):
        durations.alive(MODEL, 0.0, 20.0)
        durations.ended(MODEL, 20.0, 5.0)
    assert within(durations.distribution(MODEL, 0.0), 18, 22) > 0.8


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, 1e12])
def test_impossible_durations_are_not_learned_from(nonsense: float) -> None:
    """A broken clock upstream does not reach the estimate."""
    assert taught(nonsense).distribution(MODEL, 0.0).ages_s == Durations().distribution(MODEL, 0.0).ages_s


def test_negative_duration_counts_as_none_at_all() -> None:
    """A task that ended before it was registered has taken no time from there."""
    distribution = taught(*[-5.0] * 100, stream=of_client("ann")).distribution(of_client("ann"), 0.0)
    assert distribution.survival_at(1) < 0.1


def test_what_clients_register_is_kept_apart() -> None:
    """What is learned of a client serves its first polls, and does not teach the models."""
    durations = taught(*[0.0] * 100, stream=of_client("model"))
    assert median(durations.distribution(MODEL, 0.0)) == pytest.approx(30, rel=0.05)
    assert (durations.known(of_client("model")), durations.known(MODEL)) == (100, 0)


def test_memory_is_bounded() -> None:
    """Any number of streams, and of tasks of all ages, cost some kilobytes each, and the oldest streams go."""
    durations = Durations()
    for i in range(KEPT_STREAMS + 50):
        durations.ended(of_model(f"model-{i}"), 0.0, 10.0)
        durations.ended(of_model("kept"), 0.0, 10.0)
    for i in range(2 * KEPT_STREAMS):
        durations.distribution(of_model(f"asked-{i}"), 0.0)
    kept = durations.dump()
    assert len(kept) == KEPT_STREAMS + 1
    assert of_model("kept") in kept
    assert of_model("model-0") not in kept
    for age in (*range(1, 5000, 7), 2_592_000):
        durations.alive(MODEL, 0.0, age)
    assert len(durations.dump()[MODEL].bands) == 26


def test_names_that_are_made_up_push_out_one_another() -> None:
    """A model of which sixty tasks have ended stays, however many names of one task each come after it."""
    durations = taught(*[8.0] * 60)
    for i in range(4 * KEPT_STREAMS):
        durations.ended(of_model(f"made-up-{i}"), 0.0, 10.0)
    assert durations.known(MODEL) == 60
    assert len(durations.dump()) == KEPT_STREAMS + 1


def test_what_was_learned_can_be_taken_up_again() -> None:
    """The estimate is the same after a restart, in the middle of a burst too, and goes on from there."""
    durations = taught(*two_peaks(200, 1))
    burst(durations, two_peaks(300, 2), 20)
    again = Durations()
    again.restore(durations.dump())
    assert (again.begun(MODEL), again.known(MODEL)) == (durations.begun(MODEL), durations.known(MODEL))
    for known in (durations, again):
        for duration_s in two_peaks(50, 3):
            known.ended(MODEL, 0.0, duration_s)
    for age in (5, 10, 15, 60, 90, 120):
        expected = durations.distribution(MODEL, 0.0).survival_at(age)
        assert again.distribution(MODEL, 0.0).survival_at(age) == pytest.approx(expected, abs=1e-3)


def test_weights_do_not_grow_without_end() -> None:
    """After a hundred thousand tasks the counts are still those of the last ones."""
    durations = Durations()
    for _ in range(50_000):
        durations.ended(MODEL, 0.0, 20.0)
    for _ in range(1000):
        durations.ended(MODEL, 0.0, 60.0)
    distribution = durations.distribution(MODEL, 0.0)
    assert distribution.survival_at(50) > 0.95
    reached, _ = durations.dump()[MODEL].bands[0]
    assert reached[0] < 200


def test_distribution_is_made_anew_only_when_enough_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first each task counts; what is well known is worked through neither for few polls nor often."""
    made = 0
    estimate = module.estimate

    def counting(*arguments: object) -> Distribution:
        nonlocal made
        made += 1
        return estimate(*arguments)  # type: ignore[arg-type]

    durations = taught(10.0)
    first = durations.distribution(MODEL, 0.0)
    assert durations.distribution(MODEL, 0.0) is first
    durations.ended(MODEL, 0.0, 50.0)
    assert durations.distribution(MODEL, 0.0) is not first
    for _ in range(1000):
        durations.ended(MODEL, 0.0, 10.0)
    known = durations.distribution(MODEL, 1.0)
    monkeypatch.setattr(module, "estimate", counting)
    for _ in range(1000):
        durations.alive(MODEL, 0.0, 10.0)
        assert durations.distribution(MODEL, REBUILD_S) is known
    assert made == 0
    assert durations.distribution(MODEL, 1.0 + REBUILD_S) is not known
    assert made == 2, "its own, and the pool's"
