"""Ended at any moment, a gateway loses nothing: the short form of ``make crash``, and that its checker can see."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.creates import POINTS, create_kills, creates
from tests.crash.harness import harness
from tests.crash.scenario import EXTRA_POINTS, NAMED_POINTS, kills, shutdowns

SEED = 1

SOME = "SELECT seq FROM callbacks WHERE state = 'delivered' LIMIT 3"
TAMPERINGS = {
    "callback lost": ("lost", "DELETE FROM attempts; DELETE FROM callbacks"),
    "callback owes its webhook again": (
        "corrupted",
        "UPDATE callbacks SET state = 'pending', next_attempt_at = 1, ended_at = NULL WHERE state = 'delivered'",
    ),
    "webhook's bytes changed": (
        "corrupted",
        f"UPDATE callbacks SET body = CAST(body || ' ' AS BLOB) WHERE seq IN ({SOME})",
    ),
    "attempt's record lost": ("corrupted", f"DELETE FROM attempts WHERE callback_seq IN ({SOME})"),
    "attempt recorded twice": (
        "corrupted",
        "INSERT INTO attempts "
        "SELECT callback_seq, number + 1, started_at, duration_ms, status_code, error, result, NULL FROM attempts "
        f"WHERE callback_seq IN ({SOME}) AND result = 'delivered'",
    ),
    "attempt of no callback": (
        "corrupted",
        f"UPDATE attempts SET callback_seq = callback_seq + 1000000 WHERE callback_seq IN ({SOME})",
    ),
    "task settled, webhook not owed": (
        "corrupted",
        f"UPDATE callbacks SET state = 'waiting', ended_at = NULL, delivered_at = NULL WHERE seq IN ({SOME})",
    ),
    "index damaged": (
        "corrupted",
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'callbacks_due'",
    ),
}


@pytest.mark.timeout(180)
async def test_killed(tmp_path: Path) -> None:
    """Killed at each named point and at random moments, it delivers every callback, repeating only what was in flight.

    Then the checker is shown files that were tampered with: it sees each of them.
    """
    async with harness(tmp_path) as run:
        await run.play(kills(SEED, 8))
        assert run.ok, run.report()
        assert run.killed.keys() >= {*NAMED_POINTS, *EXTRA_POINTS}, run.missed
        assert run.checker.created > 0
        run.checker.after_end(tmp_path / "gateway.db", clean=True)
        assert run.ok, "it sees what is not there"
        for what, (kind, statements) in TAMPERINGS.items():
            copy = tmp_path / "tampered.db"
            shutil.copyfile(tmp_path / "gateway.db", copy)
            with closing(sqlite3.connect(copy)) as db:
                db.executescript(statements)
            run.checker.after_end(copy, clean=True)
            assert getattr(run.checker, kind), f"not seen: {what}"
            run.checker.after_end(tmp_path / "gateway.db", clean=True)
            run.checker.lost.clear()
            run.checker.corrupted.clear()


@pytest.mark.timeout(180)
async def test_terminated(tmp_path: Path) -> None:
    """SIGTERM under load: no new claims, what is in flight finished or recorded as interrupted, exit 0 in time.

    A receiver and an upstream hang, a batch is under way, a request is held and connections are idle meanwhile.
    """
    async with harness(tmp_path) as run:
        await run.play(shutdowns(SEED, 3))
        assert run.ok, run.report()
        assert run.shutdowns.clean == 3
        assert run.shutdowns.interrupted > 0, "what hung was in flight at the end"
        assert run.checker.duplicates == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("honours", [True, False], ids=["honoured", "ignored"])
async def test_creates_are_not_paid_twice(tmp_path: Path, *, honours: bool) -> None:
    """Killed between a create and its answer, the answer and its row, the row and its webhook: as the manual says.

    Where the upstream knows X-Request-ID each is answered in the end, where it does not some stay in doubt; whatever
    was answered or stored is given again, with one webhook.
    """
    async with creates(tmp_path / "run", honours=honours) as run:
        await run.play(create_kills(SEED, len(POINTS)))
        assert run.ok, "\n".join(run.problems)
        assert run.killed.keys() == {*POINTS}, run.missed
        assert run.paid_twice == 0
        assert run.outcomes["repeated"] > 0
        assert (run.outcomes["forwarded again"] > 0, run.outcomes["in doubt"] > 0) == (honours, not honours)
