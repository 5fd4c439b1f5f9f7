"""What ``gateway top`` shows: figures of one moment, made of two looks at the metrics and of the callbacks owed.

Owns which metric means what; pure. Called by ``top``.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import msgspec
from httpx import InvalidURL

from gateway.core.urls import receiver_of

_FLAGS = {
    "gateway_upstream_refused": "refuses the key",
    "gateway_upstream_nonsense": "makes no sense",
    "gateway_upstream_limited": "allows less than is configured",
}


class Scrape(NamedTuple):
    """One scrape of the metrics."""

    at_s: float
    """By a clock that is never set."""
    samples: Sequence[tuple[str, Mapping[str, str], float]]
    """Name, labels and value of each."""

    @classmethod
    def of(cls, at_s: float, text: str) -> "Scrape":
        """Read Prometheus' text format. Raises ValueError."""
        from prometheus_client.parser import text_string_to_metric_families  # with what it needs, here alone

        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        # Another server may have others, of which no figure can be made.
        return cls(at_s, [(one.name, one.labels, one.value) for one in samples if isfinite(one.value)])

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of that name with these labels."""
        wanted = labels.items()
        return sum(value for its, has, value in self.samples if its == name and wanted <= has.items())

    def labels(self, name: str, label: str) -> list[str]:
        """Return the values that a label has, in the order in which they come."""
        return list(dict.fromkeys(has[label] for its, has, _ in self.samples if its == name and label in has))


class UpstreamFigures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One upstream."""

    name: str
    watched: int
    in_flight: int
    overdue_s: float
    polls_per_s: float
    budget_used: float
    """From 0 to 1; so is the next."""
    creates_used: float
    polled_here: bool
    wrong: list[str]


class ReceiverFigures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One receiver whose webhooks have failed and are owed still."""

    receiver: str
    owed: int
    attempts: int
    """Of the webhook with the most."""
    next_attempt_at: str | None
    last_error: str


class Figures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of one moment; rates and means are of the time between the two looks."""

    ready: bool
    reasons: list[str]
    version: str
    owed: int
    oldest_due_s: float
    dead: int
    attempts_in_flight: int
    delivered_per_s: float
    retried_per_s: float
    died_per_s: float
    lag_s: float | None
    """None where no attempt began meanwhile; so is the next."""
    attempt_s: float | None
    registered_per_s: float
    settled_per_s: float
    memory_bytes: int
    cpu_share: float
    """Of one core."""
    upstreams: list[UpstreamFigures]
    receivers: list[ReceiverFigures]
    receivers_unknown: str | None
    """Why nothing can be told of receivers; None where it can."""


def figures(
    before: Scrape, now: Scrape, reasons: Sequence[str], owed: Sequence[dict[str, Any]], unknown: str | None
) -> Figures:
    """Return the figures; ``owed``: the newest callbacks whose webhooks are owed, or ``unknown``: why not."""

    def rate(name: str, **labels: str) -> float:
        took_s = now.at_s - before.at_s
        # A counter that has become smaller is another process's.
        return max(now.value(name, **labels) - before.value(name, **labels), 0) / took_s if took_s > 0 else 0.0

    def mean(name: str) -> float | None:
        count = rate(f"{name}_count")
        return rate(f"{name}_sum") / count if count else None

    return Figures(
        ready=now.value("gateway_ready") == 1,
        reasons=list(reasons),
        version=", ".join(now.labels("gateway_build_info", "version")),
        owed=int(now.value("gateway_callbacks_pending")),
        oldest_due_s=now.value("gateway_oldest_due_seconds"),
        dead=int(now.value("gateway_callbacks_dead")),
        attempts_in_flight=int(now.value("gateway_attempts_in_flight")),
        delivered_per_s=rate("gateway_attempts_total", result="delivered"),
        retried_per_s=rate("gateway_attempts_total", result="retry"),
        died_per_s=rate("gateway_attempts_total", result="dead"),
        lag_s=mean("gateway_delivery_lag_seconds"),
        attempt_s=mean("gateway_attempt_seconds"),
        registered_per_s=rate("gateway_registrations_total", created="True"),
        settled_per_s=rate("gateway_tasks_settled_total"),
        memory_bytes=int(now.value("process_resident_memory_bytes")),
        cpu_share=rate("process_cpu_seconds_total"),
        upstreams=[
            UpstreamFigures(
                name=name,
                watched=int(now.value("gateway_tasks_waiting", upstream=name)),
                in_flight=int(now.value("gateway_polls_in_flight", upstream=name)),
                overdue_s=now.value("gateway_oldest_poll_overdue_seconds", upstream=name),
                polls_per_s=rate("gateway_polls_total", upstream=name),
                budget_used=now.value("gateway_budget_used_ratio", upstream=name, kind="query"),
                creates_used=now.value("gateway_budget_used_ratio", upstream=name, kind="create"),
                polled_here=now.value("gateway_leading", upstream=name) == 1,
                wrong=[words for flag, words in _FLAGS.items() if now.value(flag, upstream=name) == 1],
            )
            for name in now.labels("gateway_tasks_waiting", "upstream")
        ],
        receivers=_receivers(owed),
        receivers_unknown=unknown,
    )


def _receivers(owed: Sequence[dict[str, Any]]) -> list[ReceiverFigures]:
    """Return the receivers of webhooks that have failed, those with the most first."""
    failing: dict[str, list[dict[str, Any]]] = {}
    for callback in owed:
        if callback["attempts"] and callback["lastError"]:
            failing.setdefault(_receiver(callback["callbackUrl"]), []).append(callback)
    found = [
        ReceiverFigures(
            receiver=receiver,
            owed=len(its),
            attempts=max(one["attempts"] for one in its),
            next_attempt_at=min((one["nextAttemptAt"] for one in its if one["nextAttemptAt"]), default=None),
            last_error=its[0]["lastError"],
        )
        for receiver, its in failing.items()
    ]
    return sorted(found, key=lambda one: -one.owed)


def _receiver(url: str) -> str:
    try:
        return receiver_of(url)
    except (InvalidURL, ValueError):  # another server's answer
        return url
