"""Large pages that nobody reads: they wait for room before they are made, as all that is large does."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.life import SECRET
from tests.running import running
from tests.sqlitefile import opened
from tests.storing import new, often_tried
from tests.unread import first_begun, keep_send_buffers_small, large_answers, unread
from tests.waiting import until

NOWHERE = "http://127.0.0.1:9"
MIB = 1024 * 1024
CROWD = 10


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_send_buffers_small(monkeypatch)


async def test_strangers_who_do_not_read_the_manual_hold_a_part_of_the_room(tmp_path: Path) -> None:
    """The page of all calls needs no token: however many ask for it, their answers have what is nobody's."""
    async with (
        running(tmp_path, NOWHERE, GATEWAY_TOKEN="token", GATEWAY_MEMORY_BYTES=str(MIB)) as run,
        AsyncExitStack() as crowd,
    ):
        readers = [await crowd.enter_async_context(unread(run.url, "/manual/calls")) for _ in range(CROWD)]
        memory = run.gateway.memory
        await until(lambda: len(memory._holders) == CROWD)
        assert await first_begun(readers) == b"HTTP/1.1 200"
        assert len(large_answers()) == 2, "of 130 kB, and half as much behind each, two have room in three eighths"
        assert {group[0] for group in memory._held if group} == {"no client"}
        assert (await run.client.get("/manual/errors")).status_code == 200
        await crowd.aclose()
        await until(lambda: not memory._held)
        assert (await run.client.get("/manual/calls")).text.rstrip().endswith("</html>")


async def test_of_a_crowd_at_a_time_line_nobody_keeps_a_page_while_it_waits(tmp_path: Path) -> None:
    """Its 200 excerpts take five bytes a character on the page, and are read again once there is room for them."""
    async with opened(tmp_path / "gateway.db") as store:
        callback = await often_tried(store, 200, "&" * 1024, new(client="default"))
    path = f"/dashboard/callbacks/{callback.id}"
    settings = {"GATEWAY_MEMORY_BYTES": str(MIB), "GATEWAY_WEBHOOK_SECRET": SECRET}
    async with running(tmp_path, NOWHERE, **settings) as run, AsyncExitStack() as crowd:
        readers = [await crowd.enter_async_context(unread(run.url, path)) for _ in range(CROWD)]
        memory = run.gateway.memory
        await until(lambda: len(memory._holders) == CROWD)
        assert await first_begun(readers) == b"HTTP/1.1 200"
        assert len(large_answers()) == 1
        assert {group[0] for group in memory._held if group} == {"client default"}
        await crowd.aclose()
        await until(lambda: not memory._held)
        assert (await run.client.get(path)).text.count("&amp;" * 1024) == 200
