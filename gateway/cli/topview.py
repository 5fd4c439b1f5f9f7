"""The figures of ``gateway top`` as lines of text, none wider than the terminal. Called by ``top``."""

from collections.abc import Iterator
from typing import Any

from gateway.cli.figures import Figures
from gateway.cli.tables import distance, duration, table
from gateway.core.terminal import cut, printable

_BAR = 10


def lines(figures: Figures, *, now: int, width: int | None) -> list[str]:
    """Return what is shown of the figures; ``width``: of the terminal, None cuts nothing."""
    shown = [*_head(figures), "", *_upstreams(figures, width), "", *_receivers(figures, now, width)]
    return shown if width is None else [cut(line, width) for line in shown]


def _head(f: Figures) -> Iterator[str]:
    yield "ready" if f.ready else "NOT READY"
    for reason in f.reasons:
        yield printable(f"  {reason}")
    due = f", the oldest due for {duration(f.oldest_due_s)}" if f.oldest_due_s >= 1 else ""
    yield f"webhooks  {f.owed:,} owed{due}, {f.attempts_in_flight:,} in flight, {f.dead:,} dead"
    means = [
        f"{1000 * span:.0f} ms {what}" for span, what in ((f.lag_s, "late"), (f.attempt_s, "each")) if span is not None
    ]
    rates = f"{_rate(f.delivered_per_s)} delivered, {_rate(f.retried_per_s)} failed, {_rate(f.died_per_s)} dead"
    yield "          " + ", ".join([rates, *means])
    watched = sum(one.watched for one in f.upstreams)
    yield f"tasks     {watched:,} watched, {_rate(f.registered_per_s)} registered, {_rate(f.settled_per_s)} ended"
    yield printable(f"process   {f.memory_bytes / 1e6:.0f} MB, {f.cpu_share:.0%} of a core, version {f.version}")


def _upstreams(f: Figures, width: int | None) -> list[str]:
    columns: dict[str, list[Any]] = {
        "UPSTREAM": [one.name for one in f.upstreams],
        "WATCHED": [f"{one.watched:,}" for one in f.upstreams],
        "IN FLIGHT": [one.in_flight for one in f.upstreams],
        "OVERDUE": [duration(one.overdue_s) if one.overdue_s >= 1 else "" for one in f.upstreams],
        "POLLS": [_rate(one.polls_per_s) for one in f.upstreams],
        "BUDGET USED": [_bar(one.budget_used) for one in f.upstreams],
        "CREATES": [f"{one.creates_used:.0%}" for one in f.upstreams],
        "ERROR": [_wrong(one.wrong, one.polled_here) for one in f.upstreams],
    }
    return table(columns, width)


def _receivers(f: Figures, now: int, width: int | None) -> list[str]:
    if f.receivers_unknown is not None:
        return [printable(f"Of receivers nothing can be told: {f.receivers_unknown}")]
    if not f.receivers:
        return ["No receiver is in trouble."]
    columns: dict[str, list[Any]] = {
        "RECEIVER IN TROUBLE": [one.receiver for one in f.receivers],
        "OWED": [one.owed for one in f.receivers],
        "ATTEMPTS": [one.attempts for one in f.receivers],
        "NEXT": ["" if one.next_attempt_at is None else distance(one.next_attempt_at, now) for one in f.receivers],
        "LAST ERROR": [one.last_error for one in f.receivers],
    }
    return table(columns, width)


def _wrong(wrong: list[str], polled_here: bool) -> str:
    return ", ".join(wrong if polled_here else [*wrong, "another replica polls it"])


def _bar(share: float) -> str:
    full = round(min(max(share, 0), 1) * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {share:.0%}"


def _rate(per_s: float) -> str:
    return f"{per_s:.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"
