"""``make bench-lag``: the lag of a real gateway in real time, in bursts of 500 tasks after 200 that have taught it.

One process and one upstream a row, all at the same time; minutes, as tasks take that long. Compared as the rows of the
live laboratory are, and held to the same promises; exits with 1 where one is not kept.
"""

import argparse
import asyncio
import sys

from tests.bench import live_rows, real_lab
from tests.bench.live_lab import measured

ROWS = [name for name in live_rows.SCENARIOS if name.startswith(("burst, one peak", "burst, two peaks"))]
TAUGHT_EVERY_S = 0.25


async def row(name: str, seed: int) -> live_rows.Row:
    orders = live_rows.orders_of(name, seed, taught_every_s=TAUGHT_EVERY_S)
    seen = await real_lab.run(orders)
    return live_rows.Row(name, [live_rows.compared(name, orders, measured(seen))])


async def rows(names: list[str], seed: int) -> list[live_rows.Row]:
    return await asyncio.gather(*(row(name, seed) for name in names))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="WORDS", default=[""], help="only rows with these in their names")
    options = parser.parse_args()
    names = [name for name in ROWS if "restart" not in name and any(words in name for words in options.only)]
    print(f"{len(names)} gateways at work, for about eight minutes …", flush=True)
    verdicts = []
    print(live_rows.heading(1))
    for found in asyncio.run(rows(names, options.seed)):
        print(live_rows.show(found))
        verdicts += live_rows.verdicts(found)
    print()
    return live_rows.judge(verdicts)


if __name__ == "__main__":
    sys.exit(main())
