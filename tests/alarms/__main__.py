"""``make alarms``: a day of normal life in which no alert may fire, and each fault with those that must.

``--only TEXT``: the faults whose name has it; ``--seed``: another day, other tasks.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.alarms.faults import FAULTS
from tests.alarms.play import play_day, play_fault
from tests.printing import report_output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="the faults whose name has it, and no day")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plays: dict[str, Callable[[Path], str]] = (
        {} if options.only else {"a day of normal life": lambda folder: play_day(folder, seed=options.seed)}
    )
    for name in (name for name in FAULTS if options.only in name):
        plays[name] = lambda folder, name=name: play_fault(folder, name, seed=options.seed)  # type: ignore[misc]
    failed = 0
    for name, play in plays.items():
        with TemporaryDirectory() as folder:
            wrong = play(Path(folder))
        fires = (
            ", ".join(f"{alert} within {minutes:.0f} min" for alert, minutes in FAULTS[name].fires.items())
            if name in FAULTS
            else "nothing fires"
        )
        print(f"{'FAILED' if wrong else 'ok    '} {name}: {fires}", flush=True)
        if name in FAULTS and FAULTS[name].by_hand:
            print(f"         its figure is set by hand: {FAULTS[name].by_hand}", flush=True)
        if wrong:
            failed += 1
            print(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    with report_output():
        sys.exit(main())
