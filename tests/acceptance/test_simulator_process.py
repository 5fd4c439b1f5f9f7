"""The simulated upstream as a process of its own: start, serve, stop."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests import forked
from tests.commandline import environment
from tests.manual import ROOT
from tests.waiting import a_moment

RECORD_INFO = "/api/v1/jobs/recordInfo"


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Any]:
    """Start the process, and see that it is gone at the end whatever the test did."""
    process = await forked.start("-m", "gateway", "simulate", *arguments, cwd=ROOT, env=environment())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def base_url_of(process: Any) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        line = (await process.stdout.readline()).decode()
    assert line.startswith("listening on http://127.0.0.1:")
    return line.removeprefix("listening on ").strip()


async def stop(process: Any, signum: int = signal.SIGTERM) -> tuple[int | None, bytes, bytes]:
    process.send_signal(signum)
    async with asyncio.timeout(10):
        out, err = await process.communicate()
    return process.returncode, out, err


async def test_it_starts_serves_and_ends_with_exit_0_on_sigterm() -> None:
    """One line tells where it listens, tasks run by their ids, options hold, and SIGTERM is a clean end."""
    async with running("--key", "k", "--rate", "2/60", "--seed", "1", "--retry-after-header") as process:
        base_url = await base_url_of(process)
        headers = {"authorization": "Bearer k"}
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=10) as client:
            assert (await client.get(f"{RECORD_INFO}?taskId=sim-never-x")).status_code == 401
            client.headers.update(headers)
            waiting = await client.get(f"{RECORD_INFO}?taskId=sim-never-x")
            assert waiting.json()["data"]["state"] == "waiting"
            ended = await client.get(f"{RECORD_INFO}?taskId=sim-success-0-x")
            assert ended.json()["data"]["state"] == "success"
            assert (await client.get(f"{RECORD_INFO}?taskId=sim-never-x")).headers["retry-after"] == "60"
            assert (await client.get("/_sim/stats")).json()["statuses"] == {"200": 2, "401": 1, "429": 1}
            # The client still holds its connection here.
            assert await stop(process) == (0, b"", b"")


async def test_durations_of_created_tasks_are_set_on_the_command_line() -> None:
    """With a median of 0 s every created task has ended by the time it is asked for, as the share says.

    One of a model with a median of its own has not.
    """
    async with running("--duration-median-s", "0", "--fail-share", "1", "--model", "slow", "3600") as process:
        base_url = await base_url_of(process)
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=10) as client:
            created = await client.post("/api/v1/jobs/createTask", json={"model": "m", "input": {}})
            task_id = created.json()["data"]["taskId"]
            assert (await client.get(f"{RECORD_INFO}?taskId={task_id}")).json()["data"]["state"] == "fail"
            slow = await client.post("/api/v1/jobs/createTask", json={"model": "slow", "input": {}})
            slow_id = slow.json()["data"]["taskId"]
            assert (await client.get(f"{RECORD_INFO}?taskId={slow_id}")).json()["data"]["state"] == "waiting"
        assert (await stop(process, signal.SIGINT))[0] == 0


async def test_a_reset_is_one_under_the_process_own_event_loop() -> None:
    """The half answer arrives before the reset under uvloop too."""
    async with running() as process:
        base_url = await base_url_of(process)
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=10) as client:
            await client.post("/_sim/faults", json=[{"kind": "reset"}])
            async with client.stream("GET", f"{RECORD_INFO}?taskId=sim-never-x") as response:
                assert response.status_code == 200
                with pytest.raises(httpx.ReadError):
                    await response.aread()
        assert await stop(process) == (0, b"", b"")


async def test_a_hanging_request_does_not_hold_up_the_end() -> None:
    """SIGTERM ends the process cleanly though a client waits for an answer that does not come."""
    async with running() as process:
        base_url = await base_url_of(process)
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as client:
            await client.post("/_sim/faults", json=[{"kind": "hang", "endpoint": "recordInfo"}])
            hanging = asyncio.create_task(client.get(f"{RECORD_INFO}?taskId=sim-never-x"))
            async with asyncio.timeout(10):
                while not (await client.get("/_sim/stats")).json()["faults"]:
                    await a_moment()
            assert await stop(process) == (0, b"", b"")
            assert isinstance((await asyncio.gather(hanging, return_exceptions=True))[0], httpx.TransportError)


async def test_a_taken_port_and_a_bad_option_are_told_in_one_line() -> None:
    """Exit 1 for the port, 2 for the option, no traceback."""
    async with running() as process:
        port = (await base_url_of(process)).rsplit(":", 1)[1]
        async with running("--port", port) as second:
            _, err = await second.communicate()
            assert second.returncode == 1
            assert err.startswith(b"Error: cannot listen on 127.0.0.1 port")
        for option, bad, says in (("--rate", "nonsense", b"requests/seconds"), ("--port", "99999", b"65535")):
            async with running(option, bad) as third:
                _, err = await third.communicate()
                assert third.returncode == 2
                assert says in err
                assert b"Traceback" not in err
