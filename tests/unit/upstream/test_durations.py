"""What the gateway learns about how long tasks take."""

import math
import random

import pytest

from gateway.core.model import KEPT_DURATIONS, KEPT_MODELS
from gateway.upstream import durations as module
from gateway.upstream.durations import REBUILD_S, Distribution, Durations


def taught(*durations_s: float, model: str | None = "model") -> Durations:
    durations = Durations()
    for duration_s in durations_s:
        durations.observe(model, duration_s)
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
    distribution = taught(*durations_s).distribution("model", 0.0)
    ages = [0.0, 0.01, 0.5, *range(1, 2000, 7), 1e5, 1e7]
    survival = [distribution.survival_at(age) for age in ages]
    assert survival[0] == 1
    assert survival == sorted(survival, reverse=True)
    assert survival[-1] > 0


def test_expected_unnoticed_time_is_the_mean_of_what_it_says() -> None:
    """E[(age - D)+ | D > last poll], by the formula and by counting; nothing where no time has passed."""
    distribution = taught(*lognormal(30, 0.5, 200)).distribution("model", 0.0)
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


def test_unnoticed_time_keeps_growing_for_a_task_that_outlives_everything() -> None:
    """Past the longest seen a task still gains in rank, so that it is not starved."""
    distribution = taught(*lognormal(30, 0.3, 200)).distribution("model", 0.0)
    end_s = distribution.end_s
    values = [distribution.expected_unnoticed_s(end_s, end_s + wait_s) for wait_s in (10, 100, 1000, 10_000)]
    assert values == sorted(values)
    assert values[-1] > 5000


def test_unknown_model_gets_a_broad_prior() -> None:
    """Nothing is known: median 30 s, with seconds and minutes both credible."""
    distribution = Durations().distribution("new", 0.0)
    assert median(distribution) == pytest.approx(30, rel=0.05)
    assert distribution.survival_at(6) < 0.95
    assert distribution.survival_at(100) > 0.1


def test_new_model_starts_from_the_pool_of_the_others_and_the_prior() -> None:
    """Where the other models take 5 s, a new one is expected at 5 s, but not with certainty."""
    durations = taught(*lognormal(5, 0.1, 200), model="fast")
    distribution = durations.distribution("new", 0.0)
    assert 0.4 < within(distribution, 3, 7) < 0.7


def test_own_durations_outweigh_what_was_assumed() -> None:
    """After some ten tasks the model's own durations decide."""
    durations = taught(*[5.0] * 200, model="fast")
    for _ in range(12):
        durations.observe("slow", 120.0)
    assert median(durations.distribution("slow", 0.0)) == pytest.approx(120, rel=0.25)


def test_learned_lognormal_is_close_to_the_true_one() -> None:
    """After 200 tasks the estimate is within five hundredths of the truth at every age."""
    distribution = taught(*lognormal(32, 0.35, 200)).distribution("model", 0.0)
    for age in range(5, 120):
        true = math.erfc(math.log(age / 32) / 0.35 / math.sqrt(2)) / 2
        assert distribution.survival_at(age) == pytest.approx(true, abs=0.05)


def test_two_peaks_keep_the_valley_between_them() -> None:
    """Half at 12 s and half at 90 s: next to nothing is expected between."""
    rng = random.Random(4)
    durations_s = [rng.lognormvariate(math.log(rng.choice((12, 90))), 0.15) for _ in range(200)]
    distribution = taught(*durations_s).distribution("model", 0.0)
    assert within(distribution, 22, 55) < 0.04
    assert within(distribution, 6, 22) == pytest.approx(0.5, abs=0.08)


def test_narrow_peak_stays_narrow() -> None:
    """Tasks that all take 30 s, to half a second, are expected then."""
    rng = random.Random(5)
    distribution = taught(*[rng.gauss(30, 0.5) for _ in range(200)]).distribution("model", 0.0)
    assert within(distribution, 28, 32) > 0.9


