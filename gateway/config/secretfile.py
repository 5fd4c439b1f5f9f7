"""The webhook secret that is made on the first start, in a file beside the database that only its owner may read.

Owns the file, and that it counts where no secret is configured: for the gateway as for commands that verify.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.core import private
from gateway.core.errors import SecretError
from gateway.core.model import CallbackState
from gateway.core.textfile import read_text
from gateway.signature import Signer, make_secret, parse_secrets

NOT_SHARED = (
    "GATEWAY_WEBHOOK_SECRET: not set; replicas that share a database sign with the same secret, and none is made for "
    "them: set it, on each of them, to what `gateway make-secret` prints"
)
_OWED = (CallbackState.WAITING, CallbackState.PENDING, CallbackState.DEAD)
"""Whose webhooks are still to be signed; a dead one may be redelivered."""


def secret_path(database: Path) -> Path:
    """Return where the secret of a database is kept: ``gateway.db`` → ``gateway.secret``."""
    beside = database.with_suffix(".secret")
    return beside if beside != database else database.with_name(database.name + ".secret")


def in_use(configured: Sequence[str] | None, database: Callable[[], Path | None]) -> str | None:
    """Return the secrets, separated by spaces: those configured, else those beside the database; None with neither.

    ``database`` is asked only where none are configured; None: it is a server's, and nothing is beside it. Raises
    SecretError.
    """
    if configured:
        return " ".join(configured)
    path = database()
    return None if path is None else read(secret_path(path))


def read(path: Path) -> str | None:
    """Return the secrets in the file, separated by spaces; None where there is no file, nor a link of its name.

    Raises SecretError where they cannot be read, or nothing can be signed with them.
    """
    try:
        found = read_text(path).strip()
    except FileNotFoundError:
        if path.is_symlink():  # no new secret could take its name
            raise SecretError(f"{path} leads to a file that is not there. {_advice(path)}") from None
        return None
    except UnicodeDecodeError as exc:
        raise SecretError(f"The webhook secret in {path} cannot be read ({exc.reason}). {_advice(path)}") from exc
    except OSError as exc:
        why = exc.strerror or exc
        raise SecretError(f"The webhook secret in {path} cannot be read ({why}): let this user read the file.") from exc
    if not found:
        raise SecretError(f"The webhook secret's file {path} is empty. {_advice(path)}")
    try:
        Signer(parse_secrets(found))
    except SecretError as exc:
        raise SecretError(f"The webhook secret in {path} cannot be used: {exc.message}.") from exc
    return found


def make(path: Path, callbacks: Mapping[CallbackState, int]) -> str:
    """Keep a new secret in the file, mode 0600, and return it; one that another process has just kept there stays.

    ``callbacks`` is how many the database has in each state: where it owes webhooks, nothing is made. Their receivers
    would refuse them, one by one, for days. Raises SecretError, which says what to do.
    """
    if (problem := missing(path, callbacks)) is not None:
        raise SecretError(problem)
    # Written aside and linked into place: whoever finds the file finds all of it, and the first one stays.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(private.create(draft), "w", encoding="utf-8") as file:
            file.write(make_secret() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or a power loss forgets the name
        finally:
            os.close(folder)
    except OSError as exc:
        raise SecretError(
            f"No webhook secret is configured, and none can be kept in {path} ({exc}). "
            "Set GATEWAY_WEBHOOK_SECRET, or let this user write there."
        ) from exc
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    found = read(path)
    if found is None:
        raise SecretError(f"{path} was made, and is gone again. {_advice(path)}")
    return found


def missing(path: Path, callbacks: Mapping[CallbackState, int]) -> str | None:
    """Return why no new secret may take a missing file's place; None where the database owes nothing."""
    owed = ", ".join(f"{callbacks[state]} {state.value}" for state in _OWED if callbacks.get(state))
    if not owed:
        return None
    return (
        f"{path} is missing, and the database beside it owes webhooks ({owed}): "
        f"their receivers would refuse a new secret. {_advice(path)}"
    )


def _advice(path: Path) -> str:
    return (
        "Put it back from your backup, or set GATEWAY_WEBHOOK_SECRET to the secret that receivers verify with. "
        f"To choose a new one: gateway make-secret > {path}, and give it to every receiver."
    )
