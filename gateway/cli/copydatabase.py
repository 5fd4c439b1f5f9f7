"""``gateway copy-database``: moves all data from one database to another, and shows how far it is.

Owns what is printed; how data is copied stands in ``gateway.store.copying``. Called by ``gateway.cli.commands``.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import click

from gateway.config.parsers import database_url
from gateway.config.settings import database_path
from gateway.store.copying import CopySide, copy_database

__all__ = ["run"]


def run(source_url: str, target_url: str, password: str | None) -> None:
    """Copy, and print what was copied; ``password`` is that of a PostgreSQL whose URL has none.

    Raises StoreError, and click's UsageError for what is no database's URL.
    """
    if source_url == target_url:
        raise click.UsageError("FROM and TO are the same database.")
    source, target = _side(source_url, "FROM", password), _side(target_url, "TO", password)
    click.echo(f"Copying {source.name} to {target.name}")
    progress = _ProgressBar() if sys.stdout.isatty() else _ProgressLines()
    for table in asyncio.run(copy_database(source, target, progress)):
        click.echo(f"{table.name:<10}{table.rows:>14,} rows  sha256 {table.sha256}")
    click.echo(f"Done: both hold the same. Nothing uses {source.name} any more: keep it until the gateway runs well.")


def _side(url: str, argument: str, password: str | None) -> CopySide:
    try:
        database_url(url)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint=argument) from exc
    if (path := database_path(url)) is None:
        if find_spec("asyncpg") is None:
            raise click.UsageError("PostgreSQL needs a package more: pip install 'asyncpg>=0.32,<0.33'")
        from gateway.store.postgres.copyside import PostgresCopySide

        return PostgresCopySide(url, password)
    from gateway.store.sqlite.copyside import SqliteCopySide

    return SqliteCopySide(path)


class _ProgressBar:
    """On a terminal."""

    @contextmanager
    def stage(self, name: str, rows: int, done: int) -> Iterator[Callable[[int], None]]:
        with click.progressbar(length=rows, label=f"{name:<9}", show_pos=True, width=0) as bar:
            bar.update(done)
            yield bar.update


class _ProgressLines:
    """Where no terminal is: a line for each tenth."""

    @contextmanager
    def stage(self, name: str, rows: int, done: int) -> Iterator[Callable[[int], None]]:
        tenth = done * 10 // rows if rows else 10

        def tell(more: int) -> None:
            nonlocal done, tenth
            done += more
            if done * 10 // rows > tenth:
                tenth = done * 10 // rows
                click.echo(f"{name}: {tenth * 10} % ({done:,} of {rows:,} rows)")

        click.echo(f"{name} {rows:,} rows" + (f", of which {done:,} are there already" if done else ""))
        yield tell
