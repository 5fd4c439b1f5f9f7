"""One key of one upstream: whether the upstream accepts it, and who asks next to learn that.

Owns the key's fate. ``gateway.loops.poller`` and ``gateway.api.proxy`` spend from the same budgets, and have every
answer judged here: what one of them learns (a 429, a refusal) holds for both. Sends nothing itself.

A refusal (401, 403) may be about one task or about the key, and only the answers about others can tell. An answer that
tells of a task vouches for the key. So do "unknown task", "too many" and "no credits", until three tasks are refused:
some APIs say them before they look at the key. A vouching answer explains refusals asked for up to 5 s later.

========  ===============================================================  ============================================
while     this answer                                                      makes the key
========  ===============================================================  ============================================
accepted  a refusal that nothing explains, or the witness's own            doubted
doubted   a vouching one                                                   accepted: the refusals are their tasks' own
doubted   to the gateway's question about the witness: a refusal           doubted: the neutral task is asked about
doubted   … anything else                                                  accepted, until a refusal 5 s later
doubted   to the gateway's question about the neutral task: a refusal      refused, by the neutral task
doubted   … anything else, with three tasks refused                        refused, by its tasks
doubted   … anything else                                                  accepted, until a refusal 5 s later
refused   a vouching one, asked since, or up to 5 s before the doubt       accepted
========  ===============================================================  ============================================

The witness is the task last told of; it is given up only when it is refused itself. While there is one, nobody
convicts the key. The neutral task, an id that there is not, convicts only by the gateway's own question: to a client's
it is a task like any other. The three are different tasks that the poller was refused twice each (or the witness), with
no task told of since. So clients' reads alone convict nobody, and whoever was never asked about has its say before.

While the key is doubted, tasks are polled as ever. Of a refused key nobody asks but the poller, after each pause. Where
the neutral task refused it: about a due task, and then about the neutral one, with pauses that grow to 5 min; so an
upstream that refuses unknown ids is found to have recovered too. Where its tasks did: about one of them every 30 s;
with none left the key is accepted. Tasks that failed least often come first. In the pause, one that is new is asked
about every 5 s, and its refusal makes no pause longer. An answer counts for when it was asked for: what would have
ended the doubt ends the refusal that came of it, and what was asked long before says nothing.

Beside other replicas only the one that polls finds a key refused; the others hear that from it.
"""

from math import inf

import structlog

from gateway.core.telemetry import Metrics
from gateway.upstream.answer import TELLS, PollKind, PollResult
from gateway.upstream.budget import Budget

_log = structlog.get_logger()

NEUTRAL_TASK_ID = "gateway-key-probe"
"""An id that no task has: asked about it, an upstream that accepts the key says "unknown task"."""
_VOUCHES_S = 5.0
"""For so long an accepted answer explains other tasks' refusals: a doubted key is asked about this often at most."""
_CONVICTING = 3
"""So many different tasks convict a key that is accepted for none."""
_PROBE_S = (30.0, 60.0, 120.0, 300.0)
"""Pauses between probes of a refused key, in seconds."""
_THROTTLED_S = 5.0
"""The pause after a 429 that does not say how long."""
_SEEMS_ACCEPTED = frozenset({PollKind.NOT_KNOWN, PollKind.THROTTLED, PollKind.CREDITS})
"""As a rule only an accepted key gets these too. A proxy's error page or a time-out says nothing about the key."""


