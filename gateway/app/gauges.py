"""The gauges that are read off the running parts whenever somebody asks for the metrics.

Owns which part each of them looks at; ``core.telemetry`` has their names. Called by ``build``.
"""

import math
import shutil
from functools import partial
from pathlib import Path

from gateway.app.shared import Shared
from gateway.core.telemetry import Metrics
from gateway.loops.deliverer import Deliverer
from gateway.loops.pauses import Pauses
from gateway.loops.poller import Poller
from gateway.upstream.key import UpstreamKey


def show_own(shared: Shared, deliverer: Deliverer, pauses: Pauses, database: Path | None) -> None:
    """Show what there is one of; ``database``: its file, None where it is a server's."""
    metrics, store, memory = shared.metrics, shared.store, shared.memory
    metrics.stale_writes = lambda: store.stale_writes
    metrics.store_failing.set_function(lambda: float((store.lost or store.failing) is not None))
    metrics.memory_used.set_function(lambda: memory.used)
    if database is not None:
        metrics.disk_free.set_function(partial(_free, database.parent))
    metrics.attempts_in_flight.set_function(lambda: float(deliverer.in_flight))
    metrics.receivers_failing.set_function(lambda: len(deliverer.failing.lanes))
    metrics.receivers_paused.set_function(lambda: len(pauses.lanes))


def show_upstream(metrics: Metrics, name: str, key: UpstreamKey, poller: Poller) -> None:
    """Show what each upstream has of its own."""
    for kind, budget in (("query", key.queries), ("create", key.creates)):
        metrics.budget_used.labels(name, kind).set_function(budget.used)
    for gauge in (metrics.waiting, metrics.poll_overdue_seconds):
        gauge.labels(name)  # stands at 0 from the start
    metrics.polls_in_flight.labels(name).set_function(lambda: float(poller.in_flight))
    metrics.upstream_nonsense.labels(name).set_function(lambda: float(poller.makes_no_sense))
    metrics.upstream_limited.labels(name).set_function(lambda: float(key.limited))


def _free(folder: Path) -> float:
    """Return which part of a folder's disk is free, from 0 to 1; NaN where that cannot be told."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return math.nan
    return disk.free / disk.total if disk.total else math.nan
