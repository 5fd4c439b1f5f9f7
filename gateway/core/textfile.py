"""Reads the small text files that an operator names: settings, profiles, secrets.

Owns that none holds up a start, whatever stands under its name, nor fills the memory. Called by ``gateway.config``.
"""

import errno
import os
import select
import stat
from pathlib import Path

from gateway.core.clock import SystemClock

_PATIENCE_S = 5.0
"""How long the writer of a pipe, such as a shell's ``<(…)``, may take for all of it."""
_MAX_BYTES = 4 * 1024 * 1024


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark. Raises OSError, or ValueError where it is no text in UTF-8."""
    # Not to wait: to open a pipe would, until somebody opens its other end.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        return _read(file, waits=not regular).decode("utf-8-sig")
    finally:
        os.close(file)


def _read(file: int, *, waits: bool) -> bytes:
    clock = SystemClock()
    deadline = clock.monotonic() + _PATIENCE_S
    text = bytearray()
    while len(text) <= _MAX_BYTES:
        if waits and not select.select([file], [], [], max(0.0, deadline - clock.monotonic()))[0]:
            raise TimeoutError(errno.ETIMEDOUT, f"nobody has written all of it within {_PATIENCE_S:g} s")
        part = os.read(file, 64 * 1024)
        if not part:
            return bytes(text)
        text += part
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
