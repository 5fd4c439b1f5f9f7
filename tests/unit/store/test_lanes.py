"""Which receivers have a webhook due next."""

from gateway.core.model import Lane
from gateway.store.lanes import LanesDue


def test_lanes_that_are_noted_again_and_again_leave_nothing() -> None:
    """A receiver with a retry a day away that gets a webhook each second does not fill the memory with that retry."""
    lanes = LanesDue()
    on = Lane("ann", "https://app.example.com")
    for at in range(10_000):
        lanes.note(on, 86_400_000)
        lanes.note(on, at)
        assert lanes.take(at) == [on]
    assert len(lanes._heap) < 100
    lanes.note(on, 86_400_000)
    assert (lanes.next_due_at, lanes.take(86_400_000), lanes.next_due_at) == (86_400_000, [on], None)
    for at in range(10_000, 0, -1):
        lanes.note(on, at)
        assert lanes.next_due_at == at
    assert len(lanes._heap) < 100
    assert lanes.take(1) == [on]
