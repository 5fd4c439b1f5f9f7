"""The checkers of several replicas see what they are there for: each wrong thing by itself, and nothing else."""

import hashlib
from typing import Any

import pytest

from gateway.core.model import TaskState
from gateway.core.ratelimit import RateWindow
from tests.crash.audit import Audit, Entry
from tests.crash.scenario import Item
from tests.crash.sharedchecker import Fault, SharedChecker
from tests.crash.sharedsides import SharedSides, beyond, fullest
from tests.crash.sides import Arrival
from tests.crash.snapshot import Snapshot

WINDOW = RateWindow(3, 1.0)
BODY = b'{"type":"task.succeeded"}'


@pytest.mark.parametrize(
    ("instants", "most"),
    [([], 0), ([0.0, 0.5, 0.9, 1.0], 3), ([0.0, 0.5, 0.9, 0.99], 4), ([5.0, 0.1, 0.2, 0.3, 5.5, 0.4], 4)],
    ids=["none", "just in time", "one too many", "in no order"],
)
def test_a_limit_holds_wherever_its_window_is_cut(instants: list[float], most: int) -> None:
    """A window holds what came after its beginning, up to its end."""
    assert fullest(instants, WINDOW) == most
    assert bool(beyond(instants, [WINDOW])) == (most > WINDOW.limit)


def _audit(*entries: tuple[str, str, str, int]) -> Audit:
    audit = Audit([Entry(number, float(number), *entry) for number, entry in enumerate(entries)])
    audit.judge()
    return audit


CLAIMED = ("r0.1", "claim", "7", 1)
TAKEN = ("r1.1", "claim", "7", 2)
LED = ("r0.1", "lead", "alpha", 1)
LED_BY_ANOTHER = ("r1.1", "lead", "alpha", 2)


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ([CLAIMED, ("r0.1", "attempt", "7", 1), ("r0.1", "record", "7", 1)], 0),
        ([CLAIMED, TAKEN, ("r1.1", "attempt", "7", 1), ("r1.1", "record", "7", 2)], 0),
        ([CLAIMED, TAKEN, ("r0.1", "record", "7", 1)], 1),
        ([CLAIMED, TAKEN, ("r0.1", "attempt", "7", 1)], 1),
        ([LED, ("r0.1", "poll", "alpha", 3), LED_BY_ANOTHER, ("r1.1", "settle", "alpha", 3)], 0),
        ([LED, LED_BY_ANOTHER, ("r0.1", "poll", "alpha", 3)], 1),
        ([LED, LED_BY_ANOTHER, ("r0.1", "settle", "alpha", 3)], 1),
        ([LED, ("r0.1", "poll", "beta", 3)], 1),
    ],
    ids=["recorded", "taken over", "late record", "late attempt", "led", "late poll", "late end", "not its own"],
)
def test_a_replica_writes_under_its_own_claims_and_leads_alone(
    entries: list[tuple[str, str, str, int]], wrong: int
) -> None:
    """What was written under another's claim, or another's lead, is told."""
    assert len(_audit(*entries).wrong) == wrong


def test_what_became_of_a_claim() -> None:
    """It was recorded, or claimed anew by whoever it was."""
    audit = _audit(CLAIMED, TAKEN, ("r1.1", "record", "7", 2))
    assert [audit.next_of(7, fence).id for fence in (1, 2)] == [1, 2]  # type: ignore[union-attr]
    assert audit.next_of(7, 3) is None


def _judged(arrivals: list[Arrival], recorded: list[int], faults: list[Fault]) -> SharedChecker:
    """Judge one delivered callback that arrived so, and whose attempts were recorded with these answers."""
    sides = SharedSides()
    sides.receiver_urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    item = Item(0, 0, "sim-success-0-1", "ok", None, None, again=True)
    checker = SharedChecker(sides)
    checker.sent[0] = checker.promised["cb_0"] = item
    checker.faults = faults
    sides.arrivals["cb_0"] = arrivals
    sides.events["cb_0"] = {
        "type": "task.succeeded", "data": {"callbackId": "cb_0", "taskId": item.task_id, "metadata": {}}
    }  # fmt: skip
    row: dict[str, Any] = {
        "id": "cb_0", "state": "delivered", "url": sides.url_of(item), "attempts": len(recorded),
        "budget_used": len(recorded), "next_attempt_at": None, "metadata": b"{}", "timeout_s": 60, "format": "standard",
        "task_id": item.task_id, "task_state": TaskState.SUCCESS, "next_poll_at": None, "settled_at": 1, "body": BODY,
        "outcome": None,
    }  # fmt: skip
    attempts = [
        {"id": "cb_0", "number": number, "started_at": number, "status_code": status,
         "result": "delivered" if status == 204 else "retry"}
        for number, status in enumerate(recorded, 1)
    ]  # fmt: skip
    checker.judge_at_the_end(Snapshot([row], attempts))
    return checker


def _arrival(sender: str, at: float, status: int = 204, body: bytes = BODY) -> Arrival:
    return Arrival(0, at, hashlib.sha256(body).digest(), sender, status, at + 0.01)


KILLED = Fault("kill", "r0", at=100.0, until=100.0)


@pytest.mark.parametrize(
    ("arrivals", "recorded", "corrupted"),
    [
        ([_arrival("r0", 50.0)], [204], 0),
        ([_arrival("r0", 99.9), _arrival("r1", 132.0)], [204], 0),
        ([_arrival("r1", 99.9), _arrival("r1", 132.0)], [204], 1),
        ([_arrival("r0", 50.0), _arrival("r1", 132.0)], [204], 1),
        ([_arrival("r0", 99.9), _arrival("r1", 132.0), _arrival("r2", 133.0)], [204], 1),
        ([_arrival("r0", 50.0, 500), _arrival("r0", 51.0)], [500, 204], 0),
        ([_arrival("r0", 50.0)], [500, 204], 1),
        ([_arrival("r0", 50.0, body=b"{}")], [204], 1),
    ],
    ids=["once", "in flight", "of another", "long before", "twice", "retried", "never answered so", "other bytes"],
)
def test_a_repetition_has_a_fault_as_its_reason(arrivals: list[Arrival], recorded: list[int], corrupted: int) -> None:
    """What arrived and is not recorded was in flight when its sender met a fault."""
    checker = _judged(arrivals, recorded, [KILLED])
    assert len(checker.corrupted) == corrupted, checker.corrupted
    assert not checker.lost
