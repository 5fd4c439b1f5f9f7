"""``python -m tests.crash.hasty serve``: a gateway whose leases are short, for tests that wait for their ends.

The product has no settings for them: what is changed here is changed from outside, and then the ordinary command line
runs. Called through ``turmoil``.
"""

from types import ModuleType

from gateway.cli import commands as cli
from gateway.loops import leading
from gateway.store.postgres import session, webhookleases
from tests.crash.replicas import ATTEMPT_S
from tests.crash.turmoil import Leases

__all__ = ["HASTY"]

_POLLS_S, _BEGUN_S, _RECORDED_S = 3.0, 2.0, 1.0
_NOTICED_S = 3.0
"""So long after a webhook's lease others may take it over: the machine is a busy one."""
_RESERVED_S = 15.0
"""So long what a dead replica had reserved of a key's limit may keep the next one from polling: as with long leases."""
_WEBHOOKS_S = ATTEMPT_S + _BEGUN_S + _RECORDED_S + _NOTICED_S
HASTY = Leases(_POLLS_S, _WEBHOOKS_S, module=("tests.crash.hasty",), polled_s=_RESERVED_S)


def _change(module: ModuleType, **values: float) -> None:
    for name, value in values.items():
        assert hasattr(module, name), f"{module.__name__} has no {name} any more"
        setattr(module, name, value)


if __name__ == "__main__":
    assert "idle_in_transaction_session_timeout" in session._LIMITS
    # Who is stopped amid a write keeps its lead's row locked for so long: with the real leases, for less than them.
    session._LIMITS["idle_in_transaction_session_timeout"] = "1s"
    _change(webhookleases, _BEGUN_S=_BEGUN_S, _RECORDED_S=_RECORDED_S)
    _change(leading, LEASE_S=_POLLS_S, _MARGIN_S=1.0, _ROUND_S=0.6, _LEADERLESS_S=_POLLS_S + 5.0)
    cli.main()
