"""What is told of receivers that fail: every failure counts here, whatever it says of the receiver."""

import pytest

from gateway.core.claims import Lane
from gateway.core.model import Attempt, AttemptResult
from gateway.loops import failing
from gateway.loops.failing import Failing, Failures

A, B, C = (Lane("ann", f"https://{name}.example.com") for name in "abc")


def attempt(result: AttemptResult, error: str | None = None) -> Attempt:
    return Attempt(number=1, started_at=0, duration_ms=1, status_code=None, error=error, result=result, excerpt=None)


def test_failures_are_counted_until_one_is_delivered() -> None:
    """In a row, with the last one's words; the one that was given up as well."""
    told = Failing()
    told.hear(A, attempt(AttemptResult.RETRY, "It answered 401."))
    told.hear(A, attempt(AttemptResult.DEAD, "It answered 410."))
    told.hear(B, attempt(AttemptResult.DELIVERED))
    assert told.lanes == {A: Failures(2, "It answered 410.")}
    told.hear(A, attempt(AttemptResult.DELIVERED))
    assert told.lanes == {}


def test_of_too_many_the_longest_unheard_of_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told takes a bounded room."""
    monkeypatch.setattr(failing, "_REMEMBERED", 2)
    told = Failing()
    for lane in (A, B, A, C):
        told.hear(lane, attempt(AttemptResult.RETRY))
    assert [*told.lanes] == [A, C]
