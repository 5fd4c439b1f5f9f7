"""``make bench``: every figure with its target and a verdict, beside the peers, in one session on one machine.

Owns the targets, the order of the runs and the table. What is measured stands in ``figures.py``, the peers in
``peers/``. Peers and gateway take turns round by round, so that a noisy minute hits all of them; each figure is the
median of its rounds. A target that is missed is reported as missed; the exit status says only whether all was measured.
"""

import argparse
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import figures
import isolation
import picture
from harness import BESIDE, Median, Sides, disk_write_ms, median_of, pinned, start_sides
from postgres import NotAvailableError
from run_peers import PEERS, run

Values = dict[str, float]


@dataclass(frozen=True)
class Line:
    """One line of the table: a value of a measurement, and what it is to be."""

    value: str
    """``measurement.value``"""
    what: str
    unit: str
    target: float | None = None
    at_most: bool = False

    def met(self, value: float) -> bool | None:
        if self.target is None:
            return None
        return value <= self.target if self.at_most else value >= self.target


LINES = [
    Line("lives.lives_per_s", "lives: register, one poll, signed delivery", "/s", 3000),
    Line("lives.of_script", "… times the script people write", "x", 10),
    Line("lives.of_dbos", "… times DBOS on SQLite", "x", 40),
    Line("lives.of_procrastinate", "… times procrastinate on PostgreSQL", "x"),
    Line("lives.of_floor", "… times bare aiohttp, nothing else", "x"),
    Line("lives.cpu_us", "… CPU time each", "µs"),
    Line("lives-singly.lives_per_s", "lives, each registered by a request of its own", "/s"),
    Line("registrations.per_s", "registrations, single, 32 connections", "/s", 8000),
    Line("registrations.of_bare", "… times bare Starlette without storage", "x"),
    Line("batches.per_s", "registrations in batches of 500", "/s", 40_000),
    Line("polls.per_s", "polls of running tasks", "/s", 6000),
    Line("backlog.per_s", "deliveries from a backlog, one receiver", "/s", 5000),
    Line("backlog-100.per_s", "deliveries from a backlog, 100 receivers", "/s", 5000),
    Line("notice.median_ms", "poll answered → webhook received, median", "ms", 5, at_most=True),
    Line("notice.p99_ms", "… 99th percentile", "ms", 20, at_most=True),
    Line("isolation.ratio", "another receiver's p99 beside 500 that hang, times alone", "x", 2, at_most=True),
    Line("million.resident_mb", "watched tasks, many: resident", "MB", 200, at_most=True),
    Line("million.ratio", "… CPU time per poll times that at 1,000 tasks", "x", 1.2, at_most=True),
    Line("million.first_poll_s", "… start to first poll", "s", 5, at_most=True),
    Line("million.bytes_per_task", "… disk per task", "B", 1024, at_most=True),
    Line("idle.ready_s", "idle sidecar: ready", "s", 0.6, at_most=True),
    Line("idle.resident_mb", "… resident", "MB", 60, at_most=True),
    Line("idle.cpu_percent", "… of a core", "%", 0.2, at_most=True),
]