def test_memoryless_durations_get_an_even_hazard() -> None:
    """Exponential durations are recognised, so that chance clusters do not pass for peaks."""
    rng = random.Random(6)
    distribution = taught(*[rng.expovariate(1 / 30) for _ in range(200)]).distribution("model", 0.0)
    assert all(hazard_per_s(distribution, age) == pytest.approx(1 / 30, rel=0.35) for age in range(2, 90))


def test_long_tail_is_not_cut_off() -> None:
    """Some tasks take ten times the median: the estimate reaches beyond them."""
    durations_s = lognormal(32, 1.2, 200)
    distribution = taught(*durations_s).distribution("model", 0.0)
    assert distribution.end_s >= max(durations_s)
    assert distribution.survival_at(320) == pytest.approx(0.0275, abs=0.025)


def test_recent_durations_weigh_more() -> None:
    """When a model slows from 20 s to 60 s, the estimate is there long before the window is."""
    distribution = taught(*lognormal(20, 0.1, 150), *lognormal(60, 0.1, 100)).distribution("model", 0.0)
    assert distribution.survival_at(40) > 0.47
    moved = taught(*lognormal(20, 0.1, 150), *lognormal(60, 0.1, KEPT_DURATIONS)).distribution("model", 0.0)
    assert moved.survival_at(40) > 0.95


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, 1e12])
def test_impossible_durations_are_not_learned_from(nonsense: float) -> None:
    """A broken clock upstream does not reach the estimate."""
    assert taught(nonsense).distribution("model", 0.0).ages_s == Durations().distribution("model", 0.0).ages_s


def test_negative_duration_counts_as_none_at_all() -> None:
    """A task that ended before it was registered has taken no time from there."""
    distribution = taught(*[-5.0] * 100, model=None).distribution(None, 0.0)
    assert distribution.survival_at(1) < 0.1


def test_time_since_registration_is_kept_apart() -> None:
    """What is learned without a model serves the first poll, and does not teach the models."""
    durations = taught(*[0.0] * 100, model=None)
    assert median(durations.distribution("model", 0.0)) == pytest.approx(30, rel=0.05)


def test_memory_is_bounded() -> None:
    """A million durations and any number of models cost a bounded window each, and the oldest models go."""
    durations = Durations()
    for i in range(KEPT_MODELS + 50):
        durations.observe(f"model-{i}", 10.0)
        durations.observe("kept", 10.0)
    for _ in range(3 * KEPT_DURATIONS):
        durations.observe("kept", 10.0)
    assert len(durations._models) == KEPT_MODELS
    assert "kept" in durations._models
    assert "model-0" not in durations._models
    assert len(durations._models["kept"]._durations_s) == KEPT_DURATIONS
    for i in range(2 * KEPT_MODELS):
        durations.distribution(f"asked-{i}", 0.0)
    assert len(durations._models) == KEPT_MODELS


def test_distribution_is_made_anew_only_when_enough_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first each task counts; a window that is full is worked through neither for few tasks nor often."""
    made = 0
    estimate = module._estimate

    def counting(*arguments: object) -> Distribution:
        nonlocal made
        made += 1
        return estimate(*arguments)  # type: ignore[arg-type]

    durations = taught(10.0)
    first = durations.distribution("model", 0.0)
    assert durations.distribution("model", 0.0) is first
    durations.observe("model", 50.0)
    assert durations.distribution("model", 0.0) is not first
    for _ in range(KEPT_DURATIONS):
        durations.observe("model", 10.0)
    full = durations.distribution("model", 1.0)
    monkeypatch.setattr(module, "_estimate", counting)
    for _ in range(1000):
        durations.observe("model", 10.0)
        assert durations.distribution("model", REBUILD_S) is full
    assert made == 0
    assert durations.distribution("model", 1.0 + REBUILD_S) is not full
    few = durations.distribution("model", 1.0 + REBUILD_S)
    for _ in range(KEPT_DURATIONS // 8):
        durations.observe("model", 10.0)
    assert durations.distribution("model", 1000.0) is few
