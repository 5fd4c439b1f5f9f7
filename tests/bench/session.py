"""What every measurement is given: the sides, the peers' interpreter, how often and how much.

Owns the temporary folders (``TMPDIR`` decides on which disk) and what is said while it runs, on standard error.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import Sides


@dataclass(frozen=True)
class Session:
    sides: Sides
    peers_python: str
    """The interpreter that has the peers' packages."""
    runs: int
    quick: bool
    """Whether everything is to be tried once, with counts too small for figures to rely on."""
    minutes: float
    """How long what runs for a long time runs."""
    started_at: float
    postgres: bool
    """Whether what runs on either database is measured on PostgreSQL."""
    samples: list[dict[str, float]]
    """What a long run notes on its way."""

    def count(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def rounds(self, name: str, at_most: int = 1000) -> Iterator[int]:
        runs = min(self.runs, at_most)
        for number in range(runs):
            self.say(f"{name}, run {number + 1} of {runs}")
            yield number

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started_at:7.0f} s  {text}", file=sys.stderr, flush=True)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for one gateway, or several after one another on the same database."""
        with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
            yield Path(folder)