def measurements(options: argparse.Namespace) -> dict[str, Callable[[Sides], Values]]:
    """Return what can be measured, each with how one run of it is made."""
    quick = options.quick
    lives, backlog = (3000, 5000) if quick else (20_000, 100_000)
    return {
        "lives": lambda sides: figures.lives(sides, lives),
        "lives-singly": lambda sides: figures.lives(sides, lives // 2, singly=True),
        "registrations": lambda sides: figures.registrations(sides, lives, singly=True),
        "batches": lambda sides: figures.registrations(sides, lives * 3, singly=False),
        "bare": lambda sides: figures.bare_starlette(lives * 2),
        "polls": lambda sides: figures.polls(sides, 5000, 2 if quick else 10),
        "backlog": lambda sides: figures.backlog(sides, backlog, 1),
        "backlog-100": lambda sides: figures.backlog(sides, backlog, 100),
        "notice": lambda sides: figures.notice_to_delivery(sides, 100 if quick else 400),
        "isolation": lambda sides: isolation.measure(100 if quick else 300),
        "idle": lambda sides: figures.idle(2 if quick else 10),
        "million": lambda sides: figures.million(sides, 50_000 if quick else 1_000_000, seconds=3 if quick else 20),
    }


ONCE = {"million", "isolation"}
"""Too long for every round; what they compare is measured within one run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the measurements and peers, these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small counts and one round: whether it all runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    parser.add_argument("--picture", metavar="FILE", help="draw lives per second as SVG")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PYTHON", help="has the peers' packages")
    options = parser.parse_args()
    pinned(BESIDE)()
    report = measure(options)
    if options.picture:
        Path(options.picture).write_text(picture.lives(report["lives"]), encoding="utf-8")
    print(json.dumps(report) if options.json else markdown(report) if options.markdown else table(report))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the rounds; return all that was measured."""
    wanted = measurements(options)
    names = [name for name in (*wanted, *PEERS) if options.only is None or name in options.only]
    runs: dict[str, list[Values]] = {name: [] for name in names}
    missing: dict[str, str] = {}
    writes_ms = []
    with start_sides() as sides:
        for number in range(1 if options.quick else options.rounds):
            writes_ms.append(disk_write_ms())
            for name in names:
                if name in missing or (name in ONCE and number):
                    continue
                sys.stderr.write(f"\rround {number + 1}: {name:<20}")
                try:
                    runs[name].append(wanted[name](sides) if name in wanted else _peer(options, name, sides))
                except NotAvailableError as error:
                    missing[name] = str(error)
    sys.stderr.write("\r" + " " * 40 + "\r")
    found = {
        f"{name}.{value}": median_of(run[value] for run in its) for name, its in runs.items() if its for value in its[0]
    }
    _compare(found)
    return {
        "machine": machine() | {"disk_write_ms": median_of(writes_ms).median},
        "values": {name: {"median": m.median, "low": m.low, "high": m.high} for name, m in found.items()},
        "lives": {
            name: found[f"{name}.lives_per_s"].median
            for name in ("floor", "lives", "script", "procrastinate", "dbos")
            if f"{name}.lives_per_s" in found
        },
        "missing": missing,
    }


def _peer(options: argparse.Namespace, name: str, sides: Sides) -> Values:
    count = 300 if options.quick else None
    return run(SimpleNamespace(python=options.peers_python, count=count, concurrency=64), PEERS[name], sides)


def _compare(found: dict[str, Median]) -> None:
    """Add the ratios of medians."""
    pairs = [("lives", peer, "lives_per_s") for peer in PEERS] + [("registrations", "bare", "per_s")]
    for ours, peer, value in pairs:
        if f"{ours}.{value}" in found and f"{peer}.{value}" in found:
            ratio = found[f"{ours}.{value}"].median / found[f"{peer}.{value}"].median
            found[f"{ours}.of_{peer}"] = median_of([ratio])


def machine() -> dict[str, str | float]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def rows(report: dict[str, Any]) -> list[tuple[Line, dict[str, float], bool | None]]:
    values = report["values"]
    return [
        (line, values[line.value], line.met(values[line.value]["median"])) for line in LINES if line.value in values
    ]


def shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def target(line: Line) -> str:
    return "" if line.target is None else f"{'≤' if line.at_most else '≥'} {shown(line.target)}"


def table(report: dict[str, Any]) -> str:
    lines = [f"{'':<54} {'median':>9} {'':<3} {'lowest':>9} {'highest':>9}  {'target':<9} verdict"]
    for line, value, met in rows(report):
        verdict = "" if met is None else "met" if met else "MISSED"
        figures_ = f"{shown(value['median']):>9} {line.unit:<3} {shown(value['low']):>9} {shown(value['high']):>9}"
        lines.append(f"{line.what:<54} {figures_}  {target(line):<9} {verdict}")
    lines += [f"{name}: not available here: {why}" for name, why in report["missing"].items()]
    peers = ", ".join(f"{name} {shown(per_s)}" for name, per_s in report["lives"].items())
    return "\n".join([*lines, f"lives/s: {peers}", _where(report)])


def markdown(report: dict[str, Any]) -> str:
    lines = ["| | measured | target | |", "|---|---|---|---|"]
    for line, value, met in rows(report):
        verdict = "" if met is None else "met" if met else "**missed**"
        lines.append(f"| {line.what} | {shown(value['median'])} {line.unit} | {target(line)} | {verdict} |")
    return "\n".join([*lines, "", _where(report)])


def _where(report: dict[str, Any]) -> str:
    of = report["machine"]
    return (
        f"{of['cpu']}, {of['cores']} cores, Linux {of['kernel']}, Python {of['python']}, SQLite {of['sqlite']}; "
        f"one write reaches the disk in {of['disk_write_ms']:.2f} ms."
    )


if __name__ == "__main__":
    main()
