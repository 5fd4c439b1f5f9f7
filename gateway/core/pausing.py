"""Whom a pause holds back: a receiver's lane, those of all receivers that lie under it, and what is sent there. Pure.

A receiver that goes by a table is called by the beginning of its URLs (``[[receivers]]``), and lies under its host's.
So a table that is added later ends no pause, nor does one that another replica has; and where the table of a pause is
taken away, the pause goes on for the URLs that begin so. Asked by whoever claims, counts or shows what waits.
"""

from collections.abc import Container

import httpx

from gateway.core.claims import Lane
from gateway.core.urls import cached_by_url, prefix_of


def holds_back(paused: Container[Lane], lane: Lane, url: str | None = None) -> Lane | None:
    """Return which of the lanes that are paused holds a lane back: itself, else the nearest above; None: none does.

    ``url``: of one of its webhooks, which may lie under a lane that is paused although all of its own lane does not.
    """
    name = None if url is None else _name_of(url.partition("?")[0])  # a query often is of one callback alone
    return _above(paused, Lane(lane.client, name or lane.receiver))


@cached_by_url
def _name_of(url: str) -> str | None:
    """Return what a table that is about this URL alone would be called; None where it cannot be read."""
    try:
        receiver, segments = prefix_of(url)
    except (httpx.InvalidURL, ValueError):
        return None
    return "/".join((receiver, *segments))


def _above(paused: Container[Lane], lane: Lane) -> Lane | None:
    receiver, host = lane.receiver, lane.receiver.find("//") + 2
    while True:
        if (found := Lane(lane.client, receiver)) in paused:
            return found
        end = receiver.rfind("/")
        if end < host:
            return None
        receiver = receiver[:end]
