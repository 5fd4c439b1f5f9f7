"""``make simulate``: play many seeds, new ones every time; print each that breaks a law, and how to play it again.

With ``--replicas`` several gateways on one PostgreSQL are played, else one on SQLite.
"""

import argparse
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import structlog

from tests.printing import report_output
from tests.simulation.play import play
from tests.simulation.replicas.cluster import serving
from tests.simulation.replicas.play import play as play_replicas
from tests.simulation.replicas.scenario import draw as draw_replicas
from tests.simulation.scenario import draw

MOST_SEEDS = 1_000_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, help="the first of them; without it one is drawn")
    parser.add_argument("--replicas", action="store_true", help="several gateways on one PostgreSQL")
    options = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(MOST_SEEDS) if options.first is None else options.first
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(f"{options.seeds} seeds from {first} on", flush=True)
    with ExitStack() as stack:
        if not options.replicas:
            return _play_all(draw, lambda scenario: play(scenario).looks, range(first, first + options.seeds), "")
        cluster = stack.enter_context(serving())

        def looks(scenario: Any) -> int:
            return play_replicas(scenario, cluster).looks

        return _play_all(draw_replicas, looks, range(first, first + options.seeds), "--replicas ")


def _play_all(draw_one: Callable[[int], Any], looks_of: Callable[[Any], int], seeds: range, kind: str) -> int:
    began, looks, broken = time.perf_counter(), 0, 0
    for seed in seeds:
        try:
            looks += looks_of(draw_one(seed))
        except Exception:  # noqa: BLE001 - whatever it is, the seed is to be told, and the others are to be played
            broken += 1
            traceback.print_exc()
            sys.stderr.write(f"\n{draw_one(seed)}\n\nseed {seed} breaks a law; play it again with\n")
            sys.stderr.write(f"  make simulate ARGS='{kind}--first {seed} --seeds 1'\n\n")
    took_s = time.perf_counter() - began
    told = f"{broken} of them broke a law" if broken else "nothing broken"
    print(f"{len(seeds)} seeds, the laws looked at {looks:,} times, {told}; {took_s:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    with report_output():
        sys.exit(main())
