"""A limit on the memory of one child process, as a container has it: by a cgroup where this user may make one.

Owns the cgroup, and the watch that takes its place where there can be none: that reads how much the process has had,
many times a second, and kills it as the kernel would. Linux only. Called by ``gateway``.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Limit", "limited", "peak_bytes"]

_ROOT = Path("/sys/fs/cgroup")
_PLACES = {  # how a limit is written, by the version
    "cgroup v2": (_ROOT, "memory.max", {"memory.swap.max": "0"}),
    "cgroup v1": (_ROOT / "memory", "memory.limit_in_bytes", {}),
}


class Limit(NamedTuple):
    """How the limit is kept."""

    how: str
    enter: Callable[[], None] | None
    """Called in the child before it becomes the gateway; None: the parent has to watch."""


@contextmanager
def limited(limit_bytes: int) -> Iterator[Limit]:
    """Give a limit for one process, which must have ended when the block does."""
    for how, (root, name, more) in _PLACES.items():
        group = root / f"gateway-attack-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if not (group / name).exists():  # the kernel makes it: this is another file system
            group.rmdir()
            continue
        try:
            (group / name).write_text(str(limit_bytes))
            for other, value in more.items():
                (group / other).write_text(value)
        except OSError:
            group.rmdir()
            continue
        try:
            yield Limit(how, _entering(group))
        finally:
            with suppress(OSError):
                group.rmdir()
        return
    yield Limit("its resident memory, watched", None)


def _entering(group: Path) -> Callable[[], None]:
    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return enter


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that the process has had; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
