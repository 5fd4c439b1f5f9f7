"""What a transaction on PostgreSQL locks first, and that it locks nothing where its writes keep to the order anyway."""

from typing import Any, cast

import pytest

from gateway.store.engine import Result, Rows, Touched
from gateway.store.outbox import _to_hand_over
from gateway.store.postgres import locksql, sql
from gateway.store.postgres.engine import PostgresEngine
from tests.lanes import lane, webhook

SETTLE, RECORD, RELEASE = Touched(seqs=[1]), Touched(webhooks=[7]), Touched(webhooks=[8])
REGISTER, WATCH = (Touched(tasks=[("up", name)], new=lambda name=name: [(name,)]) for name in ("n-1", "n-2"))
CANCEL, OTHER = Touched(callbacks=["cb-1"]), Touched()

BOTH = [["up", "up"], ["n-1", "n-2"]]


def locked(*touched: Touched) -> list[tuple[Any, Any]]:
    """Return the statements that come first, and what they are given."""
    names = {
        locksql.LOCK_ALL: "tasks", locksql.LOCK_CALLBACKS: "callbacks", sql.INSERT_TASKS: "new"
    }  # fmt: skip
    steps = []
    work = PostgresEngine.lock_all(cast(PostgresEngine, None), iter(touched))
    try:
        step = next(work)
        while True:
            steps.append((names[step.statement], step.rows if isinstance(step, Rows) else [*step.parameters]))
            step = work.send(Result([], 0))
    except StopIteration:
        return steps


@pytest.mark.parametrize(
    "touched",
    [(SETTLE,), (SETTLE, RECORD), (SETTLE, OTHER), (REGISTER, RECORD), (RECORD, OTHER), (OTHER,), (CANCEL,)],
)
def test_what_keeps_to_the_order_by_itself(touched: tuple[Touched, ...]) -> None:
    """A life's usual transactions among them: a statement more is dear."""
    assert locked(*touched) == []


@pytest.mark.parametrize(
    ("touched", "steps"),
    [
        ((SETTLE, REGISTER), [("tasks", [[1], ["up"], ["n-1"], []])]),
        ((OTHER, SETTLE), [("tasks", [[1], [], [], []])]),
        ((REGISTER, WATCH), [("tasks", [[], *BOTH, []]), ("new", [("n-1",), ("n-2",)])]),
        ((OTHER, REGISTER), [("tasks", [[], ["up"], ["n-1"], []]), ("new", [("n-1",)])]),
        ((RECORD, CANCEL), [("tasks", [[], [], [], ["cb-1"]]), ("callbacks", [[7], ["cb-1"]])]),
        ((CANCEL, CANCEL), [("tasks", [[], [], [], ["cb-1"] * 2]), ("callbacks", [[], ["cb-1"] * 2])]),
        ((SETTLE, CANCEL), [("tasks", [[1], [], [], ["cb-1"]])]),
        ((RECORD, RELEASE), [("callbacks", [[7, 8], []])]),
    ],
)
def test_what_is_locked_first(touched: tuple[Touched, ...], steps: list[tuple[Any, Any]]) -> None:
    """Tasks, then those that are new, then callbacks: where two writes of a transaction would lock them one by one."""
    assert locked(*touched) == steps


def test_what_is_handed_over_is_locked_with_what_is_recorded() -> None:
    """Of several hand-overs each webhook: else two transactions might lock them in two orders."""
    handed = [webhook(lane("app")) for _ in range(3)]
    first, *others = [(one, "https://app.example.com/slow") for one in handed]
    assert locked(RECORD, _to_hand_over([[first], others])) == [("callbacks", [[7, *(one.seq for one in handed)], []])]
