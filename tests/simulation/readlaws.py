"""What the proxy's readers may be told, and what their reads may cost the upstream.

Laws only, seen from outside: those on what they are told stand in ``telling``.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

from tests.simulation.ledger import Ledger, TaskRow
from tests.simulation.telling import ENDED, Look
from tests.simulation.world import World

__all__ = ["ReadLaws"]

ROOM = 40
"""So few requests in a minute leave a client's read room within the key's limit, at once."""
ENDED_KEPT_S = 600.0
"""For so long the end of a task that was not watched is kept: who reads it later asks the upstream again."""


@dataclass
class ReadLaws:
    """The laws, over one run."""

    world: World
    ledger: Ledger
    _reads: dict[str, int] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """How many reads were told a state."""
        return self.world.telling.answered

    def begin(self, task_id: str) -> Look:
        """Look at a read that begins."""
        rows = self.ledger.rows
        row = rows.tasks.get(task_id)
        self._reads[task_id] = self._reads.get(task_id, 0) + 1
        noticed, stored = None if row is None else row.state, rows.told.get(task_id, -1)
        return self.world.telling.begin(task_id, noticed, stored, self.world.monotonic())

    def answer(self, look: Look, response: httpx.Response) -> None:
        """Compare what a read was told with what it was to be."""
        truth = self.world.truth(look.task_id)
        excused = not self._may_ask(look)
        self.world.telling.answer(look, response, truth, excused=excused, refused=False)

    def _may_ask(self, look: Look) -> bool:
        """Whether nothing stood in the way of asking the upstream anew: neither a trouble nor the rate limit."""
        since_s = look.begun_s - 60.0
        asked = [one for polls in (self.world.polls, self.world.forwarded) for ones in polls.values() for one in ones]
        return self.world.was_always_well and sum(one.begun_s > since_s for one in asked) < ROOM

    def changed(self, before: TaskRow | None, after: TaskRow) -> None:
        """Look at what a transaction made of a task that is read."""
        if before is None:
            return
        assert before.state not in ENDED or after.state == before.state, (before, after, "has its last word")
        assert before.outcome is None or before.state not in ENDED or after.outcome == before.outcome, (before, after)
        if after.state in ENDED and after.state != before.state:
            assert after.outcome is not None
            assert json.loads(after.outcome)["state"] == after.state == self.world.truth(after.task_id), (before, after)

    def at_the_end(self) -> None:
        """Each request of the upstream was a poll that is counted, or a read that was forwarded; no task paid twice."""
        self.world.paid.hold()
        for task_id, reads in self._reads.items():
            forwarded = self.world.forwarded[task_id]
            assert len(forwarded) <= reads, (task_id, forwarded, "was asked about by itself")
            if self.world.was_always_well:
                lives = {one.life for one in forwarded}
                soon = [one for before, one in pairwise(forwarded) if one.begun_s - before.begun_s < ENDED_KEPT_S]
                assert len(soon) <= len(lives), (task_id, forwarded, "is forwarded though it is watched")
