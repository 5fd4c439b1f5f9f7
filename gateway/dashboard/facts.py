"""What only the running loops know, as pages show it: how upstreams and receivers are doing, and what was learned.

Nouns alone. Filled in by ``gateway.app``, which knows the loops; a page must not.
"""

from collections.abc import Sequence
from typing import NamedTuple

_USED_UP = 0.99


class UpstreamFacts(NamedTuple):
    """One upstream, as this process sees it."""

    name: str
    profile: str
    url: str
    default: bool
    polled_here: bool
    """Whether this replica polls it."""
    polls_in_flight: int
    budget_used: float
    """Which part of the key's limit for polls and reads is used up, from 0 to 1."""
    told_to_wait: bool
    """Whether its last 429 still holds."""
    creates_used: float
    rate: str
    """What is configured of that limit: ``2/1 60/60``."""
    rate_per_s: float
    """What the limits in force allow in the long run."""
    refusal: str | None
    """Why the upstream refuses the key."""
    flaws: tuple[str, ...]
    """What else is wrong with it."""

    @property
    def used_up(self) -> bool:
        """Whether polls wait for their turn in the key's limit."""
        return self.budget_used >= _USED_UP


class ModelFacts(NamedTuple):
    """How long the tasks of one kind take."""

    upstream: str
    kind: str
    """``model``, ``client`` or ``all``."""
    name: str
    seen: int
    """How many have been seen to their end."""
    half_s: float
    """Half of them take no longer."""
    most_s: float
    """Nine of ten take no longer."""
    ages_s: Sequence[float] = ()
    survival: Sequence[float] = ()
    """The share of them that takes longer than each of these ages."""


class Paused(NamedTuple):
    """That a receiver gets no attempts."""

    since: int
    by: str
    """Whose token it was paused with."""
    receiver: str
    """Which was: itself, or one that it lies under."""


class ReceiverFacts(NamedTuple):
    """One client's webhooks to one receiver."""

    client: str
    receiver: str
    in_flight: int
    one_alone: bool
    """Whether it gets one attempt at a time."""
    failures: int
    """In a row, since the last one that was delivered."""
    error: str | None
    """Of the last one."""
    paused: Paused | None = None


class Counts(NamedTuple):
    """What this process has done since it started."""

    delivered: int
    retried: int
    dead: int
    abandoned: int
    """Callbacks whose task was abandoned."""
    attempts_in_flight: int
