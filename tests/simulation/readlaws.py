"""What the proxy's readers may be told, and what their reads may cost the upstream.

Laws only, seen from outside: what one read was told, the next one is told too, or more.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from gateway.core.model import TaskState
from tests.simulation.ledger import Ledger, TaskRow
from tests.simulation.world import World

__all__ = ["Look", "ReadLaws"]

ROOM = 40
"""So few requests in a minute leave a client's read room within the key's limit, at once."""
ENDED_KEPT_S = 600.0
"""For so long the end of a task that was not watched is kept: who reads it later asks the upstream again."""
ENDED = (TaskState.SUCCESS, TaskState.FAIL)


@dataclass
class Told:
    """The most that a task's reads were told."""

    state: str = "waiting"
    progress: int = -1


@dataclass
class Look:
    """A read that is under way, and what had been told or noticed when it began."""

    task_id: str
    told: Told
    noticed: str | None
    begun_s: float


@dataclass
class ReadLaws:
    """The laws, over one run."""

    world: World
    ledger: Ledger
    answered: int = 0
    _told: dict[str, Told] = field(default_factory=dict)
    _reads: dict[str, int] = field(default_factory=dict)

    def begin(self, task_id: str) -> Look:
        """Look at a read that begins."""
        told = self._told.get(task_id, Told())
        row = self.ledger.rows.tasks.get(task_id)
        noticed = row.state if row is not None and row.state in ENDED else None
        self._reads[task_id] = self._reads.get(task_id, 0) + 1
        return Look(task_id, Told(told.state, told.progress), noticed, self.world.monotonic())

    def answer(self, look: Look, response: httpx.Response) -> None:
        """Compare what a read was told with what it was to be."""
        assert "receiver-" not in response.text, (look, response.text, "tells of somebody's callback")
        assert "cb_" not in response.text, (look, response.text, "tells of somebody's callback")
        try:
            told_now: dict[str, Any] = response.json()
        except ValueError:  # the upstream's own nonsense
            told_now = {}
        if response.status_code != 200 or told_now.get("code") != 200:
            assert look.noticed is None, (look, response.text, "is told nothing of an end that was noticed")
            return
        data: dict[str, Any] = told_now["data"]
        assert data["taskId"] == look.task_id or data["taskId"] == "another", (look, data)
        if data["taskId"] == "another":
            return  # it was forwarded, and is the upstream's own
        self.answered += 1
        state, progress = data["state"], data.get("progress", -1)
        if look.noticed is not None:
            assert state == look.noticed, (look, data, "is told of no end that was noticed")
        if look.told.state in ENDED:
            assert state == look.told.state, (look, data, "goes back from the end")
        elif state not in ENDED and (progress >= 0 or self._may_ask(look)):
            assert progress >= look.told.progress, (look, data, "goes back")
        if state in ENDED:
            assert state == self.world.truth(look.task_id), (look, data, "tells of another end")
        told = self._told.setdefault(look.task_id, Told())
        told.progress = max(told.progress, progress)
        if state in ENDED:
            told.state = state

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
        """Each request of the upstream was a poll that is counted, or a read that was forwarded."""
        for task_id, reads in self._reads.items():
            forwarded = self.world.forwarded[task_id]
            assert len(forwarded) <= reads, (task_id, forwarded, "was asked about by itself")
            if self.world.was_always_well:
                lives = {one.life for one in forwarded}
                soon = [one for before, one in pairwise(forwarded) if one.begun_s - before.begun_s < ENDED_KEPT_S]
                assert len(soon) <= len(lives), (task_id, forwarded, "is forwarded though it is watched")
