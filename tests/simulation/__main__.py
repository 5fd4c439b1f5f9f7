"""``make simulate``: play many seeds; print the first one that breaks a law, and how to play it again."""

import argparse
import logging
import sys
import time
import traceback

import structlog

from tests.simulation.play import play
from tests.simulation.scenario import draw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began, looks = time.perf_counter(), 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            looks += play(draw(seed)).looks
        except BaseException:  # noqa: BLE001 - whatever it is, the seed is to be told
            traceback.print_exc()
            sys.stderr.write(f"\n{draw(seed)}\n\nseed {seed} breaks a law; play it again with\n")
            sys.stderr.write(f"  python -m tests.simulation --first {seed} --seeds 1\n")
            return 1
    took_s = time.perf_counter() - began
    print(f"{options.seeds} seeds, the laws looked at {looks:,} times, nothing broken; {took_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
