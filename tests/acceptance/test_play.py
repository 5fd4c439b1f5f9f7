"""`make play` as somebody runs it: what it prints leads to a dashboard, and Ctrl-C leaves nothing behind."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.commandline import LIMIT_S, environment
from tests.dashboard import Visitor
from tests.manual import ROOT


def left(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_dashboard_answers_and_webhooks_arrive(tmp_path: Path, number: signal.Signals) -> None:
    """With the token that is printed; stopped, it leaves no process and no file."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.play"), cwd=ROOT, env=environment(TMPDIR=str(tmp_path)), start_new_session=True,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            text = ""
            while "is well: taken" not in text:
                line = await process.stdout.readline()
                assert line, text + (await process.communicate())[1].decode()
                text += line.decode()
        url, token = re.findall(r"^dashboard +(http://\S+?)/\nsign in with +(\S+)$", text, re.MULTILINE)[0]
        assert left(tmp_path), "or nothing is proved below"
        async with Visitor(url) as visitor:
            assert (await visitor.sign_in(token)).status_code == 303
            assert "task-1" in await visitor.page("/dashboard/callbacks")
        os.killpg(process.pid, number)
        async with asyncio.timeout(LIMIT_S):
            _, told = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, told.decode()) == (0, "")
    assert left(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("lines", [0, 1])
async def test_it_ends_once_nobody_reads(tmp_path: Path, lines: int) -> None:
    """`make play | head -1` says nothing of a broken pipe, and leaves nothing behind."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.play"), cwd=ROOT, env=environment(TMPDIR=str(tmp_path)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            for _ in range(lines):
                assert await process.stdout.readline()
            process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
            assert process.stderr is not None
            told = await process.stderr.read()
            assert (await process.wait(), told.decode()) == (0, "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert left(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the machine has no /dev/full")
async def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """And the end of it, as of any command."""
    with Path("/dev/full").open("w") as full:  # noqa: ASYNC230 - a device
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.play"), cwd=ROOT, env=environment(TMPDIR=str(tmp_path)), stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            _, told = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, told.decode()) == (1, "The output cannot be written: No space left on device.\n")
    assert left(tmp_path) == []
