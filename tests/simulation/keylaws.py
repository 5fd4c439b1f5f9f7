"""Whether a key is refused, as readiness tells it, against what the upstream truly answered; and who asks meanwhile.

Laws only: when it must be refused, when it must not, how seldom it is asked with, and that it recovers. How the gateway
comes to its verdict is its own. Looks at the questions and answers in the order in which they came.
"""

from collections import Counter
from collections.abc import Callable

from tests.simulation.world import Poll

__all__ = ["KeyLaws"]

PROBE = "gateway-key-probe"
TELLS = ("running", "ended")
"""What only a key that is accepted is answered, at whatever API."""
PAUSE_S = 30.0
"""In any such time there are two questions with a refused key at most …"""
NEW_PAUSE_S = 5.0
"""… besides those about tasks that are new, each of them so long after the answer before it."""
LONGEST_PAUSE_S = 400.0
"""So long it is left alone at most: a pause of 300 s, and then the next task is due."""
SEVERAL = 3
"""So many tasks refused twice, and none told of, are the key's fault: whatever an id that there is not is answered."""
SETTLES_S = 30.0
"""So long a doubt takes at most, while answers come at their pace."""
RECENT_S = 120.0
TOGETHER_S = 5.0
"""Who was asked about so shortly before the verdict, or since, and is told of after it, ends the refusal."""
ROUND_S = 0.5
"""So long a round of a loop takes at most."""
NEVER_S = -1e9
SKEW_S = 0.002


class KeyLaws:
    """The laws, over one life; ``told`` is readiness' word on whether the key is refused."""

    def __init__(self, told: Callable[[], bool] = lambda: False) -> None:
        self._told = told
        self.refused_s: float | None = None
        """Since when the key is told to be refused; None while it is not."""
        self.fine_since_s = NEVER_S
        """Since when it has been neither refused nor throttled."""
        self._asked_s: list[float] = []  # with the key as it is refused now
        self._answered_s = NEVER_S  # whatever was
        self._throttled = (NEVER_S, NEVER_S)
        self._under_way: list[Poll] = []
        self._refused_last_s = NEVER_S
        self._last: dict[str, Poll] = {}  # of each id, the answer to the question that was asked last
        self._polled: set[str] = set()
        """Those that the gateway has asked about by itself, and not for a client."""
        self._witness: str | None = None  # whose state was told last, by when that was asked
        self._told_s = NEVER_S
        self._accepted_s = NEVER_S  # when an answer came that ends the refusal: only an accepted key gets it
        self._against: Counter[str] = Counter()  # refusals of each task since then
        self._several_s: float | None = None  # since when they are too many
        self._unsettled_s = NEVER_S  # … and when one more was asked for

    def look(self, now_s: float) -> None:
        """Notice a verdict, and whether there are reasons for it."""
        refused = self._told()
        if refused and self.refused_s is None:
            self.refused_s, self._asked_s = now_s, []
            assert self._is_lost(), (now_s, self._witness, self._last, "is refused while a task is told of")
            word = self._last.get(PROBE)
            neutral = word is not None and word.kind == "refused"
            several = sum(one.kind == "refused" for task_id, one in self._last.items() if task_id != PROBE) >= SEVERAL
            assert neutral or several, (now_s, self._last, "is refused for a task or two")
        elif not refused and self.refused_s is not None:
            self.refused_s, self.fine_since_s = None, max(self.fine_since_s, now_s)
            self._forget_what_is_against_it()
        late = refused and NEVER_S < self._accepted_s < now_s
        assert not late, (now_s, self._accepted_s, "is refused though it was accepted")
        self._accepted_s = NEVER_S

    def asked(self, task_id: str, poll: Poll) -> None:
        """Look at a question that begins."""
        self.look(poll.begun_s)
        # A round that had begun goes on, but it does not probe.
        round_s = 0.0 if poll.probes else ROUND_S
        since_s, until_s = self._throttled
        early = since_s + round_s < poll.begun_s < until_s - SKEW_S
        assert not early, (task_id, poll, since_s, until_s, "asks while the key is to be left alone")
        if self.refused_s is not None and poll.begun_s > self.refused_s + round_s:
            assert not self._under_way, (task_id, poll, self._under_way, "asks more than once with a refused key")
            apart = poll.begun_s >= self._answered_s + NEW_PAUSE_S - SKEW_S
            lately = [at_s for at_s in self._asked_s if at_s > poll.begun_s - PAUSE_S + SKEW_S]
            if poll.probes or task_id in self._polled or not apart:
                assert len(lately) < 2, (task_id, poll, lately, "asks a third time in a pause")
                self._asked_s = [*lately, poll.begun_s]
        elif poll.probes:
            assert poll.begun_s < self._refused_last_s + RECENT_S, (poll, "asks about a key that nobody doubts")
        assert not poll.probes or not any(one.probes for one in self._under_way), (poll, "asks about it twice at once")
        self._under_way.append(poll)

    def answered(self, task_id: str, poll: Poll) -> None:
        """Learn from an answer that has just come."""
        assert poll.ended_s is not None
        self.look(poll.ended_s)
        self._under_way.remove(poll)
        self._answered_s = poll.ended_s
        if task_id not in self._last or poll.begun_s >= self._last[task_id].begun_s:
            self._last[task_id] = poll
        if not poll.forwarded:
            self._polled.add(task_id)
        if poll.kind == "throttled":
            self._throttled = max(self._throttled, (poll.ended_s, poll.ended_s + poll.retry_after_s))
            self.fine_since_s = max(self.fine_since_s, self._throttled[1])
        if poll.kind in TELLS:
            self._tells(task_id, poll)
        elif poll.kind == "refused" and poll.begun_s > self._told_s:
            self._refused_last_s = poll.ended_s
            self._against[task_id] += not (poll.probes or poll.forwarded)  # clients' reads alone convict nobody
            if self._several_s is None and sum(count > 1 for count in self._against.values()) >= SEVERAL:
                self._several_s = poll.ended_s
            elif self._several_s is not None and poll.begun_s > self._several_s + SETTLES_S:
                self._unsettled_s = self._unsettled_s if self._unsettled_s > NEVER_S else poll.ended_s

    def standing(self, now_s: float, *, quiet: bool) -> None:
        """Look at the verdict as it stands; ``quiet``: neither disk, clock nor slow answers stand in its way."""
        if not quiet:
            self._forget_what_is_against_it()
        elif self.refused_s is not None:
            alone_s = max(self.refused_s, self._throttled[1], *self._asked_s)
            assert self._under_way or now_s < alone_s + LONGEST_PAUSE_S, (now_s, alone_s, "is never asked with again")
        elif self._unsettled_s > NEVER_S and self._is_lost():
            assert now_s < self._unsettled_s + SETTLES_S, (now_s, self._against, "is refused for all, and goes on")

    def _tells(self, task_id: str, poll: Poll) -> None:
        assert poll.ended_s is not None
        if poll.begun_s >= self._told_s:
            self._told_s, self._witness = poll.begun_s, task_id
        if self.refused_s is not None and poll.begun_s > self.refused_s - TOGETHER_S + SKEW_S:
            self._accepted_s = poll.ended_s
        self._forget_what_is_against_it()

    def _is_lost(self) -> bool:
        """Whether whose state was told last has been refused since, if ever one's was."""
        return self._witness is None or self._last[self._witness].kind == "refused"

    def _forget_what_is_against_it(self) -> None:
        self._against.clear()
        self._several_s, self._unsettled_s = None, NEVER_S
