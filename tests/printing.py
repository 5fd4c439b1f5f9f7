"""The standard output of tools whose exit status says whether all is well: ``make attack | head`` ends without a word.

Owns what becomes of a tool whose report nobody reads to its end. Called by the tools' entries.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.core.errors import OutputClosed, OutputError
from gateway.core.terminal import standard_output

__all__ = ["report_output"]


@contextmanager
def report_output() -> Iterator[None]:
    """Have the process end with 1 where its report cannot be written: who reads on would not know how it ended.

    All that the tool has begun is ended before, as after any error.
    """
    try:
        with standard_output():
            yield
    except OutputClosed:
        sys.exit(1)
    except OutputError as error:
        sys.exit(error.message)
