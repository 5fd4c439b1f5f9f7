"""Files that only their owner may read and write, whatever the umask is: callback URLs hold tokens.

Owns the mode of every file that the gateway writes: the database with what belongs to it, its backup, the webhook
secret. Must not touch those that an operator has written. Called by whoever makes or reads one.
"""

import os
import stat
from pathlib import Path

import structlog

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


def is_exposed(path: Path) -> bool:
    """Whether everybody on this machine may read a file, and its owner could change that.

    Not where a folder on the way is closed to others, nor on a file system that is read-only: so containers are given
    their secrets, alone with which they are.
    """
    try:
        found = path.resolve(strict=True)
        for_others = stat.S_ISREG(found.stat().st_mode) and found.stat().st_mode & stat.S_IROTH
        reached = all(folder.stat().st_mode & stat.S_IXOTH for folder in found.parents)
        return bool(for_others) and reached and not os.statvfs(found).f_flag & os.ST_RDONLY
    except OSError:
        return False
