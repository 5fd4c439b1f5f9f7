"""A real browser, driven by ``tests/node/browse.mjs``: Debian's Chromium, by Playwright's core from npm.

Owns where it is and how a scenario is played in it. Called by the tests in ``tests/browser``.
"""

import asyncio
import json
import os
import shutil
from typing import Any

import pytest

from tests.manual import ROOT

__all__ = ["IN_A_BROWSER", "browse"]

NODE = ROOT / "tests" / "node"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT_S = 120

IN_A_BROWSER = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.skipif(not (NODE / "node_modules" / "playwright-core").is_dir(), reason="needs npm ci in tests/node"),
    pytest.mark.timeout(LIMIT_S + 30),
]
"""What a module of such tests is marked with."""


async def browse(scenario: str, url: str, **more: Any) -> dict[str, Any]:
    """Play a scenario in a browser and return what it told."""
    about = {"browser": BROWSER, "url": url, "pictures": os.environ.get("PICTURES"), **more}
    process = await asyncio.create_subprocess_exec(
        "node",
        "browse.mjs",
        scenario,
        cwd=NODE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            told, _ = await process.communicate(json.dumps(about).encode())
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    found: dict[str, Any] = json.loads(told)
    assert "failed" not in found, found["failed"]
    assert found["elsewhere"] == [], "no request leaves the origin"
    assert found["dialogs"] == [], "nothing that was written executes"
    return found
