"""On what a session ran: the processor, the kernel, the versions that the gateway ran with, and who else was there."""

import os
import platform
import resource
import sqlite3
import time
from pathlib import Path


def describe() -> dict[str, str]:
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


class Others:
    """How busy processes that are not ours keep the machine, from now on."""

    def __init__(self) -> None:
        self._started = self._reading()

    def share(self) -> float | None:
        """Return which share of all cores they had. Only children that have ended are known as ours."""
        if self._started is None or (now := self._reading()) is None:
            return None
        return (now[1] - self._started[1]) / ((now[0] - self._started[0]) * (os.cpu_count() or 1))

    @staticmethod
    def _reading() -> tuple[float, float] | None:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, interrupts, soft_interrupts, *_ = (int(field) for field in fields)
        busy_s = (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.monotonic(), busy_s - sum(usage.ru_utime + usage.ru_stime for usage in used)
