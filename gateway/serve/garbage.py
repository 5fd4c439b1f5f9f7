"""When the garbage collector looks for cycles: soon among what is new, and seldom through all that there is.

Owns its thresholds, and the time of each look through everything. Called by ``process``. What goes well ends in no
cycle; a dial that fails does, and a page of the dashboard.
"""

import asyncio
import gc
from collections.abc import Callable

__all__ = ["look_seldom"]

_NEW = 5000
"""New objects that may be part of a cycle, before it looks at them."""
_AGAIN = 1
"""Such looks, beside one, before it looks at what they have left: some milliseconds, and 60 to 90 with 3 under attack,
where work on something large has kept it from looking for a while."""
_NEVER = 1_000_000_000
"""Of these, before it looks through everything by itself. That is a microsecond for each object, 170 ms with 4,096
connections, in which the gateway does nothing else: under attack it was the longest that anybody waited for."""
_LEAST_S = 60.0
_PAUSE = 1000
"""So many times as long as the last look through everything took, there is no other."""


def look_seldom(monotonic: Callable[[], float]) -> None:
    """Have it look so from now on, in the running event loop, and never again at what there is by now.

    ``monotonic``: seconds that go on while it looks, which the loop's own do not.

    In 48,000 lives 27 collections went through all that the start had made, 14 ms each, and 3,300 through what was new:
    15 us of a life's 250, and now less than one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW, _AGAIN, _NEVER)
    asyncio.get_running_loop().call_later(_LEAST_S, _look, monotonic)


def _look(monotonic: Callable[[], float]) -> None:
    began = monotonic()
    gc.collect()
    pause_s = max(_LEAST_S, _PAUSE * (monotonic() - began))
    asyncio.get_running_loop().call_later(pause_s, _look, monotonic)