class UpstreamKey:
    """The budgets of one key, and the upstream's word on it."""

    def __init__(self, upstream: str, queries: Budget, creates: Budget, metrics: Metrics) -> None:
        self._upstream = upstream
        self.queries = queries
        self.creates = creates
        self.refusal: str | None = None
        """Why the upstream refuses the key; None while it does not."""
        self.refused_elsewhere = False
        """Whether another replica, which polls with it, has found that the upstream refuses it."""
        self._refused_gauge = metrics.upstream_refused.labels(upstream)
        self._doubted_at: float | None = None
        self._vouched_at = -inf
        self._rests_until = -inf  # no doubt before then: the last one was not settled
        self._witness: str | None = None
        self._told_at = -inf  # when the witness was asked about, also where it is given up
        self._refused_tasks: set[str] = set()  # those that count against the key
        self._last_refusal = PollResult(kind=PollKind.KEY_REFUSED)
        self.refused_at = -inf
        """What was asked since then, by the steady clock, tells of a refused key."""
        self._resumes_at = -inf
        self._pauses = 0
        self.neutral_next = False
        """Whether a refused key's next question is about the neutral task, and not about one that is due."""

    async def restore(self) -> None:
        """Take up what an earlier process spent. Raises StoreError."""
        await self.queries.restore()
        await self.creates.restore()

    async def close(self) -> None:
        """Leave to other replicas what was reserved and not sent. Raises StoreError."""
        await self.queries.close()
        await self.creates.close()

    def renewed(self) -> None:
        """Another key takes this one's place: a refusal is put to the proof at once, and holds until it is accepted."""
        self._doubted_at = self._witness = None
        self._refused_tasks.clear()
        if self.refusal is not None:
            self._pauses = 1
            self._resumes_at = -inf
            self.neutral_next = False
            self.queries.hold(0.0)

    def take_over(self, steady: float) -> None:
        """Find out from now on, by the steady clock, whether the upstream accepts it: this is asked first."""
        if self.refused_elsewhere:
            self.refused_elsewhere = False
            self.refusal, self.refused_at, self._pauses = "The upstream refused the key of another replica.", steady, 1
            self._resumes_at = -inf
            self.queries.hold(0.0)

    def left(self) -> None:
        """Another replica polls with it from now on, and tells whether the upstream accepts it."""
        self._doubted_at = self._witness = None
        refused = self.refused
        if self.refusal is not None:
            self._accept_silently()
        self._refused_tasks.clear()
        self.hear(refused=refused)

    def hear(self, *, refused: bool) -> None:
        """Hear whether the upstream refuses it, from the replica that polls with it: only that one asks."""
        self.refused_elsewhere = refused
        self._refused_gauge.set(self.refused)

    @property
    def refused(self) -> bool:
        """Whether the upstream refuses it, as far as is known here."""
        return self.refused_elsewhere or self.refusal is not None

    @property
    def doubted(self) -> bool:
        """Whether a refusal waits to be explained: ``to_ask`` is to be asked about, beside what is due."""
        return self._doubted_at is not None

    @property
    def limited(self) -> bool:
        """Whether the upstream has named lower limits than the configured ones, and they are in force."""
        return self.queries.limited or self.creates.limited

    @property
    def refused_by_tasks(self) -> bool:
        """Whether its tasks convicted it, and not the neutral one, which need not be asked about then."""
        return self.refusal is not None and bool(self._refused_tasks)

    @property
    def to_ask(self) -> str:
        """Whom to ask about to learn of the key."""
        return self._witness or NEUTRAL_TASK_ID

    def accepted_since(self, at: float) -> bool:
        """Whether a question asked since then, by the steady clock, has found the key accepted."""
        return self._vouched_at > at

    def no_task_left(self) -> None:
        """Say that there is nothing to poll any more: what its tasks had against the key went with them."""
        if self.refused_by_tasks:
            self._accept()

    def judge(
        self, task_id: str, asked_at: float, result: PollResult, *, again: bool = False, probe: bool = False
    ) -> None:
        """Learn from the answer to a query about a task, which was asked at ``asked_at`` by the steady clock.

        ``again``: of a watched task that was refused before. ``probe``: the question was about the key, by ``to_ask``.
        """
        if result.of_old_key:
            return
        self._throttle(self.queries, "query", result)
        if self._vouches(result):
            self._vouched(task_id, asked_at, result)
        elif self.refusal is not None:
            self._not_accepted_again(asked_at, result, probe)
        else:
            if result.kind is PollKind.KEY_REFUSED:
                self._last_refusal = result
                self._refused(task_id, asked_at, again)
            if probe and self._doubted_at is not None:
                self._probed(task_id, asked_at, result, self._doubted_at)

    def judge_create(self, result: PollResult) -> None:
        """Learn from an answer to a create: its limits only, as a refusal may be about what was to be created."""
        self._throttle(self.creates, "create", result)

    def _vouches(self, result: PollResult) -> bool:
        seems = result.kind in _SEEMS_ACCEPTED and len(self._refused_tasks) < _CONVICTING
        return result.by_api and (result.kind in TELLS or seems)

    def _vouched(self, task_id: str, asked_at: float, result: PollResult) -> None:
        if self.refusal is not None:
            if asked_at < self.refused_at:
                return
            self._accept()
        self._vouched_at = max(self._vouched_at, asked_at)
        if result.kind in TELLS:
            self._refused_tasks.clear()
            if asked_at >= self._told_at:
                self._told_at = asked_at
                self._witness = task_id
        if self._doubted_at is not None and asked_at >= self._doubted_at - _VOUCHES_S:
            self._doubted_at = None

    def _accept(self) -> None:
        self._accept_silently()
        _log.info("upstream.key_accepted", upstream=self._upstream)

    def _accept_silently(self) -> None:
        self.refusal = None
        self._refused_gauge.set(0)
        self._refused_tasks.clear()
        self._pauses = 0
        self.neutral_next = False
        self.queries.hold(0.0)

    def _refused(self, task_id: str, asked_at: float, again: bool) -> None:
        lost = task_id == self._witness and asked_at > self._told_at
        if lost:
            self._witness = None
        if (again or lost) and asked_at >= self._told_at and len(self._refused_tasks) < _CONVICTING:
            self._refused_tasks.add(task_id)
        unexplained = asked_at > max(self._vouched_at + _VOUCHES_S, self._rests_until)
        if self._doubted_at is None and (lost or unexplained):
            self._doubted_at = asked_at

    def _probed(self, task_id: str, asked_at: float, result: PollResult, doubted_at: float) -> None:
        """Settle the doubt with what was asked for that, and did not vouch."""
        if self._witness is not None:
            if task_id == self._witness:
                self._rest(asked_at)
            return
        if task_id != NEUTRAL_TASK_ID or asked_at < max(doubted_at, self._vouched_at):
            return  # the neutral one is next, or once more: that answer is older than the question
        if result.kind is PollKind.KEY_REFUSED:
            self._refused_tasks.clear()
            self._convict(doubted_at, result)
        elif len(self._refused_tasks) >= _CONVICTING:
            self._convict(doubted_at, self._last_refusal)
        else:
            self._rest(asked_at)

    def _rest(self, asked_at: float) -> None:
        self._doubted_at = None
        self._rests_until = asked_at + _VOUCHES_S

    def _convict(self, doubted_at: float, refusal: PollResult) -> None:
        self._doubted_at = None
        self._refused_gauge.set(1)
        # Slow answers that were under way meanwhile come after the verdict, and are as good.
        self._pause(doubted_at - _VOUCHES_S, refusal)
        _log.error("upstream.key_refused", upstream=self._upstream, error=refusal.error)

    def _not_accepted_again(self, asked_at: float, result: PollResult, probe: bool) -> None:
        if asked_at < self._resumes_at:
            return
        if probe or self._refused_tasks:
            self._pause(asked_at, result)
        else:
            self.neutral_next = True

    def _pause(self, refused_at: float, result: PollResult) -> None:
        if result.kind is PollKind.KEY_REFUSED:
            self.refusal = result.error
            # Where old tasks convicted it, new ones are asked about soon: one may be this key's own.
            self._pauses = 1 if self._refused_tasks else min(self._pauses + 1, len(_PROBE_S))
        self.refused_at = refused_at
        self.neutral_next = False
        self._resumes_at = self.queries.hold(_PROBE_S[self._pauses - 1])

    def _throttle(self, budget: Budget, kind: str, result: PollResult) -> None:
        if result.kind is not PollKind.THROTTLED:
            return
        budget.block(result.retry_after_s or _THROTTLED_S)
        told = result.told_window
        if told is not None and budget.tighten(*told):
            _log.warning("upstream.limit_adopted", upstream=self._upstream, of=kind, limit=told[0], window_s=told[1])
