"""Commands that start cheaply: each a process of its own, forked from one that has imported what they import.

To import the gateway takes a process ten times as long as what most commands do then, and the tests start hundreds.
A command that begins here has its arguments, environment, folder and files as if it had been executed; how it begins
otherwise is for those tests to see that execute it. ``allow`` has ``start`` fork; else it executes, as ``make crash``
has it.

``python -m tests.forked FD`` is the process to fork from. Each request comes on a socket of its own, which is passed
over FD with the command's three files: the command, read to its end. Back go two numbers: the pid and, once it has
ended, the exit status.
"""

import asyncio
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["Process", "allow", "end", "execute", "run", "start"]

_ROOT = Path(__file__).parents[1]
_NUMBER = struct.Struct("i")
_IMPORTED = (
    "gateway.app.preflight",
    "gateway.cli.asking",
    "gateway.cli.client",
    "gateway.cli.commands",
    "gateway.cli.copydatabase",
    "gateway.cli.demo",
    "gateway.cli.listen",
    "gateway.cli.sendtest",
    "gateway.serve.process",
    "gateway.store.postgres.store",
)


class _Server:
    """The process to fork from, as those see it who ask it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                cwd=_ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
                | {"PYTHONPATH": str(_ROOT)},
            )  # fmt: skip
        self._socket = ours

    def fork(self, words: Sequence[str], cwd: Path, environ: Mapping[str, str], files: Sequence[int]) -> socket.socket:
        """Begin ``python WORDS``; return the socket that tells of it."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [b"."], [theirs.fileno(), *files])
        ours.sendall(json.dumps([list(words), str(cwd), dict(environ)]).encode())
        ours.shutdown(socket.SHUT_WR)
        return ours

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


_allowed = False
_server: tuple[int, _Server] | None = None
_starting = threading.Lock()


def allow() -> None:
    """Have commands forked from now on."""
    global _allowed
    _allowed = True


def end() -> None:
    """End the process that they are forked from, where this one has started it."""
    global _server
    if _server is not None and _server[0] == os.getpid():
        _server[1].end()
    _server = None


def _running() -> _Server:
    global _server
    if _server is None or _server[0] != os.getpid():  # a process that was forked for its tests starts its own
        _server = os.getpid(), _Server()
    return _server[1]


class Process:
    """A command that was forked, as ``asyncio.subprocess.Process`` has one."""

    def __init__(self, told: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._end = asyncio.create_task(self._ended(told), name="forked")

    async def _ended(self, told: socket.socket) -> int:
        with told:
            self.returncode = await _number(told)
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return what is left of its output, when it has ended."""
        pipes = (self.stdout, self.stderr)
        out, err = await asyncio.gather(*(pipe.read() if pipe is not None else _nothing() for pipe in pipes))
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        with suppress(ProcessLookupError):  # it has ended, and that is not told yet
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def _nothing() -> bytes:
    return b""


async def _number(told: socket.socket) -> int:
    number: int = _NUMBER.unpack(await asyncio.get_running_loop().sock_recv(told, _NUMBER.size))[0]
    return number


async def start(
    *words: str, cwd: Path, env: Mapping[str, str], merged: bool = False
) -> Process | asyncio.subprocess.Process:
    """Start ``python WORDS`` with nothing to read and with pipes, or with one for both where they are ``merged``."""
    if not _allowed:
        return await execute(*words, cwd=cwd, env=env, merged=merged)
    pipes = [os.pipe() for _ in range(1 if merged else 2)]
    ends = [end for _, end in pipes]
    with open(os.devnull, "rb") as nothing:  # noqa: ASYNC230, PTH123
        told = _running().fork(words, cwd, env, [nothing.fileno(), ends[0], ends[-1]])
    for one in ends:
        os.close(one)
    told.setblocking(False)
    process = Process(told, await _number(told))
    process.stdout, *others = [await _reader(one) for one, _ in pipes]
    process.stderr = others[0] if others else None
    return process


async def execute(*words: str, cwd: Path, env: Mapping[str, str], merged: bool = False) -> asyncio.subprocess.Process:
    """The same, in a process that begins with nothing."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *words), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
    )  # fmt: skip


async def _reader(pipe: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb", 0))
    return reader


def run(
    *words: str, cwd: Path, env: Mapping[str, str], stdin: str = "", timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run ``python WORDS`` to its end; raise ``subprocess.TimeoutExpired`` where that does not come."""
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        told = stack.enter_context(_running().fork(words, cwd, env, [file.fileno() for file in (given, out, err)]))
        (pid,) = _NUMBER.unpack(told.recv(_NUMBER.size))
        told.settimeout(timeout_s)
        try:
            (status,) = _NUMBER.unpack(told.recv(_NUMBER.size))
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(words), timeout_s) from None
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(list(words), status, out.read(), err.read())


class _Forks:
    """All that were forked, in the process that did."""

    def __init__(self, asked: socket.socket) -> None:
        self._asked = asked
        self._running: dict[int, socket.socket] = {}
        self._woken, wakes = socket.socketpair()
        self._files = [asked, self._woken, wakes]
        for one in (self._woken, wakes):
            one.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> tuple[list[str], str, dict[str, str], list[int]] | None:
        """Fork for each request until nobody can ask any more; in a child return what it is to be."""
        with selectors.DefaultSelector() as selector:
            for one in (self._asked, self._woken):
                selector.register(one, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                    self._reap()
                if self._asked in ready:
                    _, files, _, _ = socket.recv_fds(self._asked, 1, 4)
                    if not files:
                        return None
                    if (command := self._fork(socket.socket(fileno=files[0]), files[1:])) is not None:
                        return command

    def _fork(self, told: socket.socket, files: list[int]) -> tuple[list[str], str, dict[str, str], list[int]] | None:
        words, cwd, environ = json.loads(b"".join(iter(lambda: told.recv(65536), b"")))
        if pid := os.fork():
            for one in files:
                os.close(one)
            self._running[pid] = told
            self._tell(told, pid)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (told, *self._files, *self._running.values()):
            one.close()
        return words, cwd, environ, files

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._running.pop(pid) as told:
                self._tell(told, os.waitstatus_to_exitcode(status))

    def _tell(self, told: socket.socket, number: int) -> None:
        with suppress(OSError):  # nobody waits for it any more
            told.send(_NUMBER.pack(number))


def _become(words: list[str], cwd: str, environ: dict[str, str], files: list[int]) -> None:
    """Be ``python WORDS``: ``-u`` where it stands first, and ``-m MODULE`` with its arguments."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    unbuffered = words[0] == "-u" or bool(environ.get("PYTHONUNBUFFERED"))
    for name, number, errors in (("stdin", 0, "strict"), ("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        raw = io.FileIO(number, "wb" if number else "rb", closefd=False)
        raw.name = f"<{name}>"
        buffered = (raw if unbuffered else io.BufferedWriter(raw)) if number else io.BufferedReader(raw)
        text = io.TextIOWrapper(buffered, "utf-8", errors, line_buffering=number == 2, write_through=unbuffered)
        setattr(sys, name, text)
    os.chdir(cwd)
    sys.path[0] = cwd
    os.environ.clear()
    os.environ.update(environ)
    _, module, *sys.argv[1:] = words[words[0] == "-u" :]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Import, and fork until nobody asks any more."""
    for module in _IMPORTED:
        with suppress(ImportError):  # of a package that is not everywhere
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    if (command := _Forks(socket.socket(fileno=int(sys.argv[1]))).serve()) is not None:
        _become(*command)


if __name__ == "__main__":
    main()
