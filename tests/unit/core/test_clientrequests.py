"""Requests under way: how many one client may have, and that there is always a place for another."""

import pytest

from gateway.core.clientrequests import ClientRequests
from gateway.core.errors import Unavailable
from tests.manual import page


def begun(requests: ClientRequests, client: str | None) -> int:
    """Begin as many as a client may have, and return their number."""
    count = 0
    while True:
        try:
            requests.begin(client)
        except Unavailable:
            return count
        count += 1


@pytest.mark.parametrize("connections", [2, 3, 7, 8, 9, 16, 64, 100, 3456, 4096])
@pytest.mark.parametrize("client", ["ann", None])
def test_alone_a_client_has_seven_eighths(connections: int, client: str | None) -> None:
    """Be it the only one there is, or the operator: the rest is for others, and one that has none gets a place."""
    requests = ClientRequests(connections)
    assert begun(requests, client) == max(1, connections * 7 // 8)
    requests.begin("bob")


def test_one_connection_is_whoever_comes_s() -> None:
    """A bound that nobody could keep would close the gateway."""
    requests = ClientRequests(1)
    assert begun(requests, "ann") == 1
    requests.end("ann")
    assert begun(requests, "bob") == 1


def test_several_greedy_clients_leave_a_place_each_time() -> None:
    """Seven eighths of what is left are the next one's, and so on: four of them leave one for a fifth."""
    requests = ClientRequests(4096)
    assert [begun(requests, client) for client in ("ann", "bob", "cleo", "dan")] == [3584, 448, 56, 7]
    requests.begin("eve")
    told = " ".join(page("api").split())
    assert "of 4,096 connections one alone may have 3,584 " in told
    assert "a second one then 448 and a third 56." in told


def test_what_has_ended_may_be_begun_again() -> None:
    """One for one, and what was refused counts nothing; in the end nothing is left of anybody."""
    requests = ClientRequests(16)
    assert [begun(requests, "ann"), begun(requests, "ann"), begun(requests, "bob")] == [14, 0, 1]
    requests.end("bob")
    for _ in range(3):
        requests.end("ann")
    assert begun(requests, "ann") == 3
    for _ in range(14):
        requests.end("ann")
    assert begun(requests, "bob") == 14
    for _ in range(14):
        requests.end("bob")
    assert not requests._of
    assert not requests._count
