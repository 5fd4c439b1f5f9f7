"""The manual's receivers, each run as its first line says, against a real gateway process and its real signer.

Next.js itself is not started here: its route handler is a module that exports functions of the web's own Request and
Response, and that module, with its types checked and taken off by TypeScript, is served by a few lines of Node.
"""

import asyncio
import os
import re
import shutil
import socket
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway.signature import Signer, make_secret, parse_secrets
from tests.crash.process import LIMIT_S, SECRET
from tests.manual import MANUAL, ROOT, TYPES, page

RECEIVERS = MANUAL / "receivers"
PYTHON = ROOT / ".venv-receivers" / "bin" / "python"
NODE = ROOT / "tests" / "node"
URL = "https://cdn.example.com/result.png"
OTHER = make_secret()
ODD = ("null", "[1]", '"text"', "7", '{"resultUrls":5}', '{"resultUrls":null}')
"""Results that upstreams send as well: ``resultJson`` may be any JSON."""


class Program(NamedTuple):
    """One receiver: the command that runs it, with {port} and {python} in it, and what it needs."""

    file: str
    command: str
    needs: bool
    reason: str
    bounded_by_itself: bool = False
    """Whether it is the file that says how large a webhook may be: nothing around it does."""


IN_PYTHON = (PYTHON.is_file(), "the frameworks are not in .venv-receivers: see `make .venv-receivers/.ready`")
IN_NODE = (
    shutil.which("node") is not None and (NODE / "node_modules" / "express").is_dir(),
    "node is not there, or express from npm is not: run `npm ci --prefix tests/node`",
)
IN_GO = (shutil.which("go") is not None, "go is not on PATH: on Debian, apt install golang-go")
PROGRAMS = [
    Program("fastapi_receiver.py", "{python} -m uvicorn fastapi_receiver:app --port {port}", *IN_PYTHON),
    Program("flask_receiver.py", "{python} -m flask --app flask_receiver run --port {port}", *IN_PYTHON),
    Program("django_receiver.py", "{python} django_receiver.py runserver --noreload {port}", *IN_PYTHON),
    Program("express_receiver.mjs", "node express_receiver.mjs", *IN_NODE),
    Program("nextjs_route.ts", "node serve_route.mjs nextjs_route.ts", *IN_NODE, bounded_by_itself=True),
    Program("receiver.go", "go run receiver.go", *IN_GO),
]
EACH = [pytest.param(one, id=one.file, marks=pytest.mark.skipif(not one.needs, reason=one.reason)) for one in PROGRAMS]


class Running:
    """A receiver that listens, and what it has printed."""

    def __init__(self, process: Process, url: str, errors: Path) -> None:
        self.process = process
        self.url = url
        self.errors = errors
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())
            self._news.set()

    def handled(self) -> Counter[str]:
        """Return how often each event was handled."""
        return Counter(line for line in self.lines if line.startswith(("succeeded ", "failed ", "abandoned ")))

    async def prints(self, line: str) -> None:
        """Wait until a line has been printed."""
        async with asyncio.timeout(LIMIT_S):
            while line not in self.lines:
                self._news.clear()
                await self._news.wait()

    async def listening(self) -> None:
        async with asyncio.timeout(2 * LIMIT_S):  # Go is compiled first
            while True:
                assert not self._reading.done(), f"it ended:\n{self.errors.read_text()}"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return


@asynccontextmanager
async def running(program: Program, folder: Path, secret: str) -> AsyncIterator[Running]:
    """Run a receiver as it stands in the manual, in a folder of its own, until the block ends."""
    shutil.copy(RECEIVERS / program.file, folder)
    shutil.copy(NODE / "serve_route.mjs", folder)
    (folder / "node_modules").symlink_to(NODE / "node_modules")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {"PYTHONPATH": str(ROOT), "WEBHOOK_SECRET": secret, "PORT": str(port), "GOCACHE": str(_go_cache())}
    words = program.command.format(port=port, python=PYTHON).split()
    errors = folder / "errors.txt"  # apart, as what two write at once to one pipe is mixed
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *words, cwd=folder, env=environ, stdout=PIPE, stderr=stderr, start_new_session=True
        )
    it = Running(process, f"http://127.0.0.1:{port}", errors)
    try:
        await it.listening()
        yield it
    finally:
        os.killpg(process.pid, 9)  # `go run` has the receiver for a child
        await process.wait()
        await it._reading


def _go_cache() -> Path:
    return ROOT / "build" / "go"


