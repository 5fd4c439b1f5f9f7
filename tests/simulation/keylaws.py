"""Whether the upstream accepts the key, worked out from what it truly answered, and what the gateway may do with it.

One refusal is a task's until the neutral task is refused too, with nobody accepted meanwhile: then the key is left
alone, but for one question at a time after each pause. Looks at the answers in the order in which they came.
"""

from tests.simulation.world import Poll

__all__ = ["PROBE", "KeyLaws"]

PROBE = "gateway-key-probe"
PAUSES_S = (30.0, 60.0, 120.0, 300.0)
VOUCHES_S = 5.0
ACCEPTING = ("running", "ended", "not known", "throttled", "unpaid")
"""What only a key that is accepted is answered."""
ROUND_S = 0.5
"""So long a round of a loop takes at most."""
NEVER_S = -1e9
SKEW_S = 0.002


class KeyLaws:
    """The laws, over one life."""

    def __init__(self) -> None:
        self.refused_s: float | None = None
        """When the pause of a refused key began; None while it is accepted, or doubted."""
        self.fine_since_s = NEVER_S
        """Since when it has been neither refused nor throttled."""
        self.doubted_s: float | None = None
        """When the question was asked whose refusal nobody has explained yet."""
        self._refused_by_s = NEVER_S
        self._resumes_s = NEVER_S
        self._pauses = 0
        self._cleared_s = NEVER_S
        self._vouched_s = NEVER_S
        self._witness: str | None = None
        self._throttled = (NEVER_S, NEVER_S)
        self._under_way: list[Poll] = []

    def asked(self, task_id: str, poll: Poll) -> None:
        """Look at a question that begins."""
        # A round that had begun goes on, but it does not probe.
        round_s = 0.0 if poll.probes else ROUND_S
        paused = (NEVER_S, NEVER_S) if self.refused_s is None else (self.refused_s, self._resumes_s)
        for since_s, until_s in (paused, self._throttled):
            early = since_s + round_s < poll.begun_s < until_s - SKEW_S
            assert not early, (task_id, poll, since_s, until_s, "asks while the key is to be left alone")
        others = self._under_way
        alone = self.refused_s is None or not others or poll.begun_s <= self.refused_s + round_s
        assert alone, (task_id, poll, others, "asks more than once with a key that is refused")
        if poll.probes:
            doubted = self.doubted_s is not None or poll.begun_s <= self._cleared_s + ROUND_S
            assert self.refused_s is not None or doubted, (poll, "asks about a key that nobody doubts")
            assert not any(one.probes for one in others), (poll, others, "asks about the key twice at once")
        self._under_way.append(poll)

    def answered(self, task_id: str, poll: Poll) -> None:
        """Learn from an answer that has just come."""
        assert poll.ended_s is not None
        self._under_way.remove(poll)
        if poll.kind == "throttled":
            self._throttled = max(self._throttled, (poll.ended_s, poll.ended_s + poll.retry_after_s))
            self.fine_since_s = self._throttled[1]
        if poll.kind in ACCEPTING:
            self._accepted(task_id, poll)
        elif self.refused_s is not None:
            if poll.begun_s >= self._resumes_s and task_id == PROBE:
                self._refused(poll)
        elif self.doubted_s is not None:
            self._doubt_goes_on(task_id, poll)
        elif poll.kind == "refused" and (task_id == self._witness or poll.begun_s > self._vouched_s + VOUCHES_S):
            self.doubted_s = poll.begun_s
            self._witness = None if task_id == self._witness else self._witness

    def _accepted(self, task_id: str, poll: Poll) -> None:
        assert poll.ended_s is not None
        if self.refused_s is not None:
            if poll.begun_s < self._refused_by_s:
                return
            self.refused_s, self._pauses, self.fine_since_s = None, 0, max(self.fine_since_s, poll.ended_s)
        if poll.begun_s >= self._vouched_s:
            self._vouched_s, self._witness = poll.begun_s, task_id
        if self.doubted_s is not None and poll.begun_s >= self.doubted_s - VOUCHES_S:
            self.doubted_s, self._cleared_s = None, poll.ended_s

    def _doubt_goes_on(self, task_id: str, poll: Poll) -> None:
        if task_id == self._witness:
            self._witness = None
        if task_id != PROBE:
            return
        self.doubted_s, self._cleared_s = None, poll.ended_s or 0.0
        if poll.kind == "refused":
            self._refused(poll)
        else:
            self._vouched_s = poll.begun_s

    def _refused(self, poll: Poll) -> None:
        assert poll.ended_s is not None
        if poll.kind == "refused":
            self._pauses = min(self._pauses + 1, len(PAUSES_S))
        self._refused_by_s = poll.begun_s
        self.refused_s, self._resumes_s = poll.ended_s, poll.ended_s + PAUSES_S[self._pauses - 1]
