"""How far a long command is: a bar on a terminal, elsewhere a line for each tenth. Called by the longer commands.

Where nobody reads that any more, as behind ``| head -1``, the command goes on to its end all the same.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from gateway.core import terminal
from gateway.core.errors import OutputClosed

Advance = Callable[[int], None]
"""Told how many more are done."""


def progress(unit: str) -> "_ProgressBar | _ProgressLines":
    """Return what fits standard output; ``unit``: what is counted. Its ``stage`` begins one with so many, some done."""
    return _ProgressBar() if sys.stdout.isatty() else _ProgressLines(unit)


class _ProgressBar:
    """On a terminal."""

    @contextmanager
    def stage(self, name: str, length: int, done: int) -> Iterator[Advance]:
        with click.progressbar(length=length, label=f"{name:<9}", show_pos=True, width=0) as bar:
            bar.update(done)
            yield bar.update


class _ProgressLines:
    """Where no terminal is: a line for each tenth."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    @contextmanager
    def stage(self, name: str, length: int, done: int) -> Iterator[Advance]:
        tenth = done * 10 // length if length else 10

        def tell(more: int) -> None:
            nonlocal done, tenth
            done += more
            if done * 10 // length > tenth:
                tenth = done * 10 // length
                _print(f"{name}: {tenth * 10} % ({done:,} of {length:,} {self._unit})")

        _print(f"{name} {length:,} {self._unit}" + (f", of which {done:,} are there already" if done else ""))
        yield tell


def _print(line: str) -> None:
    try:
        click.echo(line)
    except OutputClosed:
        terminal.discard(sys.stdout)
