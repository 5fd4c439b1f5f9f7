"""The tests' own primary and standby: what was confirmed stands on both, whoever is killed."""

import pytest

from tests.pgpair import pair
from tests.postgres import NotAvailable, from_wheel


@pytest.mark.timeout(120)
async def test_roles_change() -> None:
    """What the primary confirmed the standby has, at once; and a commit waits for who was rebuilt."""
    try:
        programs = from_wheel()
    except NotAvailable as exc:
        pytest.skip(str(exc))
    with pair(programs) as both:
        both.primary.execute("CREATE TABLE kept (round int)")
        servers = {both.primary.port, both.standby.port}
        for number in range(1):
            before = both.primary
            both.primary.execute(f"INSERT INTO kept VALUES ({number})")
            failover = await both.fail_over()
            assert both.standby is before
            assert both.primary.execute("SELECT count(*) FROM kept") == str(number + 1)
            assert 0 < failover.took_s < 30
            await both.rebuild()
            assert both.primary.execute("SELECT sync_state FROM pg_stat_replication") in ("sync", "quorum")
        assert {both.primary.port, both.standby.port} == servers
