"""Logs and metrics: their set-up and their names.

Owns every metric and the log format. A log line is an event name and fields; must never hold a secret, a body, or a
URL's query string. Set up by ``gateway.cli`` and ``gateway.app``; whoever counts is handed the ``Metrics``.
"""

import atexit
import logging
import math
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.clock import SystemClock, to_iso
from gateway.core.logsink import LogSink, as_text_file
from gateway.core.repeats import Repeats
from gateway.core.terminal import use_colour
from gateway.core.tracing import current

_log = structlog.get_logger()
_clock = SystemClock()
_sink: LogSink | None = None
_STANDARD_ERROR = 2
_FLUSH_S = 2.0
"""How long the end of the process may wait for the log's last lines."""

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
"""Up to the longest that an attempt or a poll usually may take."""
disable_created_metrics()  # type: ignore[no-untyped-call]  # each counter's time of birth, as one more line

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Every metric of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._count = partial(Counter, registry=self.registry)
        self._gauge = partial(Gauge, registry=self.registry)
        self._seconds = partial(Histogram, registry=self.registry, buckets=_BUCKETS_S)
        self._of_requests()
        self._of_polls()
        self._of_webhooks()
        self._of_events()
        self._of_the_process()

    def _of_requests(self) -> None:
        self.registrations = self._count(
            "gateway_registrations", "Registrations answered, by whether one was created.", ["created"]
        )
        self.proxied_requests = self._count(
            "gateway_proxied_requests",
            "Requests for the upstream's own calls, by what became of them.",
            ["call", "outcome"],
        )

    def _of_polls(self) -> None:
        self.polls = self._count("gateway_polls", "Polls made, by what they came to.", ["upstream", "kind"])
        self.poll_seconds = self._seconds(
            "gateway_poll_seconds", "How long the upstream took to answer a poll.", ["upstream"]
        )
        self.polls_in_flight = self._gauge("gateway_polls_in_flight", "Polls that wait for their answer.", ["upstream"])
        self.waiting = self._gauge("gateway_tasks_waiting", "Tasks that are watched.", ["upstream"])
        self.poll_overdue_seconds = self._gauge(
            "gateway_oldest_poll_overdue_seconds",
            "For how long the poll that is overdue the longest has been due.",
            ["upstream"],
        )
        self.budget_used = self._gauge(
            "gateway_budget_used_ratio",
            "Which part of the key's rate limit is used up, from 0 to 1: of its fullest window.",
            ["upstream", "kind"],
        )
        self.upstream_refused = self._gauge(
            "gateway_upstream_refused", "1 while the upstream refuses the key, else 0.", ["upstream"]
        )
        self.upstream_nonsense = self._gauge(
            "gateway_upstream_nonsense",
            "1 while what answers is not the upstream's API, or denies tasks that it has told of, else 0.",
            ["upstream"],
        )
        self.upstream_limited = self._gauge(
            "gateway_upstream_limited",
            "1 while the upstream allows fewer requests than are configured, by its own word, else 0.",
            ["upstream"],
        )
        self.leading = self._gauge("gateway_leading", "1 while this replica polls the upstream, else 0.", ["upstream"])
        self.lead_changes = self._count(
            "gateway_lead_changes", "Times this replica began or ceased to poll the upstream.", ["upstream"]
        )
        self.settled = self._count("gateway_tasks_settled", "Tasks that ended, by state.", ["upstream", "state"])

    def _of_webhooks(self) -> None:
        self.attempts = self._count("gateway_attempts", "Webhook attempts, by result.", ["result"])
        self.attempts_in_flight = self._gauge("gateway_attempts_in_flight", "Webhooks that are being sent.")
        self.client_certificate_ends = self._gauge(
            "gateway_client_certificate_ends_timestamp_seconds",
            "When the first certificate that receivers are shown ends, in seconds since 1970; 0 without any.",
        )
        self.egress_proxies_failing = self._gauge(
            "gateway_egress_proxies_failing",
            "Egress proxies of receivers and operator events that could not be used when last tried.",
        )
        self.attempt_seconds = self._seconds("gateway_attempt_seconds", "How long an attempt took.")
        self.delivery_lag_seconds = self._seconds(
            "gateway_delivery_lag_seconds", "From a webhook falling due to the start of its attempt."
        )
        self.abandoned = self._count(
            "gateway_callbacks_abandoned",
            "Callbacks that get task.abandoned, as their task was abandoned.",
            ["upstream"],
        )
        self.pending = self._gauge("gateway_callbacks_pending", "Webhooks that are owed now.")
        self.oldest_due_seconds = self._gauge(
            "gateway_oldest_due_seconds",
            "For how long the longest due webhook has been due whose receiver is not paused.",
        )
        self.receivers_paused = self._gauge(
            "gateway_receivers_paused", "Receivers that get no attempt until somebody resumes them."
        )
        self.receivers_failing = self._gauge("gateway_receivers_failing", "Receivers whose last attempt failed.")
        self.dead = self._gauge("gateway_callbacks_dead", "Dead callbacks: no attempt at their webhooks is left.")

    def _of_events(self) -> None:
        self.events = self._count("gateway_events", "Operator events, by what became of them.", ["result"])
        self.events_waiting = self._gauge("gateway_events_waiting", "Operator events that are to be sent yet.")
        self.events_failing = self._gauge(
            "gateway_events_failing", "1 while operator events wait that do not get through to their receiver, else 0."
        )

    def _of_the_process(self) -> None:
        self.loop_restarts = self._count(
            "gateway_loop_restarts", "Times a supervised loop failed and was restarted.", ["loop"]
        )
        self.ready = self._gauge("gateway_ready", "1 while /readyz answers 200, else 0.")
        self.store_failing = self._gauge(
            "gateway_store_failing", "1 while the database fails or its file is gone, else 0."
        )
        self.disk_free = self._gauge(
            "gateway_disk_free_ratio",
            "Which part of the database's disk is free, from 0 to 1; NaN where it is a PostgreSQL's.",
        )
        self.disk_free.set(math.nan)
        self.memory_used = self._gauge(
            "gateway_memory_used_ratio", "Which part of GATEWAY_MEMORY_BYTES is in use, 1 being all of it."
        )
        build = self._gauge("gateway_build_info", "Which gateway this is; always 1.", ["version", "python"])
        build.labels(__version__, ".".join(map(str, sys.version_info[:3]))).set(1)
        self.registry.register(
            _CountedElsewhere("gateway_log_lines_lost", "Lines of the log that could not be written.", _lost_lines)
        )
        self.stale_writes: Callable[[], int] = int
        """How many writes came too late to count, as the store tells."""
        stale = "Writes that changed nothing, as their task or webhook was another replica's by then."
        self.registry.register(_CountedElsewhere("gateway_stale_writes", stale, lambda: self.stale_writes()))
        self.registry.register(_ProcessFigures())

    def render(self) -> Iterator[bytes]:
        """Yield the text, of one family after the other: all of them take ten milliseconds."""
        return (generate_latest(_Family(family)) for family in self.registry.collect())


