"""Logs and metrics: their set-up and their names.

Owns every metric and the log format. A log line is an event name and fields; never a secret, a body, or a URL's query
string.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.clock import SystemClock, to_iso

__all__ = ["METRICS_CONTENT_TYPE", "Metrics", "configure_logging"]

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Every metric of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        names: dict[str, Any] = {"registry": self.registry}
        self.registrations = Counter(
            "gateway_registrations", "Registrations answered, by whether one was created.", ["created"], **names
        )
        self.polls = Counter("gateway_polls", "Polls made, by what they came to.", ["upstream", "kind"], **names)
        self.poll_seconds = Histogram(
            "gateway_poll_seconds", "How long the upstream took to answer a poll.", ["upstream"], **names
        )
        self.upstream_refused = Gauge(
            "gateway_upstream_refused", "1 while the upstream refuses the key, else 0.", ["upstream"], **names
        )
        self.settled = Counter("gateway_tasks_settled", "Tasks that ended, by state.", ["upstream", "state"], **names)
        self.attempts = Counter("gateway_attempts", "Webhook attempts, by result.", ["result"], **names)
        self.attempt_seconds = Histogram("gateway_attempt_seconds", "How long an attempt took.", **names)
        self.delivery_lag_seconds = Histogram(
            "gateway_delivery_lag_seconds", "From a webhook falling due to the start of its attempt.", **names
        )
        self.pending = Gauge("gateway_callbacks_pending", "Webhooks that are owed now.", **names)
        self.oldest_due_seconds = Gauge(
            "gateway_oldest_due_seconds", "For how long the longest due webhook has been due.", **names
        )
        self.loop_restarts = Counter(
            "gateway_loop_restarts", "Times a supervised loop failed and was restarted.", ["loop"], **names
        )
        self.proxied_requests = Counter(
            "gateway_proxied_requests",
            "Requests for the upstream's own calls, by what became of them.",
            ["call", "outcome"],
            **names,
        )
        self.ready = Gauge("gateway_ready", "1 while /readyz answers 200, else 0.", **names)

    def render(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)


def configure_logging(log_format: str | None, *, level: str = "info") -> None:
    """Log to standard error: coloured lines on a terminal, JSON elsewhere, unless a format is named."""
    if log_format is None:
        log_format = "console" if sys.stderr.isatty() else "json"
    shared: list[Any] = [structlog.processors.add_log_level, _add_timestamp]
    final: Any
    factory: Any
    if log_format == "json":
        # Two lines for each task's life: with structlog's own renderer and clock they were a fifth of its cost.
        shared.append(structlog.processors.format_exc_info)
        final = structlog.processors.JSONRenderer(serializer=_encode)
        factory = structlog.BytesLoggerFactory(file=sys.stderr.buffer)
    else:
        final = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        factory = structlog.WriteLoggerFactory(file=sys.stderr)
    structlog.configure(
        processors=[*shared, final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module: the same lines, from warnings up.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, final, _as_text],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


_clock = SystemClock()


def _add_timestamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["timestamp"] = to_iso(_clock.now())
    return event


def _encode(event: Any, **_: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _as_text(_logger: Any, _method: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)
