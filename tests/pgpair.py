"""Two PostgreSQL servers: a primary, and a standby that has each commit before it is confirmed.

Owns who is which, and the change of roles: the primary is killed, the standby promoted, and what was killed made a
standby anew. Called by the failover harness.
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.postgres import OWNER, Server, running

__all__ = ["Failover", "Pair", "pair"]

_LIMIT_S = 30
_SYNCHRONOUS = """
ALTER SYSTEM SET synchronous_standby_names = '*';
SELECT pg_reload_conf();
"""


@dataclass(frozen=True)
class Failover:
    """One change of roles, in seconds of the monotonic clock."""

    killed_at: float
    promoted_at: float
    """The new primary takes writes."""

    @property
    def took_s(self) -> float:
        return self.promoted_at - self.killed_at


class Pair:
    """``primary`` and ``standby`` change places with each failover."""

    def __init__(self, primary: Server, standby: Server) -> None:
        self.primary, self.standby = primary, standby
        self._url = (
            f"postgresql://{OWNER}@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{OWNER}"
            "?target_session_attrs=read-write"
        )

    @property
    def url(self) -> str:
        """Of both, the same whichever is which."""
        return self._url

    async def fail_over(self, detect_s: float = 0.0) -> Failover:
        """Kill the primary; ``detect_s`` later, as somebody has noticed, promote the standby. It then stands alone."""
        killed_at = time.monotonic()
        await asyncio.to_thread(self.primary.kill)
        await asyncio.sleep(detect_s)
        await asyncio.to_thread(self.standby.run, "pg_ctl", "promote", "-w", "-D", str(self.standby.data))
        await asyncio.to_thread(self.standby.execute, "CREATE TABLE promoted (); DROP TABLE promoted")
        promoted_at = time.monotonic()
        self.primary, self.standby = self.standby, self.primary
        return Failover(killed_at, promoted_at)

    async def rebuild(self) -> None:
        """Make what was killed a standby of the other; return when it has each commit before it is confirmed."""
        await asyncio.to_thread(self.copy)
        await asyncio.to_thread(self.synchronize)

    def copy(self) -> None:
        """Make the standby's data anew, and start it."""
        standby = self.standby
        standby.stop()
        shutil.rmtree(standby.data, ignore_errors=True)
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres"
        standby.run("pg_basebackup", "-d", source, "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast", "-N")
        with (standby.data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write("synchronous_standby_names = ''\n")  # promoted, it waits for nobody
        standby.start()

    def synchronize(self) -> None:
        """Have the primary wait for the standby with each commit from now on."""
        self.primary.execute("SET synchronous_commit = local;" + _SYNCHRONOUS)
        deadline = time.monotonic() + _LIMIT_S
        while self.primary.execute("SELECT sync_state FROM pg_stat_replication") not in ("sync", "quorum"):
            assert time.monotonic() < deadline, "the standby has not come up to the primary"
            time.sleep(0.02)


@contextmanager
def pair(programs: Path) -> Iterator[Pair]:
    """Run both until the block ends, with an empty database."""
    with running(programs) as primary, running(programs, create=False) as standby:
        both = Pair(primary, standby)
        both.copy()
        both.synchronize()
        yield both
