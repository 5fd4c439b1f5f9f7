"""Whom a pause holds back: by the names of lanes, and by the URLs of webhooks."""

import pytest

from gateway.core.claims import Lane
from gateway.core.pausing import holds_back

HOST = "https://app.example.com"


def held_by(paused: str, receiver: str, url: str | None = None) -> bool:
    return holds_back({Lane("ann", paused)}, Lane("ann", receiver), url) == Lane("ann", paused)


@pytest.mark.parametrize("receiver", [HOST, f"{HOST}/orders", f"{HOST}/orders/new"])
def test_a_pause_holds_a_lane_of_its_name_and_all_under_it(receiver: str) -> None:
    """And none above it, beside it or that only begins alike, nor another client's."""
    assert held_by(receiver, receiver)
    assert held_by(receiver, f"{receiver}/more")
    assert not held_by(f"{receiver}/more", receiver)
    assert not held_by(receiver, f"{receiver}-more")
    assert holds_back({Lane("bob", receiver)}, Lane("ann", receiver)) is None


@pytest.mark.parametrize(
    ("url", "held"),
    [
        (f"{HOST}/orders", True),
        (f"{HOST}/orders/7?token=secret", True),
        ("HTTPS://APP.example.com.:443/%6Frders/7", True),
        (f"{HOST}/more/../orders/7", True),
        (f"{HOST}/ordersextra", False),
        (f"{HOST}/", False),
        ("https://app.example.com:8443/orders/7", False),
        ("https://app.example.com:port/orders", False),
    ],
)
def test_a_pause_of_a_path_holds_what_is_sent_there(url: str, held: bool) -> None:
    """Whatever its lane is called by now: the table about that path may be there no more."""
    assert held_by(f"{HOST}/orders", HOST, url) == held


def test_the_nearest_of_several_pauses_is_the_one_that_holds() -> None:
    """It is the one to be resumed first; the one above then holds on."""
    host, path = Lane("ann", HOST), Lane("ann", f"{HOST}/orders")
    url = f"{HOST}/orders/7"
    assert holds_back({host, path}, host, url) == path
    assert holds_back({host}, path, url) == host
    assert holds_back(set(), path, url) is None


def test_a_lane_whose_url_cannot_be_read_is_held_by_its_name() -> None:
    """Whatever an earlier release has stored."""
    assert held_by(HOST, HOST, f"{HOST}:port/")
