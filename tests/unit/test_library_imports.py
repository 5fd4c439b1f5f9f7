"""What other programs import is light: nothing of the server comes with it."""

import subprocess
import sys

import pytest

OURS = {
    "client": {"gateway.core", "gateway.core.errors", "gateway.core.retryafter", "gateway.core.taskoutcome"},
    "receiver": {"gateway.core", "gateway.core.errors", "gateway.core.taskoutcome", "gateway.signature"},
}
SERVERS = (
    "aiosqlite",
    "asyncpg",
    "cryptography",
    "jinja2",
    "msgspec",
    "prometheus_client",
    "starlette",
    "structlog",
    "uvicorn",
)
SHOW = "import sys, gateway.{0}; print(*sorted(sys.modules))"


@pytest.mark.parametrize("package", OURS)
def test_the_import_closure(package: str) -> None:
    """Of this package what it stands on, and no library of the server's."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(package)], capture_output=True, text=True, check=True, timeout=50
    )
    modules = done.stdout.split()
    ours = {name for name in modules if name.startswith("gateway.")}
    assert {name for name in ours if not f"{name}.".startswith(f"gateway.{package}.")} == OURS[package]
    assert [name for name in modules if name.split(".")[0] in SERVERS] == []
    assert ("httpx" in modules) is (package == "client")
