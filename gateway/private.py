"""Files that only their owner may read and write, whatever the umask is: callback URLs hold tokens.

Owns the mode of every file that the gateway writes: the database with what belongs to it, its backup, the webhook
secret. Called by the store, the secret's file and the wiring.
"""

import os
import stat
from pathlib import Path

import structlog

__all__ = ["create", "tighten"]

_log = structlog.get_logger()


def create(path: Path) -> int:
    """Make a file, mode 0600, and return its descriptor, for writing. Raises FileExistsError, or another OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def tighten(path: Path) -> None:
    """Take from everybody but its owner what they may do with a file, where there is one, and say so.

    An older gateway, an editor, ``cp`` or Kubernetes' fsGroup left it like that. Whoever is not the owner cannot change
    it: then it is only said.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & 0o077:
            return
        path.chmod(mode & 0o700)
    except FileNotFoundError:
        return
    except OSError as exc:
        _log.warning("file.not_private", path=str(path), mode=f"{mode:04o}", error=exc.strerror)
    else:
        _log.warning("file.made_private", path=str(path), mode=f"{mode:04o}")
