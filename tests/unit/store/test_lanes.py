"""When each lane's next webhook falls due: what is told of a lane that was taken."""

from gateway.store.lanes import LanesDue
from tests.lanes import lane


def test_a_lane_that_was_taken_is_looked_through_from_its_first_webhook_on() -> None:
    """From the earliest that was noted until it is claimed, also where it was taken twice before that; then anew."""
    lanes = LanesDue()
    a, b = lane("a"), lane("b")
    for on, due_at in ((a, 5), (b, 7)):
        lanes.note(on, due_at)
    assert lanes.take(10) == [a, b]
    lanes.note(a, 9)
    assert lanes.take(10) == [a]
    assert lanes.since(a) == 5
    lanes.note(b, 3)
    assert lanes.since(b) == 3
    lanes.note(a, 20)
    assert lanes.take(20) == [b, a]
    assert lanes.since(a) == 20


def test_a_lane_of_which_nothing_is_known_is_looked_through_whole() -> None:
    """As one of which it was asked before, and of which nobody has told anything since."""
    lanes = LanesDue()
    lanes.note(lane("a"), 5)
    lanes.take(5)
    assert lanes.since(lane("a")) == 5
    assert lanes.since(lane("a")) == 0
    assert lanes.since(lane("b")) == 0


def test_what_is_out_of_date_takes_no_memory() -> None:
    """A lane whose first webhook falls due ever earlier is known by its earliest time alone, however often that was."""
    lanes = LanesDue()
    lanes.note(lane("b"), 20_000)
    for due_at in range(10_000, 0, -1):
        lanes.note(lane("a"), due_at)
    assert len(lanes._heap) < 100
    assert lanes.next_due_at == 1
    assert lanes.take(10_000) == [lane("a")]
    assert lanes.next_due_at == 20_000, "which stays when another one does"
    assert lanes.take(20_000) == [lane("b")]
    assert lanes.next_due_at is None
