"""The manual in a real browser: read in light, dark and narrow, searched by keyboard."""

from pathlib import Path
from typing import Any

import pytest

from tests.browsing import IN_A_BROWSER, browse
from tests.manual import MANUAL
from tests.running import running

pytestmark = IN_A_BROWSER

NOWHERE = "http://127.0.0.1:9"


async def read(tmp_path: Path, scenario: str, root: str = "", **more: Any) -> dict[str, Any]:
    """Play a scenario over the manual of a gateway below a path, whose clients have tokens: nobody is signed in."""
    async with running(tmp_path, NOWHERE, GATEWAY_TOKEN="token", GATEWAY_ROOT_PATH=root) as run:
        told = await browse(scenario, f"{str(run.client.base_url).rstrip('/')}{root}", **more)
    assert told["said"] == []
    steps: dict[str, Any] = told["steps"]
    return steps


@pytest.mark.parametrize("look", ["light", "dark", "narrow"])
@pytest.mark.parametrize("half", [0, 1])
async def test_a_checker_finds_nothing(tmp_path: Path, half: int, look: str) -> None:
    """On any page, in light and dark; nor is one too wide for a telephone, and each picture is shown."""
    names = sorted({path.stem for path in MANUAL.glob("*.md")} - {"index"} | {"calls", "search?q=disk+full", "search"})
    paths = [*(["/manual"] if half else []), *(f"/manual/{name}" for name in names[half::2])]
    await read(tmp_path, "read", paths=paths, look=look)


async def test_it_is_searched_by_keyboard(tmp_path: Path) -> None:
    """From the first page to the section, below a path too; a further word counts without a load."""
    steps = await read(tmp_path, "manual", root="/tools/gateway")
    assert "best first" in steps["first"]
    assert "best first" in steps["then"]
    assert steps["url"].endswith("/tools/gateway/manual/search?q=disk%20full")
    assert (steps["loads"], set(steps["marked"])) == (1, {"disk", "full"})
    assert steps["titles"][0] == steps["target"] == "The disk is full"
