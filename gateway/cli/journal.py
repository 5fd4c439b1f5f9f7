"""What ``gateway import`` has had registered, in a file beside the one it reads: a line for each.

Owns the form of that file. It is written once the gateway has answered, so whatever ends an import in between, the same
command may register something once more, which changes nothing, and leaves nothing out. Called by ``importing``.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

import click

from gateway.core import private
from gateway.core.errors import GatewayError

_DIGEST_BYTES = 16
_FIRST_LINE = re.compile(rb"[0-9a-f\0]*( [\w\0]*)?", re.ASCII)
"""Of a journal: also of one that was cut short, or that a power loss has left NULs in."""


class Journal:
    """The registrations that stand in a file, each by a digest of itself, of the gateway's URL and of the token."""

    def __init__(self, path: Path | None, url: str, token: str | None) -> None:
        """``path``: None keeps nothing. Raises click's UsageError where it cannot be read or written."""
        self._path = path
        self._key = hashlib.sha256((token or "").encode("utf-8", "surrogatepass")).digest()
        self._url = url.encode("utf-8", "surrogatepass")
        self._done: set[bytes] = set()
        self._file: FileIO | None = None
        if path is None:
            return
        try:
            self._open(path)
        except OSError as exc:
            raise click.UsageError(
                f"The journal {path} cannot be used ({exc.strerror}): name another with --journal."
            ) from exc

    def _open(self, path: Path) -> None:
        with suppress(FileExistsError):
            os.close(private.create(path))
        written = path.read_bytes()
        if not _FIRST_LINE.fullmatch(written.partition(b"\n")[0]):
            raise click.UsageError(f"{path} is no journal of an import: name another with --journal.")
        for line in written.splitlines():
            with suppress(ValueError):
                self._done.add(bytes.fromhex(line.partition(b" ")[0].decode("ascii")))
        self._file = path.open("ab", buffering=0)
        if written and not written.endswith(b"\n"):  # killed in the middle of a line
            self._file.write(b"\n")

    def __contains__(self, content: bytes) -> bool:
        return self._digest(content) in self._done

    def add(self, registered: Iterable[tuple[bytes, str]]) -> None:
        """Keep what the gateway has registered, each with the callback's id; on disk when this returns.

        Raises GatewayError.
        """
        lines = []
        for content, callback_id in registered:
            digest = self._digest(content)
            self._done.add(digest)
            lines.append(f"{digest.hex()} {callback_id}\n")
        if self._file is not None and lines:
            try:
                self._file.write("".join(lines).encode("utf-8", "replace"))
                os.fsync(self._file.fileno())
            except OSError as exc:
                raise GatewayError(
                    f"The journal {self._path} cannot be written: {exc.strerror}. "
                    "Nothing is lost: what it does not name is sent once more, which changes nothing."
                ) from exc

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _digest(self, content: bytes) -> bytes:
        # With the token as the key, as other clients' registrations are others; what is kept tells nothing of it.
        return hashlib.blake2b(self._url + b"\0" + content, digest_size=_DIGEST_BYTES, key=self._key).digest()
