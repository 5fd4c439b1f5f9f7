"""What an upstream has told of tasks, what a task's readers may be told then, and what its creates may have made.

Laws alone, the same for one gateway and for several on one database; each world says what it has seen.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.core.model import TaskState

__all__ = ["ENDED", "Look", "Paid", "Telling", "Told", "progress_of"]

ENDED = (TaskState.SUCCESS, TaskState.FAIL)
_PROGRESS = re.compile(rb'"progress": ?(\d+)')


def progress_of(record: bytes | None) -> int:
    """Return the instant at which the upstream told what is kept of a task; -1 where nothing is."""
    found = _PROGRESS.search(record or b"")
    return int(found[1]) if found else -1


@dataclass(frozen=True)
class Told:
    """The most that a task's readers were told: its end, else how far it was by the upstream's latest word."""

    state: str = "waiting"
    progress: int = -1


@dataclass(frozen=True)
class Look:
    """A read that is under way, and what was known when it began."""

    task_id: str
    told: Told
    """To anybody."""
    noticed: str | None
    """The end that the store had."""
    stored: int
    """The latest word of the upstream's that the store had while the task ran."""
    begun_s: float


class Telling:
    """The upstream's words, and the readers'. A word is known by its ``progress``: the instant when it was said."""

    def __init__(self) -> None:
        self.answered = 0
        """How many reads were told a state."""
        self._said: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        self._told: dict[str, Told] = {}

    def says(self, task_id: str, word: dict[str, Any]) -> None:
        """Hear what the upstream says of a task."""
        if "progress" in word:
            self._said[task_id, word["progress"]].append(word)

    def begin(self, task_id: str, noticed: str | None, stored: int, now_s: float) -> Look:
        """Look at a read that begins, with what the store has of the task."""
        ended = noticed if noticed in ENDED else None
        return Look(task_id, self._told.get(task_id, Told()), ended, stored, now_s)

    def answer(
        self, look: Look, response: httpx.Response, truth: str, *, excused: bool, refused: bool, binds: bool = True
    ) -> None:
        """Compare what a read was told with what it was to be; ``truth``: the task's state by now.

        ``excused``: it may know less than others were told, where the upstream could not be asked anew. ``refused``: an
        end that was noticed may be kept from it. ``binds``: whoever is told of the task later is told no less, as it is
        stored, or known to the one process.
        """
        assert "receiver-" not in response.text, (look, response.text, "tells of somebody's callback")
        assert "cb_" not in response.text, (look, response.text, "tells of somebody's callback")
        try:
            envelope: dict[str, Any] = response.json()
        except ValueError:  # the upstream's own nonsense
            envelope = {}
        if response.status_code != 200 or envelope.get("code") != 200:
            assert look.noticed is None or refused, (look, response.text, "is told nothing of an end that was noticed")
            return
        data: dict[str, Any] = envelope["data"]
        if data["taskId"] != look.task_id:  # it was forwarded, and is the upstream's own
            assert data["taskId"] == "another", (look, data)
            return
        self.answered += 1
        self._hold(look, data, truth, excused=excused)
        told = self._told.get(look.task_id, Told())
        ended = data["state"] in ENDED
        state = data["state"] if ended else told.state
        progress = max(told.progress, data.get("progress", -1)) if binds else told.progress
        self._told[look.task_id] = Told(state, progress)

    def _hold(self, look: Look, data: dict[str, Any], truth: str, *, excused: bool) -> None:
        state, progress = data["state"], data.get("progress", -1)
        if look.noticed is not None:
            assert state == look.noticed, (look, data, "is told of no end that was noticed")
        if look.told.state in ENDED:
            assert state == look.told.state, (look, data, "goes back from the end")
        if progress >= 0:
            words = self._said[look.task_id, progress]
            # Of an end there may be more: what the upstream does not tell is null in its family.
            assert any(word.items() <= data.items() for word in words), (look, data, "was never said by the upstream")
        if state in ENDED:
            assert state == truth, (look, data, "tells of another end")
            return
        assert state == "waiting", (look, data, "is no state that the upstream has")
        if progress >= 0:
            assert progress >= look.stored, (look, data, "is told less than the store had")
        if progress >= 0 or not excused:
            assert progress >= look.told.progress, (look, data, "goes back")


class Paid:
    """What creates have made at an upstream that knows X-Request-ID (``honours``), or does not."""

    def __init__(self, *, honours: bool) -> None:
        self._honours = honours
        self._ids: defaultdict[int, list[str]] = defaultdict(list)

    def create(self, number: int, request_id: str) -> None:
        """Make a task of that number, unless this request has made it: it is paid for."""
        if not self._honours or request_id not in self._ids[number]:
            self._ids[number].append(request_id)

    def hold(self) -> None:
        """Every client has sent its create under one id, however often: it has paid for one task."""
        twice = {number: ids for number, ids in self._ids.items() if len(ids) > 1}
        assert not twice, (twice, "was paid for twice")

    @property
    def tasks(self) -> int:
        """How many were made."""
        return len(self._ids)
