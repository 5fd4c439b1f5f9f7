"""Tasks whose polls went wrong: what is remembered of them, and what that says of their upstream.

Owns who is unknown, denied, refused or unreadable, and whether anything that answers makes sense; pure: the time is
passed in. Decides neither when to ask again nor what is stored. Called by ``gateway.loops``, with every answer to a
poll.

A task that the upstream has told of once is not unknown to it, whatever it answers afterwards: that task is denied. So
a proxy's 404, an upstream that has lost its database, or another account's key costs no task that has been paid for.
Nor, while denials and nonsense are all that is heard, is a task given up that is new. Clients who read a denied task
are to hear so from the upstream itself, once it has been denied for as long as a new one has to be unknown: that it is
so stands in its row, from then on until the upstream tells of it again.

All else is in memory, and bounded: whoever is forgotten, by a restart too, is merely asked about for a while longer.
"""

from collections import OrderedDict
from math import inf
from typing import NamedTuple, TypeVar

from gateway.core.claims import DueTask
from gateway.upstream.answer import TELLS, PollKind, PollResult
from gateway.upstream.key import UpstreamKey

_REMEMBERED = 20_000
"""So many tasks of each kind at most; of more, those that were heard of the longest ago are forgotten."""
_KEPT_S = 7200.0
"""A refused or denied task that has not been asked about for so long is not watched any more."""
_TOLD_S = 600.0
"""For so long after the last refusal of a task alone, the last nonsense or failure, that is told to whoever asks."""
_IN_A_ROW = 3
"""So many polls in a row that come to nothing are no accident."""
_NOT_FOUND_AFTER_MS = 120_000
_NOT_FOUND_AFTER_POLLS = 5
"""A task that the upstream does not know is given up after so long, and so many polls in a row: fresh ones are late,
and an upstream in trouble may not know any for a while."""

_DENIED_AFTER_S = _NOT_FOUND_AFTER_MS / 1000

T = TypeVar("T")


class _Denied(NamedTuple):
    """What is known of a denied or refused task."""

    at: float
    """When it was so last."""
    alone: bool
    """Whether it is this task's own trouble and not the key's …"""
    since: float
    """… and since when."""


