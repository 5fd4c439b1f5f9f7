"""The short form of ``make attack``: among hostile clients and neighbours an innocent one loses nothing."""

from pathlib import Path

import pytest

from tests.attack.harness import play
from tests.attack.hostile import ATTACKERS

SEED = 1
BRIEF = tuple(name for name, attacker in ATTACKERS.items() if attacker.brief)


@pytest.mark.timeout(180)
async def test_an_innocent_client_among_attackers(tmp_path: Path) -> None:
    """All that was promised to it arrives, once and right; the gateway stays well, within its memory, and ends with 0.

    How long things take is measured in the long form alone.
    """
    run = await play(tmp_path, BRIEF, seed=SEED, calm_s=1, attack_s=5)
    assert not run.broken, "\n".join(run.broken)
    assert len(run.innocent.arrived) > 20


def test_each_attacker_says_whom_it_imitates() -> None:
    """A docstring of its own, and a name that no other has."""
    assert all(attacker.__doc__ and attacker.__doc__ != attacker.__mro__[1].__doc__ for attacker in ATTACKERS.values())
    assert len({attacker.name for attacker in ATTACKERS.values()}) == len(ATTACKERS) == 38
