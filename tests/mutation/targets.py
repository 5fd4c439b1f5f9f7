"""What is mutated, what tests it, and which mutants change nothing that anybody could see.

Owns the three lists; no code.
"""

from typing import NamedTuple

__all__ = ["COVERED", "EQUIVALENT", "LEAST_SCORE", "MODULES", "TESTS", "Equivalent"]

LEAST_SCORE = 0.85

COVERED = (
    "gateway/model.py",
    "gateway/store/sqlite.py",
    "gateway/store/rows.py",
    "gateway/store/writer.py",
    "gateway/poller.py",
    "gateway/deliverer.py",
    "gateway/janitor.py",
)
"""The state machine: every branch of it is taken by the tests."""

MODULES = (
    *COVERED,
    "gateway/store/sql.py",
    "gateway/store/database.py",
    "gateway/supervisor.py",
    "gateway/inflight.py",
    "gateway/bulkhead.py",
    "gateway/retry.py",
)

TESTS = (
    "tests/unit/test_bulkhead.py",
    "tests/unit/test_inflight.py",
    "tests/unit/test_janitor.py",
    "tests/unit/test_model.py",
    "tests/unit/test_retry.py",
    "tests/unit/test_supervisor.py",
    "tests/integration/test_clock_steps.py",
    "tests/integration/test_deliverer.py",
    "tests/integration/test_poller.py",
    "tests/integration/test_sqlite_store.py",
    "tests/integration/test_store.py",
    *(f"tests/integration/test_simulation.py::test_a_seed[{seed}]" for seed in range(5)),
)
"""Fast ones, of which each mutant meets those that run its statement."""


class Equivalent(NamedTuple):
    """A mutant that no test can tell from the original, by what its lines were and are, and why that is."""

    path: str
    was: str
    now: str
    why: str


EQUIVALENT: tuple[Equivalent, ...] = ()
