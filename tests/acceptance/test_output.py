"""Where the commands' output goes: pipes whose reader leaves, full disks, terminals, and Ctrl-C in between."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.signature import Signer, parse_secrets
from tests import commandline
from tests.commandline import command
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LISTEN = ("listen", "--port", "0", "--secret", SECRET)
LIMIT_S = 50
FULL = Path("/dev/full")

needs_full = pytest.mark.skipif(not FULL.exists(), reason="the machine has no /dev/full")


def environment(**environ: str) -> dict[str, str]:
    forgotten = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", *forgotten))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm"} | environ


def words(*given: str) -> list[str]:
    """Return the command line: the command's, or the simulator's where that is the first word."""
    if given[:1] == ("simulator",):
        return [sys.executable, "-m", "gateway", "simulate", *given[1:]]
    return [sys.executable, "-m", "gateway", *given]


def run(*given: str, cwd: Path, stdout: Any = subprocess.PIPE, stderr: Any = subprocess.PIPE, **environ: str) -> Any:
    return subprocess.run(
        words(*given), stdout=stdout, stderr=stderr, cwd=cwd, env=environment(**environ), timeout=LIMIT_S, check=False
    )


@contextmanager
def nobody_reads() -> Iterator[int]:
    """Yield the end of a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def webhook(at_s: int) -> dict[str, Any]:
    body = b'{"type":"task.failed","data":{"taskId":"t1","state":"fail"}}'
    return {"content": body, "headers": Signer(parse_secrets(SECRET)).headers("cb_9", at_s, body)}


KEY = {"GATEWAY_UPSTREAM_API_KEY": "key"}
PRINTING = [("--help",), ("--version",), ("list", "--help"), ("make-secret",), ("check-config",), ("demo",), LISTEN]
PRINTING += [("simulator",), ("simulator", "--help")]


@needs_full
@pytest.mark.parametrize("given", PRINTING, ids=" ".join)
def test_a_full_disk_is_one_line(tmp_path: Path, given: tuple[str, ...]) -> None:
    """What cannot be printed is one line on standard error and exit code 1, also where it shows at the very end."""
    with FULL.open("w") as full:
        done = run(*given, cwd=tmp_path, stdout=full, **KEY)
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode, "No space left" in line) == (1, True), line


@pytest.mark.parametrize("given", PRINTING, ids=" ".join)
def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path, given: tuple[str, ...]) -> None:
    """Nothing is said about it, and the exit code is 0, so that `set -o pipefail` goes on."""
    with nobody_reads() as writer:
        done = run(*given, cwd=tmp_path, stdout=writer, **KEY)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ((), 2),
        (("--nope",), 2),
        (("list", "--limit", "x"), 2),
        (("check-config",), 2),
        (("list",), 3),
        (("simulator", "--rate", "x"), 2),
        (("simulator", "--host", "192.0.2.1"), 1),
    ],
)
def test_an_error_that_cannot_be_told_keeps_its_code(tmp_path: Path, given: tuple[str, ...], status: int) -> None:
    """Standard error may be closed, full or unread: scripts still learn what happened."""
    environ = {"GATEWAY_PORT": "x" if given == ("check-config",) else "9"}
    with nobody_reads() as writer:
        assert run(*given, cwd=tmp_path, stderr=writer, **environ).returncode == status
    if FULL.exists():
        with FULL.open("w") as full:
            assert run(*given, cwd=tmp_path, stderr=full, **environ).returncode == status


def test_a_warning_that_cannot_be_told_changes_nothing(tmp_path: Path) -> None:
    """Nor does a note beside what was asked for: the settings are in order."""
    with nobody_reads() as writer:
        done = run("check-config", cwd=tmp_path, stderr=writer, GATEWAY_TOKEN="short", **KEY)
    assert (done.returncode, b"GATEWAY_PORT" in done.stdout) == (0, True)
    if FULL.exists():
        with FULL.open("w") as full:
            assert run("check-config", cwd=tmp_path, stderr=full, GATEWAY_TOKEN="short", **KEY).returncode == 0


@needs_full
async def test_what_a_gateway_answered_to_a_full_disk(world: Any, tmp_path: Path) -> None:
    """The client commands print in the same way: the table, the details and the JSON."""
    full = os.open(FULL, os.O_WRONLY)
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        callback = await world.register(client, "sim-never-0-full")
        for given in (("list",), ("list", "--json"), ("show", callback["id"]), ("cancel", callback["id"])):
            done = await asyncio.to_thread(run, *given, "--url", gateway.url, cwd=tmp_path, stdout=full)
            assert done.returncode == 1
            assert done.stderr.decode().splitlines() == ["The output cannot be written: No space left on device."]
        assert await gateway.stop() == 0
    os.close(full)


