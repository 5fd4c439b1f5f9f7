"""``make simulate``: play many seeds, new ones every time; print each that breaks a law, and how to play it again."""

import argparse
import logging
import random
import sys
import time
import traceback
from collections.abc import Sequence

import structlog

from tests.simulation.play import play
from tests.simulation.scenario import draw

MOST_SEEDS = 1_000_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, help="the first of them; without it one is drawn")
    options = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(MOST_SEEDS) if options.first is None else options.first
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(f"{options.seeds} seeds from {first} on", flush=True)
    began, looks, broken = time.perf_counter(), 0, 0
    for seed in range(first, first + options.seeds):
        try:
            looks += play(draw(seed)).looks
        except Exception:  # noqa: BLE001 - whatever it is, the seed is to be told, and the others are to be played
            broken += 1
            traceback.print_exc()
            sys.stderr.write(f"\n{draw(seed)}\n\nseed {seed} breaks a law; play it again with\n")
            sys.stderr.write(f"  make simulate ARGS='--first {seed} --seeds 1'\n\n")
    took_s = time.perf_counter() - began
    told = f"{broken} of them broke a law" if broken else "nothing broken"
    print(f"{options.seeds} seeds, the laws looked at {looks:,} times, {told}; {took_s:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
