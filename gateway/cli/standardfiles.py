"""Standard input, output and error: makes sure that a process has all three.

Called by ``gateway.cli.commandline``, first of all.
"""

import os
import sys

__all__ = ["open_missing"]


def open_missing() -> None:
    """Open the null device in the place of each standard file that was closed before the process began.

    Else the next file that is opened takes its number: a log line would go into the database, and the event loop's
    library aborts when it closes a file that has one of these numbers.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