@asynccontextmanager
async def listening(cwd: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader, str]]:
    """Run `gateway listen`; yield it, the reader of its output and its URL."""
    process = await asyncio.create_subprocess_exec(
        *words(*LISTEN), cwd=cwd, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            line = (await process.stdout.readline()).decode()
            yield process, process.stdout, re.search(r"http://[0-9.:]+", line)[0]  # type: ignore[index]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_listen_ends_once_nobody_reads(tmp_path: Path) -> None:
    """`gateway listen | head -1` ends with 0 by itself, without waiting for one more webhook."""
    async with listening(tmp_path) as (process, _, _):
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert await process.wait() == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_ctrl_c_ends_listen_with_0(tmp_path: Path) -> None:
    """It is how it is meant to end."""
    async with listening(tmp_path) as (process, _, _):
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_listen_answers_nobody_500_when_its_reader_goes(tmp_path: Path) -> None:
    """Each webhook on its way while the output's reader leaves is taken, or finds nobody there any more."""
    async with listening(tmp_path) as (process, _, url), httpx.AsyncClient(base_url=url) as client:

        async def post() -> int:
            try:
                return (await client.post("/", **webhook(SystemClock().now() // 1000))).status_code
            except httpx.TransportError:
                return 0

        posts = [asyncio.create_task(post()) for _ in range(20)]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        statuses = set(await asyncio.gather(*posts))
        assert 204 in statuses
        assert statuses <= {204, 0}
        assert await process.wait() == 0


@needs_full
async def test_listen_on_a_full_disk_answers_and_ends_with_1(tmp_path: Path) -> None:
    """A webhook that cannot be printed ends it; that is not its sender's fault, who gets no 500."""
    limited = tmp_path / "out"
    command = "import resource, sys, gateway.cli.commands; resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150)); " + (
        f"sys.argv[1:] = {list(LISTEN)!r}; gateway.cli.commands.main()"
    )
    with limited.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-B", "-c", command),
            cwd=tmp_path,
            env=environment(),
            stdout=output,
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        async with asyncio.timeout(LIMIT_S), httpx.AsyncClient() as client:

            def address() -> re.Match[str] | None:
                assert process.returncode is None
                return re.search(r"http://[0-9.:]+(?=;)", limited.read_text())

            found = await until(address, LIMIT_S)
            assert (await client.post(found[0], **webhook(SystemClock().now() // 1000))).status_code == 204
            _, told = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, told) == (1, b"The output cannot be written: File too large.\n")


@pytest.mark.parametrize("given", [("demo",), ("list", "--url", "URL"), ("verify", "-", "/dev/null")])
def test_ctrl_c_is_130_without_a_traceback(tmp_path: Path, given: tuple[str, ...]) -> None:
    """Wherever a command is when it is told to stop; the demo in the middle of its tasks as well."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            words(*(word.replace("URL", url) for word in given)),
            cwd=tmp_path,
            env=environment(GATEWAY_WEBHOOK_SECRET=SECRET, PYTHONUNBUFFERED="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            if given[0] == "demo":
                assert process.stdout is not None
                assert b"simulated upstream" in process.stdout.readline()
            elif given[0] == "list":
                silent.settimeout(LIMIT_S)
                stack.enter_context(silent.accept()[0])  # it waits for an answer that does not come
            else:
                is_reading(process)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, told.strip()) == (130, b"")


def is_reading(process: subprocess.Popen[bytes]) -> None:
    """Return once the process reads its standard input."""
    assert process.stdin is not None
    process.stdin.write(b"{}")
    process.stdin.flush()
    while fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)) != bytes(4):
        pass


def on_terminal(*given: str, cwd: Path, columns: int = 80, **environ: str) -> str:
    """Run a command on a terminal of so many columns; return what it shows."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        words(*given), cwd=cwd, env=environment(**environ), stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(controller, 65536):
                shown += piece
        os.close(controller)
        assert process.wait(LIMIT_S) == 0, shown
    return shown.decode().replace("\r\n", "\n")


async def test_colour_is_for_terminals_that_want_it(tmp_path: Path) -> None:
    """The demo colours a terminal, but not with NO_COLOR, and a pipe only with FORCE_COLOR."""
    shown = await asyncio.gather(
        asyncio.to_thread(on_terminal, "demo", cwd=tmp_path),
        asyncio.to_thread(on_terminal, "demo", cwd=tmp_path, NO_COLOR="1"),
        asyncio.to_thread(run, "demo", cwd=tmp_path),
        asyncio.to_thread(run, "demo", cwd=tmp_path, FORCE_COLOR="1"),
    )
    texts = [text if isinstance(text, str) else text.stdout.decode() for text in shown]
    assert ["\x1b[32m✓" in text for text in texts] == [True, False, False, True]
    assert ["\x1b" in text for text in texts] == [True, False, False, True]


def test_an_encoding_without_the_characters_is_no_error(tmp_path: Path) -> None:
    """Where the output is Latin-1 they are escaped."""
    done = run("make-secret", "--help", cwd=tmp_path, PYTHONUTF8="0", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"(whsec_\\u2026)" in done.stdout


async def test_the_list_keeps_to_the_terminal_and_tells_what_comes_next(world: Any, tmp_path: Path) -> None:
    """A long URL widens no line of a terminal; a pipe gets the whole of it."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        url = f"{world.receiver.url}/{'long' * 100}"
        await world.register(client, "sim-never-0-wide", callbackUrl=url)
        at = ("list", "--url", gateway.url)
        shown = await asyncio.to_thread(on_terminal, *at, cwd=tmp_path, columns=100)
        assert max(map(len, shown.splitlines())) <= 100
        assert re.search(r"waiting .* poll (in [0-9]+ s|now|due)", shown)
        assert url in (await asyncio.to_thread(run, *at, cwd=tmp_path)).stdout.decode()
        assert await gateway.stop() == 0


async def test_what_keeps_an_upstream_from_being_asked_is_told(tmp_path: Path) -> None:
    """`list` and `show` take it from /readyz, red or green; where that has no reasons they do without."""
    callback = {
        "id": "cb_1",
        "taskId": "t",
        "callbackUrl": "https://a.example/",
        "metadata": {},
        "timeoutSeconds": 60,
        "upstream": "kie",
        "format": "standard",
        "state": "waiting",
        "createdAt": "2026-11-23T10:00:00.000Z",
        "attempts": 0,
        "expiresAt": "2026-11-23T10:01:00.000Z",
        "nextAttemptAt": None,
        "deliveredAt": None,
        "lastError": None,
        "task": {"state": "waiting", "polls": 0, "lastPolledAt": None, "nextPollAt": None, "lastError": None},
    }
    ready: list[tuple[int, Any]] = []

    async def other_gateway(scope: Any, receive: Any, send: Any) -> None:
        answers = {
            "/readyz": lambda: ready[-1],
            "/v1/callbacks": lambda: (200, {"data": [callback], "nextCursor": None}),
            "/v1/callbacks/cb_1": lambda: (200, callback),
            "/v1/callbacks/cb_1/attempts": lambda: (200, {"data": []}),
        }
        status, answer = answers[scope["path"]]()
        await JSONResponse(answer, status)(scope, receive, send)

    async with serve_asgi(other_gateway) as url:
        reasons = ["the upstream kie refuses the key", 7]
        for answer, told in [
            ((200, {"status": "ok", "reasons": reasons}), True),
            ((503, {"status": 503, "detail": "not ready", "reasons": reasons}), True),
            ((200, {"status": "ok", "reasons": []}), False),
            ((200, {"status": "ok"}), False),
            ((503, {"detail": "not ready", "reasons": "none"}), False),
            ((404, []), False),
        ]:
            ready.append(answer)
            for given in (("list",), ("show", "cb_1")):
                done = await command(*given, "--url", url, cwd=tmp_path)
                assert (done.returncode, done.stderr) == (0, "")
                assert ("refuses the key" in done.stdout) is told


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--tolerance-seconds", "nan"), "nan is not a finite number"),
        (("--tolerance-seconds", "inf"), "inf is not a finite number"),
        (("--tolerance-seconds", "1e400"), "1e400 is not a finite number"),
        (("--tolerance-seconds", "-1"), "-1.0 is not in the range"),
    ],
)
def test_a_tolerance_that_switches_the_check_off_is_refused(
    tmp_path: Path, given: tuple[str, ...], expected: str
) -> None:
    """A webhook of years ago must not verify because no age is more than NaN."""
    made = webhook(1_700_000_000)
    (tmp_path / "body").write_bytes(made["content"])
    (tmp_path / "headers").write_text("".join(f"{name}: {value}\n" for name, value in made["headers"].items()))
    done = commandline.run("verify", "body", "headers", "--secret", SECRET, *given, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr


def test_verify_reads_files_as_they_are_saved(tmp_path: Path) -> None:
    """A headers file in any encoding is read; a body that an editor ended with a newline is named as that."""
    made = webhook(SystemClock().now() // 1000)
    (tmp_path / "body").write_bytes(made["content"])
    lines = "x-name: caf\xe9\r\n" + "".join(f"{name}: {value}\r\n" for name, value in made["headers"].items())
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        (tmp_path / "headers").write_bytes(lines.encode(encoding))
        done = commandline.run("verify", "body", "headers", "--secret", SECRET, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (tmp_path / "body").write_bytes(made["content"] + b"\n")
    done = commandline.run("verify", "body", "headers", "--secret", SECRET, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a newline at its end" in done.stderr
    done = commandline.run("verify", "-", "-", "--secret", SECRET, cwd=tmp_path)
    assert (done.returncode, "Only one of BODY and HEADERS" in done.stderr) == (2, True)
