"""The list of packages and what is known against them: by the tools of ``.venv-supply``, and a service that is here."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway import __version__
from gateway.serve.asgi import serve_asgi
from tests.manual import ROOT
from tests.release.audit import ask_pip_audit, verdict

TOOLS = ROOT / ".venv-supply" / "bin"
LOCK = (ROOT / "requirements.lock").read_text("utf-8")

pytestmark = [
    pytest.mark.skipif(not TOOLS.is_dir(), reason="the tools of requirements-supply.lock are not installed"),
    pytest.mark.timeout(180),  # they take seconds of processor time to start
]


def test_every_package_of_the_lock_is_listed(tmp_path: Path) -> None:
    """Each with its version and hashes, and the gateway with its own; what the schema refuses is not written."""
    words = (TOOLS / "python", "-m", "tests.release.sbom", tmp_path / "listed.json")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "listed.json").read_text("utf-8"))
    assert (found["bomFormat"], found["metadata"]["component"]["version"]) == ("CycloneDX", __version__)
    pinned = set(re.findall(r"^([\w-]+)==(\S+)", LOCK, re.MULTILINE))
    assert {(one["name"], one["version"]) for one in found["components"]} == pinned
    hashes = {one["content"] for each in found["components"] for one in each["externalReferences"][0]["hashes"]}
    assert hashes == set(re.findall(r"--hash=sha256:(\w+)", LOCK))


async def test_what_is_known_is_told(tmp_path: Path) -> None:
    """A vulnerability that the service tells of is found; a service that is gone clears nothing."""
    lock = tmp_path / "one.lock"
    lock.write_text("click==8.5.1 --hash=sha256:" + "0" * 64 + "\n", "utf-8")

    async def osv(scope: Any, receive: Any, send: Any) -> None:
        assert (await Request(scope, receive).json())["package"]["name"] == "click"
        affected = {"package": {"name": "click", "ecosystem": "PyPI"}, "ranges": [], "versions": ["8.5.1"]}
        known = {"id": "PYSEC-2026-1", "summary": "x", "aliases": [], "affected": [affected]}
        await JSONResponse({"vulns": [known]})(scope, receive, send)

    async def ask(url: str) -> int:
        def once(service: str, name: str) -> tuple[list[Any] | None, str]:
            return ask_pip_audit(service, name, f"--osv-url={url}/", tool=TOOLS / "pip-audit")

        return (await asyncio.to_thread(verdict, [str(lock)], ["osv"], once)).code

    async with serve_asgi(osv) as url:
        assert await ask(url) == 1
    assert await ask(url) == 3
