"""What many parts of a gateway are made with. Owns nothing; made by ``build``."""

from typing import NamedTuple

from gateway.core.clock import Clock
from gateway.core.memory import Memory
from gateway.core.telemetry import Metrics
from gateway.core.tracing import Tracing
from gateway.net.resolver import Resolver
from gateway.store import Store


class Shared(NamedTuple):
    """One gateway's."""

    store: Store
    clock: Clock
    metrics: Metrics
    memory: Memory
    resolver: Resolver
    replica: str
    """This process's name among those that share the database; it has none where it is alone."""
    tracing: Tracing | None
    """What makes spans; None: nothing does."""
