"""What `make demo-replicas` says at its end, and when it is a failure."""

from tests.demo_replicas import Tally


def tally(*registered: str, arrived: tuple[str, ...] = (), unverified: int = 0) -> Tally:
    found = Tally()
    found.registered.update({f"cb_{task_id}": task_id for task_id in registered})
    found.arrived.update(f"cb_{task_id}" for task_id in arrived)
    found.unverified = unverified
    return found


def test_all_came() -> None:
    """What came again came."""
    found = tally("one", "two", arrived=("one", "two", "two"))
    assert found.ok
    assert found.closing() == (
        "2 registered, 2 delivered, 0 lost, each signature verified; 1 sent again under the same id"
    )


def test_one_is_lost() -> None:
    """Also where another came twice."""
    found = tally("one", "two", arrived=("two", "two"))
    assert not found.ok
    assert found.lost == ["one"]
    assert found.closing().startswith("2 registered, 1 delivered, 1 lost, ")


def test_a_signature_does_not_hold() -> None:
    """Even where all came, with others that do."""
    found = tally("one", arrived=("one",), unverified=1)
    assert not found.ok
    assert found.closing() == "1 registered, 1 delivered, 0 lost, 1 NOT VERIFIED"


def test_nothing_was_registered() -> None:
    """Then nothing was shown."""
    assert not tally().ok
