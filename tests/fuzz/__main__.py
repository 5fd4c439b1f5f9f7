"""``make fuzz``: give each reader of foreign bytes new inputs for as long as is said, and stop at one that it misreads.

Owns the command line and the rounds. Inputs come from hypothesis, which makes a failing one as small as it can; what
was found stands in ``cases`` and is looked at in every ``make test``.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import envelope, inbound, outbound, signing
from tests.fuzz.target import Target
from tests.printing import report_output

__all__ = ["TARGETS", "main", "play"]

TARGETS = {target.name: target for target in (inbound.TARGET, outbound.TARGET, envelope.TARGET, signing.TARGET)}
_ROUND = 2000  # inputs that hypothesis keeps in mind, so as to give none twice
_TOLD_EVERY_S = 60.0
_MOST_CPU_S = 2.0  # for an input of some hundred bytes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for each target")
    parser.add_argument("--only", choices=TARGETS, action="append", help="a target; may be given again")
    parser.add_argument("--seed", type=int, help="of the first round; without it one is drawn")
    options = parser.parse_args(arguments)
    first = random.SystemRandom().randrange(1_000_000_000) if options.seed is None else options.seed
    names = options.only or list(TARGETS)
    return max([_fuzz(TARGETS[name], first, options.minutes * 60) for name in names])


def _fuzz(target: Target, first: int, limit_s: float) -> int:
    print(f"{target.name}: from seed {first} on", flush=True)
    began = told = time.monotonic()
    number, inputs = first, 0
    while (now := time.monotonic()) - began < limit_s:
        try:
            inputs += play(target, number, _ROUND)
        except Exception:  # noqa: BLE001 - whatever it is, the seed is to be told
            traceback.print_exc()
            sys.stderr.write(f"\n{target.name}: seed {number} is misread; play it again with\n")
            sys.stderr.write(f"  make fuzz ARGS='--only {target.name} --seed {number} --minutes 0.01'\n\n")
            return 1
        number += 1
        if now - told > _TOLD_EVERY_S:
            told = now
            print(f"{target.name}: {inputs:,} inputs in {now - began:.0f} s", flush=True)
    print(f"{target.name}: {inputs:,} inputs in {time.monotonic() - began:.0f} s, all read as they must be", flush=True)
    return 0


def play(target: Target, number: int, inputs: int) -> int:
    """Check inputs that follow from the seed; return how many there were. Raises what the smallest bad one raises."""
    count = 0

    @seed(number)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def rounds(one: Any) -> None:
        nonlocal count
        count += 1
        began = time.process_time()
        target.check(one)
        assert time.process_time() - began < _MOST_CPU_S, "it takes too long"

    rounds()
    return count


if __name__ == "__main__":
    with report_output():
        sys.exit(main())
