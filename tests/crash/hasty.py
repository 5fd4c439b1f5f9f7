"""``python -m tests.crash.hasty serve``: a gateway whose leases are short, for tests that wait for their ends.

The product has no settings for them: what is changed here is changed from outside, and then the ordinary command line
runs. Called through ``turmoil``.
"""

from gateway.app import build
from gateway.cli import commands as cli
from gateway.loops import leading
from tests.crash.replicas import ATTEMPT_S
from tests.crash.turmoil import Leases

__all__ = ["HASTY"]

_POLLS_S, _RECORDED_S = 3.0, 3.0
HASTY = Leases(polls_s=_POLLS_S, webhooks_s=ATTEMPT_S + _RECORDED_S, module=("tests.crash.hasty",))

if __name__ == "__main__":
    build._RECORDED_S = _RECORDED_S
    leading.LEASE_S, leading._MARGIN_S, leading._ROUND_S = _POLLS_S, 1.0, 0.6
    leading._LEADERLESS_S = _POLLS_S + 5.0
    cli.main()
