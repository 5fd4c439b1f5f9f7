"""When a task is polled next."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule import PollSchedule


class Fixed(random.Random):
    """A source of chance that always gives the same number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


LEAST = Fixed(0.0)
MOST = Fixed(1.0 - 2**-53)
DEFAULT = PollSchedule(1, 30)

bounds = st.tuples(st.floats(0.01, 100), st.floats(0.01, 1000)).map(sorted).map(lambda pair: PollSchedule(*pair))
rngs = st.integers().map(random.Random)


@pytest.mark.parametrize(
    ("age_s", "delay_s"), [(-60, 1), (0, 1), (1, 1), (6, 1), (12, 2), (60, 10), (180, 30), (181, 30), (86_400, 30)]
)
def test_a_running_task_waits_a_sixth_of_its_age(age_s: float, delay_s: float) -> None:
    """A running task is asked again after a sixth of its age, within the bounds, a clock that jumped back included."""
    assert DEFAULT.running_delay_s(age_s, LEAST) == delay_s


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30), (1000, 30), (10**9, 30)]
)
def test_failures_in_a_row_double_the_wait(failures: int, delay_s: float) -> None:
    """Each failure in a row doubles the wait up to the bound, and no number of them overflows."""
    assert DEFAULT.failed_delay_s(failures, LEAST) == delay_s


def test_a_tenth_is_added_at_random() -> None:
    """Tasks registered together drift apart: up to a tenth is added, though never beyond the upper bound."""
    assert DEFAULT.running_delay_s(60, MOST) == pytest.approx(11)
    assert DEFAULT.running_delay_s(60, Fixed(0.5)) == pytest.approx(10.5)
    assert DEFAULT.running_delay_s(0, MOST) == pytest.approx(1.1)
    assert DEFAULT.running_delay_s(174, MOST) == 30
    assert DEFAULT.failed_delay_s(1, MOST) == pytest.approx(2.2)


@given(schedule=bounds, age_s=st.floats(-1e9, 1e9), failures=st.integers(1, 10**6), rng=rngs)
def test_the_bounds_hold(schedule: PollSchedule, age_s: float, failures: int, rng: random.Random) -> None:
    """Whatever the age and the failures, the wait stays within the configured bounds."""
    assert schedule.min_s <= schedule.running_delay_s(age_s, rng) <= schedule.max_s
    assert schedule.min_s <= schedule.failed_delay_s(failures, rng) <= schedule.max_s


@given(ages=st.lists(st.floats(0, 1e6), min_size=2), schedule=bounds)
def test_an_older_task_never_waits_less(ages: list[float], schedule: PollSchedule) -> None:
    """Apart from chance, the wait grows with the age."""
    delays = [schedule.running_delay_s(age, LEAST) for age in sorted(ages)]
    assert all(shorter <= longer for shorter, longer in pairwise(delays))


def test_a_minutes_work_costs_few_polls() -> None:
    """A task of a minute is polled some twenty times, and its end is noticed within a fifth of its age."""
    rng = random.Random(7)
    age_s, polls = 0.0, 0
    while age_s < 60:
        age_s += DEFAULT.running_delay_s(age_s, rng)
        polls += 1
    assert polls <= 24
    assert age_s <= 60 * 1.2
