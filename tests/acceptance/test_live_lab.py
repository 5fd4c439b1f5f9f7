"""What the live laboratory says on virtual time against a real process in real time."""

import asyncio
import math
import random
from collections.abc import Iterator

import pytest

from tests.bench import real_lab
from tests.bench.live_lab import Job, Orders, measured, play


def lot(rng: random.Random, count: int, every_s: float) -> Iterator[Job]:
    for number in range(count):
        yield Job(number * every_s, rng.lognormvariate(math.log(2), 0.35))


@pytest.mark.timeout(180)
async def test_the_laboratory_tells_what_the_process_does() -> None:
    """Polls per task agree within a quarter, lags within a factor of two and a quarter of a second.

    In quiet both agree within a twentieth; a machine that has no time for the process makes its polls late. A poll at
    age 0, or none, makes a third of all polls here, and so is told apart.
    """
    rng = random.Random(5)
    taught, tasks = list(lot(rng, 60, 0.03)), list(lot(rng, 150, 0.01))
    both = [Orders(taught, tasks, told=told, min_s=0.1, max_s=3.0) for told in (False, True)]
    real = await asyncio.gather(*(real_lab.run(orders) for orders in both))
    for orders, seen in zip(both, real, strict=True):
        played = await asyncio.to_thread(play, orders, 1)
        process, lab = measured(seen), measured(played)
        assert 0.75 < process.polls / lab.polls < 1.33
        assert lab.mean_s / 2 < process.mean_s < 2 * lab.mean_s + 0.25
