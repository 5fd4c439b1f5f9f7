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
