"""The two sides of several replicas: they see which one asks and which one sends, and count what each key is asked.

Owns the counts, and the judgement of a key's limit, which holds for all replicas together. A replica says who it is in
its upstreams' base URL, ``/REPLICA/UPSTREAM``, and in a header of its webhooks.
"""

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from gateway.core.ratelimit import RateWindow
from gateway.simulator.scenario import parse_windows
from tests.crash.scenario import Item
from tests.crash.sides import Sides

__all__ = ["CREATES", "LIMITS", "READS", "UPSTREAMS", "Asked", "SharedSides", "beyond", "fullest"]

UPSTREAMS = ("alpha", "beta", "gamma")
"""Each with a key of its own."""
READS, CREATES = "12/1,90/10", "3/1,15/10"
Kind = Literal["read", "create"]
LIMITS: Mapping[Kind, Sequence[RateWindow]] = {"read": parse_windows(READS), "create": parse_windows(CREATES)}


class Asked(NamedTuple):
    """One request to an upstream."""

    at: float
    """Between its sending and its answer, in seconds of the monotonic clock."""
    replica: str
    polls: bool
    """Whether it is no client's read or create that was forwarded."""


class SharedSides(Sides):
    """Every request to an upstream counts against its key, whoever sends it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: defaultdict[tuple[str, Kind], list[Asked]] = defaultdict(list)
        """By upstream and kind, in the order of time."""
        self._gone_at: dict[str, float] = {}

    def upstream_of(self, item: Item) -> str:
        return UPSTREAMS[item.key % len(UPSTREAMS)]

    def base_url(self, replica: str, upstream: str) -> str:
        return f"{self.upstream_url}/{replica}/{upstream}"

    def gone(self, replica: str) -> None:
        """Take down that it sends nothing from now on: what is seen of it later was sent before."""
        self._gone_at[replica] = time.monotonic()

    def back(self, replica: str) -> None:
        self._gone_at.pop(replica, None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, replica, upstream, rest = scope["path"].split("/", 3)
        kind: Kind = "create" if scope["method"] == "POST" else "read"
        at = min(time.monotonic(), self._gone_at.get(replica, math.inf))
        polls = kind == "read" and b"-read-" not in scope["query_string"]
        self.asked[upstream, kind].append(Asked(at, replica, polls))
        await super().__call__({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, send)

    def polled_since(self, upstream: str, since: float, *, but: str) -> float | None:
        """Return when another replica polled for the first time since then; None where none has yet."""
        found = takewhile(lambda asked: asked.at >= since, reversed(self.asked[upstream, "read"]))
        return min((asked.at for asked in found if asked.polls and asked.replica != but), default=None)

    def under_way(self, replica: str) -> bool:
        """Whether a webhook of a replica is not answered yet."""
        return any(arrival.sender == replica for arrival in self.open)

    def fullest(self) -> float:
        """Return how much of a key's limit was used in its fullest window; above 1 it was exceeded."""
        return max(
            fullest([one.at for one in asked], window) / window.limit
            for (_, kind), asked in self.asked.items()
            for window in LIMITS[kind]
        )

    def beyond_limits(self) -> list[str]:
        """Say where more was asked with a key than it may be."""
        return [
            f"{upstream}: {sentence}"
            for (upstream, kind), asked in sorted(self.asked.items())
            for sentence in beyond([one.at for one in asked], LIMITS[kind])
        ]


def fullest(instants: Iterable[float], window: RateWindow) -> int:
    """Return how many fell into a window at most, wherever it is cut."""
    within: deque[float] = deque()
    most = 0
    for at in sorted(instants):
        within.append(at)
        while within[0] <= at - window.window_s:
            within.popleft()
        most = max(most, len(within))
    return most


def beyond(instants: Iterable[float], windows: Iterable[RateWindow]) -> list[str]:
    """Say of each window when more than its limit fell into it, wherever it is cut."""
    ordered = list(instants)
    counted = [(fullest(ordered, window), window) for window in windows]
    return [
        f"{most} requests in {window.window_s} s, allowed are {window.limit}"
        for most, window in counted
        if most > window.limit
    ]
