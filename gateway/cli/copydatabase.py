"""``gateway copy-database``: moves all data from one database to another, and shows how far it is.

Owns what is printed; how data is copied stands in ``gateway.store.copying``. Called by ``gateway.cli.commands``.
"""

import asyncio
from importlib.util import find_spec

import click

from gateway.cli.progress import progress
from gateway.config.parsers import database_url
from gateway.config.settings import database_path
from gateway.store.copying import CopySide, copy_database


def run(source_url: str, target_url: str, password: str | None) -> None:
    """Copy, and print what was copied; ``password`` is that of a PostgreSQL whose URL has none.

    Raises StoreError, and click's UsageError for what is no database's URL.
    """
    if source_url == target_url:
        raise click.UsageError("FROM and TO are the same database.")
    source, target = _side(source_url, "FROM", password), _side(target_url, "TO", password)
    click.echo(f"Copying {source.name} to {target.name}")
    for table in asyncio.run(copy_database(source, target, progress("rows"))):
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
