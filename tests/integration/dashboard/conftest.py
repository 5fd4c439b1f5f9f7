"""A gateway with its pages, for the tests of what they show."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.pagestand import World, world_at


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(
        tmp_path, GATEWAY_RETRY_SCHEDULE="0,0.1,3600", GATEWAY_CALLBACK_ALLOW="127.0.0.1,localhost"
    ) as made:
        yield made
