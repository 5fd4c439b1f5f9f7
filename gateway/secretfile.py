"""The webhook secret that is made on the first start, in a file beside the database that only its owner may read.

Owns the file; used by the wiring where no secret is configured, and by the commands that verify.
"""

import os
from contextlib import suppress
from pathlib import Path

from gateway.errors import SecretError
from gateway.signature import make_secret

__all__ = ["load_or_make", "read", "secret_path"]


def secret_path(database: Path) -> Path:
    """Return where the secret of a database is kept: ``gateway.db`` → ``gateway.secret``."""
    beside = database.with_suffix(".secret")
    return beside if beside != database else database.with_name(database.name + ".secret")


def read(path: Path) -> str | None:
    """Return the secrets in the file, separated by spaces; None where there is no file."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise SecretError(f"The webhook secret in {path} cannot be read ({exc}).") from exc


def load_or_make(path: Path) -> str:
    """Return the secrets in the file, which is made with a new one, mode 0600, where there is none.

    Raises SecretError where it can be neither read nor made.
    """
    if not path.parent.is_dir():
        raise SecretError(f"There is no folder {path.parent} for the database: create it, or set GATEWAY_DATABASE_URL.")
    while (found := read(path)) is None:
        # Written aside and linked into place: whoever finds the file finds all of it, and the first one stays.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
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
            draft.unlink(missing_ok=True)
    return found
