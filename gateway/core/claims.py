"""The nouns of what is due: claimed tasks and webhooks, whose they are, and what an attempt leaves behind.

Pure, like ``model``, whose nouns these are made of.
"""

from typing import NamedTuple

from gateway.core.model import Attempt, Format, Noun, Outcome


class DueTask(Noun, frozen=True, kw_only=True):
    """A claimed task that is to be polled now."""

    seq: int
    upstream: str
    watchers: str
    """The clients that it is polled for, with a comma between two."""
    task_id: str
    created_at: int
    """When the gateway began to watch it."""
    born_at: int | None
    """When it was created by the upstream's word, or ``created_at`` without one; None until it has told of the task."""
    model: str | None
    """Which model works on it; None until its client, its creation or a poll has told."""
    polls: int
    failures: int
    """Polls in a row that brought no usable answer."""
    last_polled_at: int | None
    due_at: int
    read_until: int | None = None
    """Until when the proxy's readers wait for it, where any have."""


class DueGroup(NamedTuple):
    """What the same clients watch of one upstream: a task that two of them watch waits behind neither's others."""

    watchers: str
    due_at: int
    """When the longest due unclaimed one of its tasks is, or earlier than that."""
    claimed: int
    """How many of its tasks are claimed."""


class Lane(NamedTuple):
    """One client's webhooks to one receiver: what one of them does holds up no other."""

    client: str
    receiver: str


class Share(NamedTuple):
    """What may be claimed of a lane."""

    lane: Lane
    room: int
    """So many webhooks at most."""
    retries: bool
    """Whether retries may be among them."""


class BodyParts(Noun, frozen=True, kw_only=True):
    """What the body of a webhook is made of, but for its callback's id; the same for every attempt."""

    outcome: Outcome
    settled_at: int
    metadata: bytes
    format: Format = Format.STANDARD


class DueCallback(Noun, frozen=True, kw_only=True):
    """A claimed callback whose webhook is to be sent now."""

    seq: int
    id: str
    task_id: str
    client: str
    url: str
    receiver: str
    format: Format
    attempts: int
    """Attempts made so far, interrupted ones included."""
    budget_used: int
    """Attempts made so far that count against the retry schedule."""
    redeliveries: int
    """How often a fresh budget was given; the claim is void for retries once this has moved on."""
    due_at: int
    fence: int
    """Which claim of it this is: each one after it voids it. Always 0 with one process."""
    trace: str | None
    """As in NewCallback."""
    body_bytes: int
    """How large its body is at most, but for its own id and metadata."""
    body: BodyParts | bytes | None
    """What the body is made of, or the body itself, where it is small; else the store is asked for it."""

    @property
    def claim(self) -> tuple[int, int]:
        """What no other claim is called."""
        return self.seq, self.fence

    @property
    def retry(self) -> bool:
        """Whether this is not the first attempt of its budget."""
        return self.budget_used > 0

    @property
    def lane(self) -> Lane:
        return Lane(self.client, self.receiver)


class AttemptRecord(Noun, frozen=True, kw_only=True):
    """An attempt and the state it moves its callback to, stored in one transaction."""

    claim: DueCallback
    attempt: Attempt
    next_attempt_at: int | None
    """When the next attempt is due; None where there is none."""
