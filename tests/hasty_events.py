"""``python -m tests.hasty_events serve``: the gateway's commands, with a moment in the place of a minute.

So often what flaps is told of, then, and so long a killed process's claim of an event lasts. The product knows
nothing of this. Called by the acceptance test of events.
"""

from gateway.cli import commands as cli
from gateway.core import eventledger
from gateway.loops import operatorevents

if __name__ == "__main__":
    eventledger._SETTLE_MS = 300
    operatorevents._LEASE_S = 0.5
    cli.main()
