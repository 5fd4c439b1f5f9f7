"""Several replicas on one PostgreSQL lose nothing: the short forms of ``make crash ARGS=--replicas`` and its kin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.failover import failovers
from tests.crash.hasty import HASTY
from tests.crash.rolling import rolling
from tests.crash.turmoil import turmoil
from tests.pgpair import Pair, pair
from tests.postgres import NotAvailable, Server, from_wheel

SEED = 1


@pytest.fixture
def postgres_pair() -> Iterator[Pair]:
    try:
        programs = from_wheel()
    except NotAvailable as exc:
        pytest.skip(str(exc))
    with pair(programs) as both:
        yield both


@pytest.mark.timeout(180)
async def test_one_after_the_other_in_trouble(tmp_path: Path, postgres_server: Server) -> None:
    """Killed, stopped, cut off and restarted, their work is taken over in time, and what they write late is void."""
    async with turmoil(tmp_path, postgres_server, SEED, HASTY) as run:
        await run.play(1)
        assert run.cluster.ok, run.cluster.report()
        assert run.rounds == 1
        assert run.polls_taken_s, "somebody led"
        assert run.cluster.checker.created > 0
        assert run.cluster.sides.fullest() <= 1


@pytest.mark.timeout(180)
async def test_failover(tmp_path: Path, postgres_pair: Pair) -> None:
    """The primary killed and its standby promoted, nothing that was answered 201 is missing, and clients soon go on."""
    async with failovers(tmp_path, postgres_pair, SEED) as run:
        await run.play(1, detect_s=0.5)
        assert run.cluster.ok, run.cluster.report()
        assert len(run.done) == 1
        assert run.cluster.clients.first, "clients have seen it"


@pytest.mark.timeout(180)
async def test_replaced_one_at_a_time(tmp_path: Path, postgres_server: Server) -> None:
    """A fourth starts, an old one ends: no registration fails twice, nothing is sent twice, the keys' limits hold."""
    async with rolling(tmp_path, postgres_server, SEED) as run:
        await run.play(1, together_s=1)
        assert run.cluster.ok, run.cluster.report()
        assert run.replaced == 3
        assert run.cluster.checker.repeated == run.cluster.checker.duplicates == 0
