"""What clients ask of callbacks that exist: cancelling and redelivering; and what became of it.

Owns the questions that are open: a change that nobody has asked for is none of theirs, one that was answered has been
made exactly once.
"""

from dataclasses import dataclass, field

from gateway.core.model import CallbackState
from tests.simulation.ledger import CallbackRow

__all__ = ["Ask", "Asks"]


@dataclass
class Ask:
    """``kind`` as in ``scenario.ASKS``; ``callback_id`` is None where it is about all dead ones that ended in time."""

    kind: str
    callback_id: str | None
    now: int
    since: int = 0
    until: int = 0
    done: set[str] = field(default_factory=set)
    """The callbacks that it changed."""

    def is_about(self, row: CallbackRow) -> bool:
        """Whether it may change a callback that stands like this, and has not yet."""
        if row.id in self.done:
            return False
        if self.callback_id is not None:
            return row.id == self.callback_id
        return row.state == CallbackState.DEAD and row.ended_at is not None and self.since <= row.ended_at < self.until


class Asks:
    """The questions of one run."""

    def __init__(self) -> None:
        self._open: list[Ask] = []

    def begin(self, ask: Ask) -> Ask:
        self._open.append(ask)
        return ask

    def forget(self) -> None:
        """Drop what is open: the life that it was asked of is over."""
        self._open.clear()

    def take(self, row: CallbackRow, *, cancel: bool) -> Ask | None:
        """Return the oldest open question that may have changed this row, and count it as done for it."""
        for ask in self._open:
            if (ask.kind == "cancel") is cancel and ask.is_about(row):
                ask.done.add(row.id)
                return ask
        return None

    def refused(self, ask: Ask) -> None:
        """Drop one that the store could not take."""
        if ask in self._open:
            self._open.remove(ask)

    def _change_hands(self, ask: Ask) -> None:
        """Give it what was put down to a question about all dead ones: within one transaction its turn comes first."""
        for other in self._open:
            if other.callback_id is None and ask.callback_id in other.done:
                other.done.remove(ask.callback_id)
                ask.done.add(ask.callback_id)
                return

    def answered(self, ask: Ask, found: CallbackState | int | None) -> None:
        """Compare an answer with what was done."""
        if ask in self._open:
            self._open.remove(ask)
        if ask.callback_id is None:
            assert found == len(ask.done), (ask, found, "counted others than it redelivered")
            return
        movable = {CallbackState.PENDING, CallbackState.WAITING if ask.kind == "cancel" else CallbackState.DELIVERED}
        if ask.kind == "redeliver":
            movable.add(CallbackState.DEAD)
        assert found is not None, (ask, "is about a callback that was acknowledged")
        if found in movable and not ask.done:
            self._change_hands(ask)
        assert bool(ask.done) == (found in movable), (ask, found, "was answered, and not so done")
