"""A task's polls, as they stand in its row: when each was made, what came, and why the next one was to be when.

Owns the form: six bytes a poll, of which the first and the last are kept. Pure. The poller has one added with what it
writes anyway, and a statement puts it behind the others, which nobody reads for it: thousands of polls a second are
written. Pages read it.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

CAME = (
    "registered",
    "running",
    "terminal",
    "not_known",
    "throttled",
    "key_refused",
    "credits",
    "maintenance",
    "broken",
    "unreachable",
    "unreadable",
)
"""What a poll came to, by its number in rows: ``registered`` is none, the others are polls' labels. Only added to."""


class Why(IntEnum):
    """Why a poll is due when it is; the numbers stand in rows."""

    UNKNOWN = 0
    FIRST = 1  # when it pays to ask for the first time, or at once
    LEARNED = 2  # where such tasks end, by what was learned
    SHORT = 3  # … and the budget is short: a poll has to bring more
    EXPLORING = 4  # few such tasks were seen: in steps that grow with the age
    OUTLIVED = 5  # it is older than all that were seen
    BACKOFF = 6  # a poll brought nothing
    SELDOM = 7  # … of this task alone
    COSTLY = 8  # … and was dear
    TOLD = 9  # the upstream asked to be left alone for so long
    ENDED = 10  # it is not: the task has ended


class PastPoll(NamedTuple):
    """One poll, or the registration before the first."""

    at_ms: int
    """When it was sent, in milliseconds since the task was watched."""
    came: str
    """One of CAME; empty where it is none."""
    next_ms: int
    """How long after that the next one was due, in milliseconds; at most an hour and a half."""
    why: Why
    """Why it was due then."""
    left_out: int
    """Polls before it that are not kept."""


SIZE = 6
"""Tenths of a second: 24 bits since the task was watched, 16 until the next one; what came and why, four bits each."""
KEPT, MOST = 5 * SIZE, 16 * SIZE
"""Bytes that are kept of the first polls, and of all: of a long history the one that comes after the first goes."""
_NUMBER = {came: number << 4 for number, came in enumerate(CAME)}
_WHY = {one.value: one for one in Why}
_TENTH_MS = 100
_MOST_AT, _MOST_NEXT = (1 << 24) - 1, (1 << 16) - 1


def written(at_ms: int, came: str, next_ms: int, why: Why) -> bytes:
    """Return one poll as it is added to a row."""
    at, after = at_ms // _TENTH_MS, next_ms // _TENTH_MS
    if not (0 <= at <= _MOST_AT and 0 <= after <= _MOST_NEXT):  # too long, or the clock was set
        at, after = min(max(at, 0), _MOST_AT), min(max(after, 0), _MOST_NEXT)
    return (at << 24 | after << 8 | _NUMBER[came] | why).to_bytes(SIZE, "big")


def read(history: bytes | None, polls: int) -> Iterator[PastPoll]:
    """Yield what is kept, in order; ``polls``: how many there were."""
    if not history or len(history) % SIZE:
        return
    each = [int.from_bytes(history[at : at + SIZE], "big") for at in range(0, len(history), SIZE)]
    # Times that begin anew are of another watch: a release that knows nothing of this has left those of the one before.
    begin = max((at for at in range(1, len(each)) if each[at] >> 24 < each[at - 1] >> 24), default=0)
    del each[:begin]
    missing = max(polls - sum(1 for one in each if one >> 4 & 15), 0)
    # Where they are: in the middle of a long one; else from before this was kept.
    gap = KEPT // SIZE if len(history) >= MOST and not begin else 0
    for place, one in enumerate(each):
        came, why = one >> 4 & 15, one & 15
        yield PastPoll(
            (one >> 24) * _TENTH_MS,
            CAME[came] if came < len(CAME) else "",
            (one >> 8 & _MOST_NEXT) * _TENTH_MS,
            _WHY.get(why, Why.UNKNOWN),
            missing if place == gap else 0,
        )
