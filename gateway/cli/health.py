"""Whether a gateway on this machine makes progress, asked where its own settings say that it listens.

For a container's health check, which knows neither the port nor the file of settings that the gateway was given. Must
load little, because it is started every few seconds. Called by ``gateway.cli.commands``.
"""

import http.client
from collections.abc import Mapping
from pathlib import Path

from gateway.config.load import load_some
from gateway.core.errors import GatewayError

_TIMEOUT_S = 4.0
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked about, not listened on


def config_of(pid: int) -> Path | None:
    """Return the file of settings that a process's command line names; None where it names none, or cannot be read."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
    except (OSError, UnicodeDecodeError):
        return None
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--config":
            return Path(value if equals else words[number + 1])
    return None


def check(environ: Mapping[str, str], config_path: Path | None) -> str | None:
    """Return why the gateway with these settings is not well; None where it is."""
    try:
        where = load_some(environ, config_path, ("host", "port"))
    except GatewayError as exc:
        return exc.message
    host, port = where["host"], where["port"]
    # Directly, whatever proxy the environment names.
    connection = http.client.HTTPConnection(_REACHED_AT.get(host, host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        text = answer.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as exc:
        return f"No gateway answers at {host}, port {port} ({exc})."
    finally:
        connection.close()
    return None if answer.status == 200 else f"{answer.status}: {text}"
