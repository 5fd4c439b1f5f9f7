"""``make describe``: hold a gateway against its ``/openapi.json`` with new examples, once open and once with tokens.

Owns the command line. ``make test`` asks the same with few examples and a fixed seed.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.core.telemetry import configure_logging
from tests.described.asking import ask
from tests.described.served import TOKENS, described
from tests.printing import report_output

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=400, help="for each call, and each way to make them")
    parser.add_argument("--seed", type=int, help="without it one is drawn")
    options, more = parser.parse_known_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000_000) if options.seed is None else options.seed
    print(f"make describe ARGS='--examples {options.examples} --seed {seed}' plays this again", flush=True)
    configure_logging("console", level="error")
    return asyncio.run(_describe(["--seed", str(seed), "-n", str(options.examples), *more]))


async def _describe(arguments: Sequence[str]) -> int:
    worst = 0
    for environ, headers in (({}, []), TOKENS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            async with described(folder, **environ) as gateway:
                told = [part for header in headers for part in ("--header", header)]
                status, _ = await ask(str(gateway.client.base_url), folder, *told, *arguments, output=None)
                worst = max(worst, status)
    return worst


if __name__ == "__main__":
    with report_output():
        sys.exit(main())
