"""What benchmarks share: the simulated sides as a process of their own, the cores, and medians.

Owns how processes are pinned (what is measured to ``MEASURED``, all beside it to ``BESIDE``) and how ``sides.py`` is
started and asked. Imports the standard library only, so any environment can import it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MEASURED, BESIDE = 0, 1
STOP_LIMIT_S = 10
# As they were before the benchmark pinned itself: from then on it would see its own core only.
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True)
class Counts:
    """What has arrived at the sides since the last reset; the instants are of the monotonic clock."""

    webhooks: int
    distinct: int
    first_at: float
    last_at: float
    polls: int
    first_poll_at: float


class Sides:
    """The running sides, seen from the benchmark."""

    def __init__(self, pid: int, upstream_url: str, receiver_urls: list[str]) -> None:
        self.pid = pid
        self.upstream_url = upstream_url
        self.receiver_urls = receiver_urls
        self.receiver_url = receiver_urls[0]

    def count(self) -> Counts:
        return Counts(**json.loads(self._ask("/count")))

    def wait(self, count: int, timeout_s: float = 60) -> Counts:
        """Return when that many distinct webhooks have arrived; raise TimeoutError if they have not in time."""
        counts = Counts(**json.loads(self._ask(f"/wait?count={count}&timeout={timeout_s}", timeout_s + 10)))
        if counts.distinct < count:
            raise TimeoutError(f"{counts.distinct} of {count} webhooks arrived within {timeout_s:g} s")
        return counts

    def arrivals(self) -> dict[str, float]:
        """Return when each webhook-id arrived first, in seconds since the epoch."""
        return json.loads(self._ask("/arrivals"))  # type: ignore[no-any-return]

    def notices(self) -> list[float]:
        """Return, of the latest webhooks, the seconds since the last answer that had ended a task.

        Where one task runs at a time, that is how long its webhook took.
        """
        return json.loads(self._ask("/notices"))  # type: ignore[no-any-return]

    def reset(self) -> None:
        self._ask("/reset", method="POST")

    def cpu_s(self) -> float:
        """Return the CPU time the sides have used: close to the time that passed means that they were the limit."""
        return cpu_s(self.pid)

    def _ask(self, path: str, timeout_s: float = 60, method: str = "GET") -> bytes:
        request = urllib.request.Request(self.receiver_url + path, method=method)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.read()  # type: ignore[no-any-return]


@contextmanager
def start_sides(core: int = BESIDE, keep: int = 1_000_000, receivers: int = 1) -> Iterator[Sides]:
    """Run ``sides.py`` on its core; it remembers at most ``keep`` webhooks and has so many receivers."""
    command = [sys.executable, str(Path(__file__).with_name("sides.py"))]
    command += ["--keep", str(keep), "--receivers", str(receivers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=pinned(core)) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the simulated sides did not start")
            urls = json.loads(line)
            yield Sides(process.pid, urls["upstream"], urls["receivers"])
        finally:
            process.kill()
            process.wait(STOP_LIMIT_S)


def pinned(core: int) -> Callable[[], None]:
    """Return a ``preexec_fn`` that keeps a process and its children on one core: the nth of those we may use.

    With one core all share it, and where a process cannot be pinned (not Linux) it is left alone.
    """
    if not _CORES:
        return lambda: None
    chosen = {_CORES[core % len(_CORES)]}
    return lambda: os.sched_setaffinity(0, chosen)


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process, from Linux' /proc; zero where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disk_write_ms(writes: int = 100) -> float:
    """Return the median time in which 4 kB reach the disk of the temporary folder: what a commit waits for."""
    took = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(writes):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return round(statistics.median(took) * 1000, 3)


@dataclass(frozen=True)
class Median:
    """The middle of several rounds and how far apart they were: the worth of a figure on a noisy machine."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """From lowest to highest, as a share of the median."""
        return (self.high - self.low) / self.median


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def median_of(values: Iterable[float]) -> Median:
    found = sorted(values)
    return Median(statistics.median(found), found[0], found[-1])
