"""Whom a pause holds back: a receiver's lane, and those of all receivers that lie under it. Pure.

A receiver that goes by a table is called by the beginning of its URLs (``[[receivers]]``), and lies under its host's.
So a table that is added later ends no pause, nor does one that another replica has. Asked by whoever claims, counts or
shows what waits.
"""

from collections.abc import Container

from gateway.core.model import Lane


def holds_back(paused: Container[Lane], lane: Lane) -> Lane | None:
    """Return which of the lanes that are paused holds a lane back: itself, else the nearest above; None: none does."""
    receiver, host = lane.receiver, lane.receiver.find("//") + 2
    while True:
        if (found := Lane(lane.client, receiver)) in paused:
            return found
        end = receiver.rfind("/")
        if end < host:
            return None
        receiver = receiver[:end]
