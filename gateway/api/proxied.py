"""One upstream as the parts of its proxy see it: what they all work on.

Must not do anything itself. Made by the wiring, for ``proxy``, ``reading``, ``watching``, ``creating`` and ``passing``.
"""

import asyncio
from collections.abc import Callable

import msgspec

from gateway.config.profile import Proxy, RecordCall, record_call
from gateway.core.clock import Clock
from gateway.core.reads import ReadTask
from gateway.core.telemetry import Metrics
from gateway.store import Registry
from gateway.upstream.api import Upstream
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable


class Proxied(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream whose profile has calls to stand in for."""

    registry: Registry
    clock: Clock
    metrics: Metrics
    upstream: Upstream
    key: UpstreamKey
    timetable: Timetable
    poller_wake: asyncio.Event
    """Set when a place in the rate limit may have its time."""
    draining: asyncio.Event
    """Once it is set nothing more is created, and no read is held."""
    polls_here: Callable[[], bool]
    """Whether this process polls the upstream, and no other replica."""
    recheck_s: float
    """How often a held read looks for an end of which it is not told: another replica's."""
    has_replicas: bool
    """Whether other replicas may be at work beside this process."""

    def last_running(self, known: ReadTask) -> bytes | None:
        """Return what was last told of a running task, as far as it is not on disk.

        Where another replica polls it, only what is no older than its last poll: somebody may have been told that.
        """
        polled_at, last = known.task.last_polled_at, self.upstream.last_answers
        if polled_at is None or self.polls_here():
            return last.running(known.task.task_id)
        since = self.clock.monotonic() - (self.clock.now() - polled_at) / 1000
        return last.running(known.task.task_id, since)

    @property
    def calls(self) -> Proxy:
        calls = self.upstream.profile.proxy
        assert calls is not None  # noqa: S101 - the wiring looks first
        return calls

    @property
    def record_call(self) -> RecordCall:
        """The call by which clients read a task."""
        call = record_call(self.upstream.profile.request, self.calls)
        assert call is not None  # noqa: S101 - no profile is taken without
        return call
