"""The servers of one PostgreSQL database, and how a connection to each is asked for.

Owns what asyncpg is told, the password included, which it shows nobody. Called by ``session`` and, for its checks,
by the wiring before a start.
"""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from gateway.config.databaseurl import PostgresUrl, parse_postgres

_APPLICATION = "webhook-bridging-gateway"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Servers:
    """One database, on any of these servers."""

    def __init__(self, url: str, password: str | None = None) -> None:
        """Take the URL and the password, where that does not stand in it. Raises ValueError for a mistaken URL."""
        self._url: PostgresUrl = parse_postgres(url)
        self._password = password or self._url.password
        self.hosts = self._url.hosts
        self.target = self._url.target
        """``any``, ``primary`` or ``read-write``."""
        self.database, self.user = self._url.database, self._url.user

    def __str__(self) -> str:
        """Say where the database is, for everybody."""
        return str(self._url)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the files that the URL names, of which asyncpg says little or nothing."""
        for name, path in self._url.files.items():
            try:
                mode = Path(path).stat().st_mode
                with Path(path).open("rb"):
                    pass
            except OSError as exc:
                yield f"{name}={path}: {exc.strerror}; write the path of a file that the gateway may read"
            else:
                if name == "passfile" and mode & _OTHERS:
                    yield f"passfile={path}: others may read it, so that it does not count; chmod 600 {path}"

    def arguments(self, host: str, port: int) -> dict[str, Any]:
        """Return what ``asyncpg.connect`` is called with for one of the hosts."""
        options = self._url.options
        settings = {"application_name": options.get("application_name", _APPLICATION)}
        if "options" in options:
            settings["options"] = options["options"]
        arguments: dict[str, Any] = {
            "host": host,
            "port": port,
            "user": self.user,
            "password": self._password,
            "database": self.database,
            "passfile": options.get("passfile"),
            "server_settings": settings,
            "target_session_attrs": "any",
        }
        if options.get("sslrootcert") == "system":
            return {**arguments, "ssl": True}
        # Of these it hears only in a URL.
        return {**arguments, "dsn": f"postgresql:///?{urlencode(self._url.tls, quote_via=quote)}"}