class Troubled:
    """The tasks of one upstream, by the store's number of their rows, whose last polls went wrong."""

    def __init__(self, key: UpstreamKey) -> None:
        self._key = key
        self._unknown = _Last[tuple[float, int]]()  # since when (steady clock), and how many polls in a row
        self._denied = _Last[_Denied]()
        self._refused = _Last[_Denied]()
        self._unreadable = _Last[None]()
        self._all = (self._unknown, self._denied, self._refused, self._unreadable)
        self._nonsense = 0  # answers, since the last one that told of a task
        self._nonsense_at = -inf
        self._failed = 0  # polls with no answer or an error's, since the last one with another
        self._failed_at = -inf

    def note(self, task: DueTask, result: PollResult, steady: float) -> None:
        """Take an answer about a watched task down; ``steady``: the steady clock."""
        kind = result.kind
        if _has_failed(result):
            self._failed += 1
            self._failed_at = steady
        else:
            self._failed = 0
        if kind in TELLS:
            self._nonsense = 0
            self.forget(task.seq)
            return
        if kind is PollKind.NOT_KNOWN:
            since, polls = self._unknown.get(task.seq, (steady, 0))
            self._unknown.put(task.seq, (since, polls + 1))
            self._unreadable.pop(task.seq, None)
        else:
            self._unknown.pop(task.seq, None)
        denied = kind is PollKind.NOT_KNOWN and task.born_at is not None
        if denied:
            self._deny(self._denied, task.seq, steady, alone=True)
        if kind is PollKind.KEY_REFUSED:
            self._refuse(task.seq, steady)
        else:
            self._refused.pop(task.seq, None)
        if result.unreadable:
            self._unreadable.put(task.seq, None)
        if denied or _is_foreign(result):
            self._nonsense += 1
            self._nonsense_at = steady

    def forget(self, seq: int) -> None:
        """A task is well again, or has ended."""
        for kind in self._all:
            kind.pop(seq, None)

    def clear(self) -> None:
        """Forget all of them."""
        for kind in self._all:
            kind.clear()
        self._nonsense = self._failed = 0

    def is_unknown(self, task: DueTask, now: int, steady: float) -> bool:
        """Whether a task is to be given up as unknown: by its last answers, the one that was noted just now included.

        Other failures in between say nothing about it: they start anew.
        """
        if task.born_at is not None or self.makes_no_sense(steady):
            return False
        since, polls = self._unknown.get(task.seq, (steady, 0))
        for_ms = min((steady - since) * 1000, now - task.created_at)
        return polls >= _NOT_FOUND_AFTER_POLLS and for_ms >= _NOT_FOUND_AFTER_MS

    def is_refused(self, seq: int) -> bool:
        """Whether a task was refused when it was last asked about."""
        return seq in self._refused

    def is_denied(self, seq: int) -> bool:
        """Whether a task of which the upstream had told has long been denied, or refused alone."""
        known = self._denied.get(seq) or self._refused.get(seq)
        return known is not None and known.alone and known.at - known.since >= _DENIED_AFTER_S

    def is_unreadable(self, seq: int) -> bool:
        """Whether the last answer about a task that came could not be read."""
        return seq in self._unreadable

    def seldom(self, seq: int) -> int:
        """Return how many tasks are refused alone or denied, where this is one of them; else 0.

        A refused one is only where the key was accepted for others between two of its refusals. Until then its pauses
        stay short: a key that is refused for all, and then accepted, must not be late.
        """
        if seq in self._denied or (seq in self._refused and self._refused[seq].alone):
            return len(self._denied) + len(self._refused)
        return 0

    def refuses_tasks(self, steady: float) -> bool:
        """Whether the upstream refuses tasks, and not the key."""
        if not self._refused or self._key.refusal is not None or self._key.doubted:
            return False
        return steady - self._refused[next(reversed(self._refused))].at < _TOLD_S

    def makes_no_sense(self, steady: float) -> bool:
        """Whether what answers is not the API, or denies tasks that it has told of, and has told of none since."""
        return self._nonsense >= _IN_A_ROW and steady - self._nonsense_at < _TOLD_S

    def gives_no_answer(self, steady: float) -> bool:
        """Whether the upstream cannot be reached, is closed, or answers errors of its own, whatever is asked about."""
        return self._failed >= _IN_A_ROW and steady - self._failed_at < _TOLD_S

    def _refuse(self, seq: int, steady: float) -> None:
        known = self._refused.get(seq, _Denied(steady, False, steady))
        alone = self._key.refusal is None and (known.alone or self._key.accepted_since(known.at))
        self._deny(self._refused, seq, steady, alone=alone)

    def _deny(self, kind: "_Last[_Denied]", seq: int, steady: float, *, alone: bool) -> None:
        known = kind.get(seq)
        since = known.since if known is not None and known.alone else steady
        kind.put(seq, _Denied(steady, alone, since))
        while kind[oldest := next(iter(kind))].at < steady - _KEPT_S:
            del kind[oldest]


class _Last(OrderedDict[int, T]):
    """What is known of some tasks, the one heard of the longest ago first."""

    def put(self, seq: int, value: T) -> None:
        self[seq] = value
        self.move_to_end(seq)
        if len(self) > _REMEMBERED:
            self.popitem(last=False)


def _is_foreign(result: PollResult) -> bool:
    """Whether there was an answer, and not the API's."""
    foreign = result.unreadable or not result.by_api
    return result.kind is PollKind.BROKEN and foreign and not result.oversized


def _has_failed(result: PollResult) -> bool:
    """Whether there was no answer, or one that says that the API is in trouble."""
    if result.kind is PollKind.BROKEN:
        return not result.unreadable and result.by_api
    return result.kind in (PollKind.UNREACHABLE, PollKind.MAINTENANCE)
