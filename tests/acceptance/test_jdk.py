"""The JDK's own HttpClient, which asks for an upgrade to HTTP/2 with every body, against a gateway process."""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="java is not on PATH")

POST = Path(__file__).parents[1] / "java" / "Post.java"


async def post(*arguments: str) -> list[tuple[int, Any]]:
    """POST bodies to URLs with one HttpClient; return each answer's status and body."""
    process = await asyncio.create_subprocess_exec("java", str(POST), *arguments, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    answers = [line.split(" ", 2) for line in out.decode().splitlines()]
    assert {version for version, _, _ in answers} == {"HTTP_1_1"}
    return [(int(status), json.loads(body)) for _, status, body in answers]


async def test_callbacks_are_registered(world: Any) -> None:
    """A registration and a create through the proxy arrive whole, and their webhooks come."""
    hooks = f"{world.receiver.url}/hooks"
    async with world.gateway() as gateway:
        callback = {"taskId": "sim-success-0-x", "callbackUrl": hooks, "metadata": {"text": "ü" * 2000}}
        create = {"model": "m", "callBackUrl": hooks, "input": {"prompt": "x" * 100_000}}
        registered, created = await post(
            *(f"{gateway.url}/v1/callbacks", json.dumps(callback)),
            *(f"{gateway.url}/api/v1/jobs/createTask", json.dumps(create)),
        )
        assert registered[0] == 201
        assert registered[1]["metadata"] == callback["metadata"]
        assert created[0] == 200
        assert created[1]["data"]["taskId"]
        await world.receiver.wait_for({registered[1]["id"]})
