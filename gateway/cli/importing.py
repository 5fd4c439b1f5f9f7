"""``gateway import``: the registrations of a file, in batches, with what was refused at the end.

Owns how large a batch is, when one is sent again, and the report. What a line means stands in ``rows``, what was
registered before in ``journal``. Called by ``asking``.
"""

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import click

from gateway.cli.client import ApiError, RemoteGateway, Unreachable
from gateway.cli.commandline import tell
from gateway.cli.journal import Journal
from gateway.cli.progress import progress
from gateway.cli.rows import Refused, Row, read
from gateway.core.clock import SystemClock
from gateway.core.errors import GatewayError
from gateway.core.terminal import printable

_MOST = 500
_MOST_BYTES = 4 * 1024 * 1024
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_PATIENCE_S = 120.0
"""With no answer, or nothing but refusals for now, for so long it ends; the same command goes on from there."""
_SHOWN = 20


class _Tally:
    """What has become of the file's lines so far."""

    def __init__(self) -> None:
        self.registered = 0
        self.existing = 0
        self.skipped = 0
        self.refused: list[Refused] = []

    @property
    def all_(self) -> int:
        return self.registered + self.existing + self.skipped + len(self.refused)


class Import(NamedTuple):
    """What the command line asks for."""

    data: bytes
    name: str
    """The file's, to be shown."""
    callback_url: str | None
    report: Path | None
    as_json: bool


def refuse_one_file(named: Mapping[str, Path | None]) -> None:
    """Raise click's UsageError where two names mean one file: what is written would take the place of what is read."""
    paths = {name: path.resolve() for name, path in named.items() if path is not None}
    for (one, its), (other, path) in combinations(paths.items(), 2):
        if its == path:
            raise click.UsageError(f"{one} and {other} are one file, {path}: give each its own.")


def run(gateway: RemoteGateway, asked: Import, journal: Journal) -> dict[str, Any]:
    """Register all that the file has; return how many, with those refused, as the command's JSON has it.

    Raises ApiError where the gateway refuses to take any, or gives no answer for two minutes, and click's UsageError.
    """
    tally = _Tally()
    rows: list[Row] = []
    for row in read(asked.data, asked.callback_url):
        tally.refused.append(row) if isinstance(row, Refused) else rows.append(row)
    todo = list({row.content: row for row in rows if row.content not in journal}.values())
    tally.skipped = len(rows) - len(todo)
    report = None if asked.report is None else _open_report(asked.report)
    try:
        _send(gateway, todo, journal, tally, asked, len(rows) + len(tally.refused))
    except (GatewayError, KeyboardInterrupt):
        done = tally.registered + tally.existing
        tell(f"Stopped: {done:,} of {len(todo):,} are registered. The same command goes on from there.")
        raise
    finally:
        tally.refused.sort()
        if report is not None:
            _write_report(report, tally.refused)
    if not asked.as_json:
        _show(tally, asked.name)
    refused = [{"line": one.line, "code": one.code, "message": one.message} for one in tally.refused]
    counts = {"registered": tally.registered, "existing": tally.existing, "skipped": tally.skipped}
    return {**counts, "refused": refused}


def _send(
    gateway: RemoteGateway, todo: Sequence[Row], journal: Journal, tally: _Tally, asked: Import, length: int
) -> None:
    if asked.as_json:
        for batch in _batches(todo):
            _register(gateway, batch, journal, tally)
        return
    with progress("lines").stage("import", length, tally.skipped) as advance:
        if tally.refused:
            advance(len(tally.refused))
        for batch in _batches(todo):
            before = tally.all_
            _register(gateway, batch, journal, tally)
            advance(tally.all_ - before)


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == _MOST or size + len(row.content) > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.content)
    if batch:
        yield batch


def _register(gateway: RemoteGateway, batch: list[Row], journal: Journal, tally: _Tally) -> None:
    """Register a batch, and again what the gateway could not take for now, until it has spoken on each of its rows."""
    clock = SystemClock()
    heard = clock.monotonic()
    while batch:
        try:
            answers = gateway.register_batch([row.content for row in batch])
        except ApiError as error:
            if not error.passes or clock.monotonic() - heard > _PATIENCE_S:
                raise
            time.sleep(min(error.retry_after_s or _PAUSE_S, _LONGEST_PAUSE_S))
            if not isinstance(error, Unreachable) and error.status == 429:
                heard = clock.monotonic()  # it is well, and says when
            continue
        left = _judge(batch, answers, journal, tally)
        if left and len(left) == len(batch) and clock.monotonic() - heard > _PATIENCE_S:
            raise ApiError("The gateway takes no registrations at the moment: look at its log and at /readyz.")
        if left:
            time.sleep(_PAUSE_S)
        if len(left) < len(batch):
            heard = clock.monotonic()
        batch = left


def _judge(batch: list[Row], answers: list[dict[str, Any]], journal: Journal, tally: _Tally) -> list[Row]:
    """Note what became of each row; return those to be sent again."""
    left, taken = [], []
    for row, answer in zip(batch, answers, strict=True):
        status = answer["status"]
        if status in (200, 201):
            taken.append((row.content, str((answer.get("callback") or {}).get("id", ""))))
            tally.registered += status == 201
            tally.existing += status == 200
        elif status in (429, 503):
            left.append(row)
        else:
            error = answer.get("error") or {}
            tally.refused.append(Refused(row.line, str(error.get("code")), str(error.get("detail"))))
    journal.add(taken)
    return left


def _show(tally: _Tally, name: str) -> None:
    parts = [f"{tally.registered:,} registered"]
    if tally.existing:
        parts.append(f"{tally.existing:,} were registered already")
    if tally.skipped:
        parts.append(f"{tally.skipped:,} left out, as an earlier line or an earlier run has them")
    if tally.refused:
        parts.append(f"{len(tally.refused):,} refused")
    click.echo(f"{printable(name)}: {'; '.join(parts)}")
    for one in tally.refused[:_SHOWN]:
        click.echo(printable(f"line {one.line}: {one.code}: {one.message}"))
    if len(tally.refused) > _SHOWN:
        click.echo(f"… and {len(tally.refused) - _SHOWN:,} more; --report FILE has all of them")


def _open_report(path: Path) -> TextIO:
    """Open it before anything is sent: where it cannot be written, that is told at once."""
    try:
        return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise click.UsageError(f"The report {path} cannot be written: {exc.strerror}.") from exc


def _write_report(report: TextIO, refused: Sequence[Refused]) -> None:
    try:
        with report:
            csv.writer(report).writerows(chain([Refused._fields], refused))
    except OSError as exc:
        raise GatewayError(f"The report {report.name} cannot be written: {exc.strerror}.") from exc
