"""How a session is shown: the table for a terminal, the manual's, and JSON, from which it can be shown again.

Owns the columns and how a number is written. Measures nothing.
"""

from dataclasses import dataclass, field
from typing import Any

from figures import Figure


@dataclass
class Report:
    machine: dict[str, str]
    quick: bool
    disk_write_ms: dict[str, float]
    """At the start and at the end: what a commit waits for."""
    others: dict[str, float]
    """Which share of all cores other processes had during each measurement, where that is known."""
    figures: list[Figure]
    failures: dict[str, str]
    """Measurements that failed, and why."""
    samples: list[dict[str, float]] = field(default_factory=list)
    """What a long run noted on its way."""

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"figures": [figure.as_json() for figure in self.figures]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Report":
        return cls(**value | {"figures": [Figure.from_json(figure) for figure in value["figures"]]})


def table(report: Report) -> str:
    head = ("figure", "median", "", "spread", "target", "verdict", "times its peers of the same session")
    rows = [head, *(_row(figure) for figure in report.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in (1, 3, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += ["", "How:"]
    hows: dict[str, list[str]] = {}
    for figure in report.figures:
        hows.setdefault(figure.how, []).append(figure.title)
    lines += [f"  {'; '.join(titles)}: {how}" for how, titles in hows.items() if how]
    lines += ["", *conditions(report)]
    lines += [f"FAILED  {name}: {why}" for name, why in report.failures.items()]
    return "\n".join(lines)


def markdown(report: Report) -> str:
    """Return the manual's table: what is the gateway's, with its peers as ratios."""
    lines = ["| figure | measured | spread | target | | beside it |", "|---|---|---|---|---|---|"]
    for figure in report.figures:
        if figure.peer:
            continue
        _, value, unit, spread, wanted, met, beside = _row(figure)
        lines.append(f"| {figure.title} | {value} {unit} | {spread} | {wanted} | {met} | {beside} |")
    peers = [f"{figure.title} {number(figure.value)}" for figure in report.figures if figure.peer and not figure.absent]
    if peers:
        lines += ["", f"Peers, per second: {', '.join(peers)}."]
    return "\n".join([*lines, "", *conditions(report)])


def conditions(report: Report) -> list[str]:
    machine, disk = report.machine, report.disk_write_ms
    server = any(figure.title == "procrastinate" and not figure.absent for figure in report.figures)
    beside = "load, upstream, receiver and procrastinate's PostgreSQL" if server else "load, upstream and receiver"
    lines = [
        f"{machine['processor']}; {machine['kernel']}; Python {machine['python']}; SQLite {machine['sqlite']}",
        f"The gateway, or a peer, alone on one core; {beside} on another. {_runs(report)}",
        f"One write of 4 kB reached the disk in {disk['start']:.2f} ms at the start, {disk['end']:.2f} ms at the end.",
    ]
    if report.others:
        shares = ", ".join(f"{max(share, 0):.0%} ({name})" for name, share in report.others.items())
        lines.append(f"Of both cores other processes had meanwhile: {shares}.")
    if report.quick:
        lines.append("Quick: the counts are too small for figures to rely on.")
    return lines


def _runs(report: Report) -> str:
    """Say how often it was measured; what takes long is measured less often than the rest."""
    counts = {len(figure.runs) for figure in report.figures if len(figure.runs) > 1}
    if not counts:
        return "One run of each."
    often = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"Medians of {often} runs; spread: from the lowest to the highest."


def number(value: float) -> str:
    """Write about three digits, which is more than a noisy machine can tell."""
    if abs(value) >= 1000:
        return f"{round(value, -1):,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def target(figure: Figure) -> str:
    return "" if figure.target is None else f"{figure.target.sign} {figure.target.value:,g}"


def verdict(figure: Figure) -> str:
    return {True: "met", False: "MISSED", None: ""}[figure.met]


def ratios(figure: Figure) -> str:
    return ", ".join(f"{number(times)}x {title}" for title, times in figure.peers.items())


def _row(figure: Figure) -> tuple[str, ...]:
    title = f"  {figure.title}" if figure.peer else figure.title
    if figure.absent:
        return title, "-", "", "", target(figure), "", f"not measured: {figure.absent}"
    spread = f"{figure.spread:.0%}" if len(figure.runs) > 1 else ""
    return title, number(figure.value), figure.unit, spread, target(figure), verdict(figure), ratios(figure)
