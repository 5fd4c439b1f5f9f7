"""What the live laboratory says on virtual time against a real process in real time."""

import asyncio
import math
import random
from collections.abc import Iterator

import pytest

from tests.bench import real_lab
from tests.bench.live_lab import Job, Orders, measured, play
from tests.bench.policies import Figures

TRIES = 3


def lot(rng: random.Random, count: int, every_s: float) -> Iterator[Job]:
    for number in range(count):
        yield Job(number * every_s, rng.lognormvariate(math.log(2), 0.35))


def agree(process: Figures, lab: Figures) -> bool:
    """Whether the polls agree within 2:3 and the lags within 1:2 and a quarter of a second."""
    polls = 2 / 3 < process.polls / lab.polls < 3 / 2
    return polls and lab.mean_s / 2 < process.mean_s < 2 * lab.mean_s + 0.25


@pytest.mark.timeout(240)
async def test_the_laboratory_tells_what_the_process_does() -> None:
    """Where the model is told, through the proxy, and where it is not.

    In quiet both agree within a twentieth. A machine that has no time for the process makes its polls late and few, and
    never the other way round: so it may try again.
    """
    rng = random.Random(5)
    taught, tasks = list(lot(rng, 60, 0.03)), list(lot(rng, 150, 0.01))
    both = [Orders(taught, tasks, told=told, min_s=0.1, max_s=3.0) for told in (False, True)]
    labs = [measured(await asyncio.to_thread(play, orders, 1)) for orders in both]
    for _ in range(TRIES):
        real = [measured(seen) for seen in await asyncio.gather(*(real_lab.run(orders) for orders in both))]
        if all(map(agree, real, labs)):
            break
    else:
        pytest.fail(f"process {real}, laboratory {labs}")
