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


def modules_after(statement: str) -> list[str]:
    command = [sys.executable, "-c", f"import sys, {statement}; print(*sorted(sys.modules))"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=50).stdout.split()


@pytest.mark.parametrize("package", OURS)
def test_the_import_closure(package: str) -> None:
    """Of this package what it stands on, and no library of the server's."""
    modules = modules_after(f"gateway.{package}")
    ours = {name for name in modules if name.startswith("gateway.")}
    assert {name for name in ours if not f"{name}.".startswith(f"gateway.{package}.")} == OURS[package]
    assert [name for name in modules if name.split(".")[0] in SERVERS] == []
    assert ("httpx" in modules) is (package == "client")


def test_the_dependency_for_fastapi_brings_starlette_alone() -> None:
    """It is imported on its own, where that is there."""
    modules = modules_after("gateway.receiver.starlette")
    assert {name.split(".")[0] for name in modules} & set(SERVERS) == {"starlette"}
    assert "gateway.api" not in modules
