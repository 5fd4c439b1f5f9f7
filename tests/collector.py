"""What is left to the garbage collector, for tests of errors: their frames may hold one another, and bodies."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["nothing_left_to_the_collector"]


@contextmanager
def nothing_left_to_the_collector() -> Iterator[None]:
    """Fail where a frame of the gateway's is left that only the garbage collector would free."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
    finally:
        gc.set_debug(0)
        gc.enable()
    traces = [one for one in gc.garbage if isinstance(one, TracebackType)]
    held = [f"{one.tb_frame.f_code.co_filename}:{one.tb_lineno}" for one in traces]
    gc.garbage.clear()
    assert not [where for where in held if "/gateway/" in where]
