"""The schema's versions: which one a database has, which this gateway can work with, and the way from one to the next.

Owns ``migrations/`` and the ``schema`` row of ``meta``. Called by ``database`` when it is opened. Replicas of two
releases work on one database while one replaces the other: a migration must leave a schema with which the release
before can work, or say on its first line from which version on gateways can: ``-- Compatible with: 2``.
"""

import re
import secrets
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import asyncpg
import msgspec
import structlog

from gateway.core.errors import StoreUnusable
from gateway.store.postgres.errors import explain
from gateway.store.postgres.session import Session

_log = structlog.get_logger()

_LOCK = 7_239_158_324_105_641
"""Of whoever migrates; a number like any other."""
_LIMIT_S = 600
_LIMITS = f"SET LOCAL lock_timeout = '{_LIMIT_S}s'; SET LOCAL statement_timeout = '{_LIMIT_S}s'"
# Looking into a table has the session hear first what others have made meanwhile: to_regclass alone may know of old.
_IS_THERE = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('meta'))"
_SELECT = "SELECT value FROM meta WHERE key = 'schema'"
_UPSERT = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_INSERT = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
_COMPATIBLE = re.compile(r"-- Compatible with: (\d+)\n")


class SchemaVersion(msgspec.Struct, frozen=True):
    """What a database's schema is."""

    version: int
    compatible_with: int
    """The oldest version whose gateways can work with it."""


@cache
def migrations() -> dict[int, str]:
    """Return the scripts by the version that each leads to."""
    folder = files("gateway.store.postgres") / "migrations"
    scripts = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return {int(script.name.partition("_")[0]): script.read_text("utf-8") for script in scripts}


async def upgrade(session: Session, scripts: Mapping[int, str]) -> SchemaVersion:
    """Bring the database's schema to the last of the scripts, unless it is that far or farther; return what it is.

    In one transaction, one process at a time: others find it done. Raises StoreUnusable for a schema that this gateway
    cannot work with, or where it cannot be changed.
    """
    last = max(scripts)
    try:
        found = await stored_version(session)
        if found is None or found.version < last:
            found = await _migrate(session, scripts)
    except (asyncpg.exceptions.DuplicateTableError, asyncpg.exceptions.DuplicateFunctionError) as exc:
        raise StoreUnusable(
            f"The database has a table or function of the gateway's names, and is not the gateway's ({exc}). "
            "Name another database, or a schema of its own: ALTER ROLE … SET search_path."
        ) from exc
    except asyncpg.PostgresError as exc:
        if exc.sqlstate in ("42501", "3F000"):
            raise StoreUnusable(explain(exc).message) from exc
        raise
    if found.compatible_with > last:
        raise StoreUnusable(
            f"The database's schema is of version {found.version}, which gateways work with from version "
            f"{found.compatible_with} on; this one knows {last}. Start the newer release again."
        )
    return found


async def stored_version(session: Session) -> SchemaVersion | None:
    """Return what the schema is; None where there is none yet."""
    if not (await session.read(_IS_THERE))[0][0]:
        return None
    try:
        rows = await session.read(_SELECT)
        return msgspec.json.decode(rows[0][0], type=SchemaVersion) if rows else None
    except (asyncpg.exceptions.UndefinedColumnError, msgspec.MsgspecError, TypeError) as exc:
        raise StoreUnusable(
            f"The database has a table meta that is not the gateway's ({exc}). Name another database, or a schema of "
            "its own: ALTER ROLE … SET search_path."
        ) from exc


async def _migrate(session: Session, scripts: Mapping[int, str]) -> SchemaVersion:
    raw = session.raw
    async with raw.transaction(isolation="read_committed"):
        await raw.execute(f"{_LIMITS}; SELECT pg_advisory_xact_lock({_LOCK})", timeout=_LIMIT_S)
        there = await session.value(_IS_THERE)
        stored = await session.value(_SELECT) if there else None
        found = SchemaVersion(0, 0) if stored is None else msgspec.json.decode(stored, type=SchemaVersion)
        if found.version >= max(scripts):
            return found  # another process was first
        compatible_with = found.compatible_with
        for version, script in sorted(scripts.items()):
            if version <= found.version:
                continue
            await raw.execute(script, timeout=_LIMIT_S)
            said = _COMPATIBLE.match(script)
            compatible_with = int(said[1]) if said else compatible_with or version
        changed = SchemaVersion(max(scripts), compatible_with)
        await session.value(_UPSERT, "schema", msgspec.json.encode(changed))
        await session.value(_INSERT, "secret_key", secrets.token_bytes(32))
    _log.info("store.migrated", before=found.version, version=changed.version, compatible_with=compatible_with)
    return changed
