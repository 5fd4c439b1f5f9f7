"""Clients that generators make of ``/openapi.json``: what the manual shows, against a gateway over real sockets.

Each is made once, by the command in the manual, checked by its language's strictest checker, and run. The generators
stand in an environment of their own, or among the packages from npm; ``make test`` installs both.
"""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.described.asking import SCHEMATHESIS
from tests.described.served import TOKENS, described
from tests.manual import ROOT, TYPES, page

NODE = ROOT / "tests" / "node"
TOKEN = TOKENS[0]["GATEWAY_TOKEN"]
# What a client's author mistypes: each is a mistake to the compiler.
MISTAKES = """
import type { components } from "./gateway.js";
type Request = components["schemas"]["CallbackRequest"];
// @ts-expect-error a member that there is not
export const misspelt: Request = { taskID: "a", callbackUrl: "https://app.example.com/hooks" };
// @ts-expect-error a format that there is not
export const shapeless: Request = { taskId: "a", callbackUrl: "https://app.example.com/hooks", format: "both" };
// @ts-expect-error an upstream that there is not
export const elsewhere: Request = { taskId: "a", callbackUrl: "https://app.example.com/hooks", upstream: "nobody" };
// @ts-expect-error the same in a batch
export const batch: components["schemas"]["BatchRequest"] = { callbacks: [{ taskID: "a", callbackUrl: "b" }] };
export const whole: components["schemas"]["BatchRequest"] = { callbacks: [{ taskId: "a", callbackUrl: "b" }] };
export const code: components["schemas"]["Problem"]["code"] = "callback_not_allowed";
"""

pytestmark = pytest.mark.timeout(180)
python = pytest.mark.skipif(not SCHEMATHESIS.is_file(), reason="no .venv-openapi: run `make .venv-openapi/.ready`")
node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "openapi-typescript").is_dir(),
    reason="node is not there, or openapi-typescript from npm is not: run `npm ci --prefix tests/node`",
)


def shown(language: str, url: str) -> str:
    """Return the manual's example in a language, for this gateway and its token."""
    section = page("api").partition("\n## A client in your language\n")[2].partition("\n## ")[0]
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(code).replace("http://127.0.0.1:8080", url).replace("GATEWAY_TOKEN", TOKEN)


def command(tool: str, url: str) -> list[str]:
    """Return the manual's command that makes a client, without the one that fetches the tool."""
    [line] = re.findall(rf"^(?:npx )?({tool} .*http://127.0.0.1:8080/openapi.json.*)$", page("api"), re.MULTILINE)
    return str(line).replace("http://127.0.0.1:8080", url).split()


async def run(*program: str | Path, cwd: Path, **environ: str) -> str:
    """Return what a program that succeeds has written."""
    process = await asyncio.create_subprocess_exec(
        *program,
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    return told.decode()


@node
async def test_a_client_in_typescript(tmp_path: Path) -> None:
    """openapi-typescript makes types that tsc takes at its strictest, and that know mistakes; then it registers."""
    tools = NODE / "node_modules" / ".bin"
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    async with described(tmp_path, **TOKENS[0]) as gateway:
        url = str(gateway.client.base_url)
        tool, *arguments = command("openapi-typescript", url)
        await run(tools / tool, *arguments, cwd=tmp_path)
        (tmp_path / "client.ts").write_text(shown("ts", url))
        (tmp_path / "mistakes.ts").write_text(MISTAKES)
        options = ("--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--target", "es2022")
        await run(tools / "tsc", *options, "--module", "nodenext", "client.ts", "mistakes.ts", cwd=tmp_path)
        told = await run("node", "client.js", cwd=tmp_path)
        [callback] = (await gateway.client.get("/v1/callbacks?taskId=task_xxx")).json()["data"]
    assert told.split() == [callback["id"], "waiting"]
    assert callback["metadata"] == {"orderId": 7}


@python
async def test_a_client_in_python(tmp_path: Path) -> None:
    """openapi-python-client makes one without a warning, mypy takes it strictly; then it registers, and lists."""
    tools = SCHEMATHESIS.parent
    async with described(tmp_path, **TOKENS[0]) as gateway:
        url = str(gateway.client.base_url)
        tool, *arguments = command("openapi-python-client", url)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"  # it calls a formatter
        told = await run(tools / tool, *arguments, cwd=tmp_path, PATH=path)
        assert told.splitlines() == [f"Generating {tmp_path / 'webhook-bridging-gateway-client'}"], told
        (tmp_path / "example.py").write_text(shown("python", url))
        made = str(tmp_path / "webhook-bridging-gateway-client")
        # The generator casts what needs no cast.
        mypy = (
            "mypy",
            "--strict",
            "--no-warn-redundant-casts",
            "--python-executable",
            tools / "python",
            "--cache-dir",
            TYPES / "generated",
        )
        await run(sys.executable, "-m", *mypy, "example.py", cwd=tmp_path, MYPYPATH=made)
        told = await run(tools / "python", "example.py", cwd=tmp_path, PYTHONPATH=made)
        [callback] = (await gateway.client.get("/v1/callbacks?taskId=task_xxx")).json()["data"]
    first, listed = told.splitlines()
    assert first.split() == [callback["id"], "waiting"]
    assert listed.split()[0] == "task_xxx"
    assert len(listed.split()) == 6
