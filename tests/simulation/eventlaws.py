"""What the operator is to be told: each death is noted once, in the transaction that brings it, whatever is killed."""

import msgspec

from gateway.core.eventledger import CALLBACK_DEAD
from gateway.core.eventledger import Ledger as EventLedger
from gateway.core.model import CallbackState
from tests.simulation.ledger import Ledger

__all__ = ["EventLaws"]

EVENTS = "SELECT value FROM meta WHERE key = 'events'"


class EventLaws:
    """The law, over one run, in which nobody sends the events: so all that was noted stands in the database."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._noted = 0

    def look(self) -> None:
        """Compare what was noted with what has died in the last transaction."""
        found = self._ledger.db.execute(EVENTS).fetchall()
        kept = msgspec.json.decode(found[0][0], type=EventLedger) if found else EventLedger()
        total = sum(event.data["count"] for event in kept.waiting if event.type == CALLBACK_DEAD)
        noted, self._noted = total - self._noted, total
        assert kept.dropped == 0, kept
        before = self._ledger.before.callbacks
        changed = [(before[name], row) for name, row in self._ledger.rows.callbacks.items() if name in before]
        died = sum(row.state == CallbackState.DEAD != was.state for was, row in changed)
        # One that has died may have been redelivered in the same transaction.
        perhaps = sum(row.redeliveries > was.redeliveries and row.attempts > was.attempts for was, row in changed)
        assert died <= noted <= died + perhaps, (noted, died, perhaps, "deaths are not what is noted")