def signed(
    webhook_id: str,
    task_id: str,
    secret: str = SECRET,
    age_s: float = 0,
    param: str = "",
    kind: str = "failed",
    result: str = "null",
) -> dict[str, Any]:
    """Return a POST as the gateway's own signer makes it."""
    state, fail_msg = ("fail", '"no"') if kind == "failed" else ("success", "null")
    body = (
        f'{{"type":"task.{kind}","timestamp":"2026-11-23T10:00:33.120Z","data":{{"callbackId":"{webhook_id}",'
        f'"taskId":"{task_id}","state":"{state}","result":{result},"failCode":"501","failMsg":{fail_msg},'
        f'"param":"{param}","metadata":{{}}}}}}'
    ).encode()
    headers = Signer(parse_secrets(secret)).headers(webhook_id, int(time.time() - age_s), body)
    return {"content": body, "headers": headers | {"content-type": "application/json"}}


async def refused(client: httpx.AsyncClient) -> None:
    """Hold that a receiver takes nothing that its sender did not sign, or not now."""
    good = signed("cb_bad", "bad")
    changed = {"content": good["content"].replace(b'"no"', b'"yes"'), "headers": good["headers"]}
    renamed = {"content": good["content"], "headers": good["headers"] | {"webhook-id": "cb_other"}}
    unsigned = {"content": good["content"], "headers": {"content-type": "application/json"}}
    old, early = signed("cb_bad", "bad", age_s=400), signed("cb_bad", "bad", age_s=-400)
    for post in (signed("cb_bad", "bad", OTHER), changed, renamed, unsigned, old, early, {"content": b""}):
        answer = await client.post("/hooks", **post)
        assert answer.status_code == 401, (post, answer.text)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("program", EACH)
async def test_a_receiver(program: Program, world: Any) -> None:
    """It takes each kind of webhook once, however often it comes, and nothing that is not signed as it should be.

    A gateway process delivers, and sends one again; then posts signed here come, bad ones, and one many times at once.
    """
    folder = world.folder / "receiver"
    folder.mkdir()
    async with (
        running(program, folder, SECRET) as receiver,
        world.gateway() as gateway,
        httpx.AsyncClient(base_url=gateway.url, verify=False, trust_env=False, timeout=LIMIT_S) as api,
        httpx.AsyncClient(base_url=receiver.url, verify=False, trust_env=False, timeout=LIMIT_S) as client,
    ):
        ids = []
        for task_id, members in (
            ("sim-success-0-x", {}),
            ("sim-fail-0-x", {}),
            ("sim-success-60000-x", {"timeoutSeconds": 1}),
        ):
            body = {"taskId": task_id, "callbackUrl": f"{receiver.url}/hooks", **members}
            ids.append((await api.post("/v1/callbacks", json=body)).json()["id"])
        for callback_id in ids:
            await world.becomes(api, callback_id, "delivered")
        assert (await api.post(f"/v1/callbacks/{ids[0]}/redeliver")).status_code == 202
        await world.becomes(api, ids[0], "delivered")
        attempts = (await api.get(f"/v1/callbacks/{ids[0]}/attempts")).json()["data"]
        assert [attempt["result"] for attempt in attempts] == ["delivered", "delivered"]

        await refused(client)
        assert (await client.get("/hooks")).status_code in (404, 405)
        post = signed("cb_again", "again", f"{OTHER} {SECRET}")  # as while one secret takes another's place
        answers = await asyncio.gather(*(client.post("/hooks", **post) for _ in range(12)))
        assert {answer.status_code for answer in answers} <= {204, 503}
        assert (await client.post("/hooks", **post)).status_code == 204
        await receiver.prints("failed again no")
        large = "x" * 3_000_000  # more than many a framework takes, unless it is told to
        assert (await client.post("/hooks", **signed("cb_large", "large", param=large))).status_code == 204
        await receiver.prints("failed large no")
        if program.bounded_by_itself:
            huge = {"content": b"x" * (64 * 1024 * 1024 + 1), "headers": signed("cb_huge", "huge")["headers"]}
            assert (await client.post("/hooks", **huge)).status_code == 413
        for number, result in enumerate(ODD):
            post = signed(f"cb_odd{number}", f"odd{number}", kind="succeeded", result=result)
            answer = await client.post("/hooks", **post)
            assert answer.status_code == 204, (result, answer.text)
    handled = receiver.handled()
    odd = [line for line in handled if line.startswith("succeeded odd")]
    assert len(odd) == len(ODD), (receiver.lines, receiver.errors.read_text())
    assert set(handled.values()) == {1}, (receiver.lines, receiver.errors.read_text())
    assert [*sorted(handled)] == [
        "abandoned sim-success-60000-x timeout",
        "failed again no",
        "failed large no",
        next(line for line in handled if line.startswith("failed sim-fail-0-x ")),
        *sorted([f"succeeded sim-success-0-x {URL}", *odd]),
    ]


