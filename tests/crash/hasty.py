"""``python -m tests.crash.hasty serve``: a gateway whose leases are short, for tests that wait for their ends.

The product has no settings for them: what is changed here is changed from outside, and then the ordinary command line
runs. Called through ``turmoil``.
"""

from types import ModuleType

from gateway.cli import commands as cli
from gateway.loops import leading
from gateway.store.postgres import webhookleases
from tests.crash.replicas import ATTEMPT_S
from tests.crash.turmoil import Leases

__all__ = ["HASTY"]

_POLLS_S, _BEGUN_S, _RECORDED_S = 3.0, 2.0, 1.0
HASTY = Leases(polls_s=_POLLS_S, webhooks_s=ATTEMPT_S + _BEGUN_S + _RECORDED_S, module=("tests.crash.hasty",))


def _change(module: ModuleType, **values: float) -> None:
    for name, value in values.items():
        assert hasattr(module, name), f"{module.__name__} has no {name} any more"
        setattr(module, name, value)


if __name__ == "__main__":
    _change(webhookleases, _BEGUN_S=_BEGUN_S, _RECORDED_S=_RECORDED_S)
    _change(leading, LEASE_S=_POLLS_S, _MARGIN_S=1.0, _ROUND_S=0.6, _LEADERLESS_S=_POLLS_S + 5.0)
    cli.main()