class _Family(Collector):
    """One, as it was collected."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


class _CountedElsewhere(Collector):
    """A counter that somebody else counts."""

    def __init__(self, name: str, documentation: str, count: Callable[[], int]) -> None:
        self._about = name, documentation
        self._count = count

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(*self._about, value=self._count())


class _ProcessFigures(ProcessCollector):
    """The process's own. They are read from files: where none can be opened any more, that is what they tell.

    Else the alert of files that run out would go by with the last file, and that of metrics that are gone come.
    """

    def __init__(self) -> None:
        super().__init__(registry=None)
        self._last = {family.name: family for family in super().collect()}

    def collect(self) -> Iterable[Metric]:
        seen = {family.name: family for family in super().collect()}
        if "process_open_fds" in self._last.keys() - seen.keys():
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            for name in ("process_open_fds", "process_max_fds"):
                seen[name] = GaugeMetricFamily(name, self._last[name].documentation, value=most)
        self._last |= seen
        return list(self._last.values())  # others may ask while these are written out


def _lost_lines() -> int:
    """Return what the log has lost, which is the process's, whichever gateway of it is asked."""
    return 0 if _sink is None else _sink.lost


def configure_logging(log_format: str | None, *, level: str = "info") -> None:
    """Log to standard error: coloured lines on a terminal, JSON elsewhere, unless a format is named.

    From here on nothing that is said there raises or waits, whoever says it: the package, its libraries, or Python
    itself (warnings, exceptions that nobody caught).
    """
    global _sink
    coloured = use_colour(sys.stderr)
    if log_format is None:
        log_format = "console" if os.isatty(_STANDARD_ERROR) else "json"
    _sink = sink = LogSink(_STANDARD_ERROR, recovered=_tell_lost)
    atexit.register(sink.flush, _FLUSH_S)
    sys.stderr = as_text_file(sink, _STANDARD_ERROR)

    lines = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error", "critical"), sink.line))
    structlog.configure(
        processors=[Repeats(_clock.monotonic), _render_json if log_format == "json" else _Console(coloured)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module. Below a warning they tell of every step, and with it of what is secret.
    logging.basicConfig(handlers=[_LibraryLines()], force=True)
    logging.root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


def name_spans() -> None:
    """Have each line of the log name the span that it belongs to, from now on."""
    # The list itself, as loggers that have said something keep it.
    structlog.get_config()["processors"].insert(0, _with_span)


def _with_span(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (span := current.get()) is not None:
        event["trace_id"], event["span_id"] = span.ids
    return event


def _tell_lost(lines: int) -> None:
    _log.warning("log.lines_lost", since_start=lines)


class _LibraryLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            told = {"exc_info": record.exc_info} if record.exc_info else {}
            _log.log(level, "library.logged", logger=record.name, message=record.getMessage(), **told)
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


# Two lines for each task's life: with structlog's own renderer and clock they were a fifth of its cost.


def _render_json(_logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    """Return the line, whatever stands in it."""
    try:
        event["level"] = method
        event["timestamp"] = to_iso(_clock.now())
        if "exc_info" in event:
            structlog.processors.format_exc_info(_logger, method, event)
        return msgspec.json.encode(event, enc_hook=repr)
    except Exception:  # noqa: BLE001 - half an emoji, or an object that cannot even say what it is
        return msgspec.json.encode({_as_text(name): _field(value) for name, value in event.items()})


class _Console:
    def __init__(self, coloured: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=coloured)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
        kept = dict(event)
        try:
            event["level"] = method
            event["timestamp"] = to_iso(_clock.now())
            return self._render(logger, method, event).encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 - as above
            return _render_json(logger, method, kept)


def _field(value: Any) -> Any:
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=repr))
    except Exception:  # noqa: BLE001 - as above
        return _as_text(value)


def _as_text(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as exc:  # noqa: BLE001 - as above
        text = f"<{type(value).__name__}, whose repr raised {type(exc).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()