def test_the_page_has_every_receiver() -> None:
    """Each file has its row, with the command that the test runs it with; and each is run here."""
    rows = dict(re.findall(r"^\| .+? \| \[`\S+`\]\(receivers/(\S+)\) \| `(.+?)` \|", page("receivers"), re.MULTILINE))
    assert rows.keys() == {one.file for one in PROGRAMS} == {path.name for path in RECEIVERS.iterdir()}
    for one in PROGRAMS:
        told = rows[one.file].split()[0]
        assert told in (one.command.split()[0], "uvicorn", "flask", "python", "app/hooks/route.ts"), one.file
        first = (RECEIVERS / one.file).read_text("utf-8").splitlines()[0]
        assert rows[one.file] in first, one.file


PYTHON_BLOCKS = [
    (name, block)
    for name, text in [
        ("README", (ROOT / "README.md").read_text("utf-8")),
        *((name, page(name)) for name in ("webhook", "receivers")),
    ]
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("name", "block"), PYTHON_BLOCKS, ids=[name for name, _ in PYTHON_BLOCKS])
def test_each_block_in_python_verifies(name: str, block: str, tmp_path: Path) -> None:
    """With the request's body and headers at hand, and a secret in place of the dots; a bad signature raises."""
    post = signed("cb_1", "task_1")
    code = block.replace("whsec_…", SECRET).replace("webhook-ids.db", str(tmp_path / "ids.db"))
    names: dict[str, Any] = {"request_body": post["content"], "request_headers": post["headers"]}
    exec(compile(code, name, "exec"), names)
    assert "event" in names
    post = signed("cb_1", "task_1", OTHER)
    names = {"request_body": post["content"], "request_headers": post["headers"]}
    with pytest.raises(Exception, match=r"(?i)no (matching )?signature"):
        exec(compile(code, name, "exec"), names)


@pytest.mark.skipif(not IN_NODE[0], reason=IN_NODE[1])
async def test_the_block_in_javascript_verifies() -> None:
    """README's, as it stands there but for the secret."""
    [block] = re.findall(r"^```js\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for secret, printed in ((SECRET, "task_1"), (OTHER, "WebhookVerificationError")):
        post = signed("cb_1", "task_1", secret)
        given = f"const rawBody = {post['content'].decode()!r};\nconst headers = {post['headers']!r};\n"
        code = f"{given}{block.replace('whsec_…', SECRET)}\nconsole.log(event.data.taskId);"
        process = await asyncio.create_subprocess_exec(
            *("node", "--input-type=module", "-"), cwd=NODE, stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        out, _ = await process.communicate(code.encode())
        assert printed in out.decode()


@pytest.mark.skipif(
    not all(map(shutil.which, ("openssl", "xxd", "base64"))), reason="openssl, xxd or base64 is not on PATH"
)
async def test_by_hand(tmp_path: Path) -> None:
    """The commands of the manual print what stands behind ``v1,`` in the header."""
    [block] = re.findall(r"^```sh\n(.*?)^```$", page("webhook"), re.MULTILINE | re.DOTALL)
    post = signed("cb_1", "task_1")
    (tmp_path / "body.json").write_bytes(post["content"])
    told = {"WEBHOOK_ID": "cb_1", "WEBHOOK_TIMESTAMP": post["headers"]["webhook-timestamp"], "SECRET": SECRET}
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", block), cwd=tmp_path, env=os.environ | told, stdout=PIPE, stderr=STDOUT
    )
    out, _ = await process.communicate()
    assert f"v1,{out.decode().strip()}" == post["headers"]["webhook-signature"]


async def test_the_examples_in_python_have_types() -> None:
    """A strict checker finds nothing in them, where the frameworks have types of their own."""
    if not IN_PYTHON[0]:
        pytest.skip(IN_PYTHON[1])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mypy", "--config-file=", "--strict", f"--python-executable={PYTHON}"),
        *("--disable-error-code=import-untyped", "--allow-untyped-decorators", "--follow-imports=silent"),
        f"--cache-dir={TYPES / 'receivers'}",
        *(str(RECEIVERS / f"{name}_receiver.py") for name in ("fastapi", "flask", "django")),
        cwd=ROOT,
        stdout=PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
