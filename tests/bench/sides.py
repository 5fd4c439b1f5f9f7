"""The two simulated sides of a benchmark in one process: an upstream, and a receiver of webhooks.

Owns their answers and the receiver's counts, and nothing of what is measured. Started by ``harness.start_sides``, it
prints one JSON line with its URLs. It must never be the bottleneck: hence a bare protocol on uvloop and httptools.

Upstream: every GET is recordInfo and succeeded at once; a task whose id begins with ``run-`` still waits, and always,
and one that begins with ``second-`` waits at the first poll and has succeeded at the second.
Receivers: every POST is a webhook and answered with 204. They are one on several addresses, as the gateway tells
receivers apart by host and port. The control is on the same port:

- ``GET /count``: webhooks, how many distinct webhook-ids they had, and the monotonic times in seconds of the first and
  of the latest that was new; polls, and the time of the first;
- ``GET /wait?count=N&timeout=S``: the same once N distinct ones arrived or S seconds passed;
- ``GET /arrivals``: when each webhook-id first arrived, in seconds since the epoch;
- ``GET /notices``: of the latest webhooks, the seconds between the last answer that ended a task and their arrival;
- ``POST /reset``: forget all of it.
"""

import argparse
import asyncio
import json
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httptools
import uvloop

FIXTURES = Path(__file__).parents[1] / "fixtures" / "aigptimage"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Connection(asyncio.Protocol):
    """Reads requests; answers them in their order, all that came in one read with one write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.answers: list[bytes] = []
        self.last = False

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()
            return
        self.flush()

    def on_url(self, part: bytes) -> None:  # in parts where the reads cut it
        self.url += part

    def flush(self) -> None:
        if self.answers:
            self.transport.write(b"".join(self.answers))
            self.answers.clear()
            if self.last:
                self.transport.close()

    # A client that sends and never reads must not fill the memory.
    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Upstream(Connection):
    """Answers at once, from the fixtures."""

    def __init__(self, polls: "Polls") -> None:
        self.polls = polls
        self.ends = False

    def on_message_complete(self) -> None:
        self.polls.note()
        asked = self.url.partition(b"taskId=")[2].partition(b"&")[0]
        self.url = b""
        self.last = not self.parser.should_keep_alive()
        if b"%" in asked:
            asked = json.dumps(unquote(asked.decode())).encode()[1:-1]
        if asked.startswith(b"run-") or (asked.startswith(b"second-") and self.polls.is_first_of(asked)):
            head, tail = WAITING
        else:
            head, tail = SUCCESS
            self.ends = True
        size = len(head) + len(asked) + len(tail)
        self.answers.append(b"%b%d\r\n\r\n%b%b%b" % (OK_HEAD, size, head, asked, tail))

    def flush(self) -> None:
        super().flush()
        if self.ends:
            self.ends = False
            self.polls.ended_at = time.monotonic()


class Receiver(Connection):
    """Answers 204 and notes the webhook, or answers the control's questions."""

    def __init__(self, arrivals: "Arrivals", polls: "Polls") -> None:
        self.arrivals = arrivals
        self.polls = polls
        self.webhook_id: bytes | None = None
        self.waits = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 10 and name.lower() == b"webhook-id":
            self.webhook_id = value

    def on_message_complete(self) -> None:
        if self.waits:
            return
        url, webhook_id = self.url, self.webhook_id
        self.url, self.webhook_id = b"", None
        self.last = not self.parser.should_keep_alive()
        if self.parser.get_method() == b"GET":
            self.control(url.decode())
            return
        if url == b"/reset":
            self.arrivals.reset()
            self.polls.reset()
        else:
            self.arrivals.note(webhook_id, self.polls.ended_at)
        self.answers.append(NO_CONTENT)

    def control(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.path == "/wait":
            self.flush()
            self.waits = True  # its answer is the connection's last, so that none can overtake it
            query = parse_qs(parts.query)
            self.arrivals.wait(int(query["count"][0]), float(query["timeout"][0]), self.release)
        elif parts.path == "/arrivals":
            self.answers.append(json_answer(self.arrivals.times()))
        elif parts.path == "/notices":
            self.answers.append(json_answer(list(self.arrivals.notices)))
        else:
            self.answers.append(json_answer(self.counts()))

    def counts(self) -> dict[str, float]:
        return self.arrivals.counts() | self.polls.counts()

    def release(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(json_answer(self.counts(), b"Connection: close\r\n"))
            self.transport.close()


class Polls:
    """How many polls came, and when the first did."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._count = 0
        self._first_at = 0.0
        self._seen: set[bytes] = set()
        self.ended_at = 0.0
        """When the last answer that ended a task was written."""

    def is_first_of(self, task_id: bytes) -> bool:
        if task_id in self._seen:
            return False
        self._seen.add(task_id)
        return True

    def note(self) -> None:
        self._count += 1
        if self._count == 1:
            self._first_at = time.monotonic()

    def counts(self) -> dict[str, float]:
        return {"polls": self._count, "first_poll_at": self._first_at}


class Arrivals:
    """What has arrived. Knows about ``keep`` ids at most and at least half as many, the latest."""

    def __init__(self, keep: int) -> None:
        self._half = max(1, keep // 2)
        self._waits: list[tuple[int, asyncio.TimerHandle, Any]] = []
        self.reset()

    def reset(self) -> None:
        self._older: dict[bytes, float] = {}
        self._newer: dict[bytes, float] = {}
        self._webhooks = self._distinct = 0
        self._first_at = self._last_at = 0.0
        self.notices: deque[float] = deque(maxlen=10_000)

    def note(self, webhook_id: bytes | None, ended_at: float) -> None:
        self._webhooks += 1
        if webhook_id is None or webhook_id in self._newer or webhook_id in self._older:
            return
        if len(self._newer) >= self._half:
            self._older, self._newer = self._newer, {}
        self._newer[webhook_id] = time.time()
        self._last_at = time.monotonic()
        self.notices.append(self._last_at - ended_at)
        self._distinct += 1
        if self._distinct == 1:
            self._first_at = self._last_at
        if self._waits:
            self._release()

    def wait(self, count: int, timeout_s: float, release: Any) -> None:
        """Call ``release`` once, when ``count`` distinct ones have arrived or the time is over; not at once."""
        timer = asyncio.get_running_loop().call_later(timeout_s, self._over, release)
        self._waits.append((count, timer, release))
        self._release()

    def _over(self, release: Any) -> None:
        self._waits = [wait for wait in self._waits if wait[2] != release]
        release()

    def _release(self) -> None:
        for wait in [wait for wait in self._waits if self._distinct >= wait[0]]:
            self._waits.remove(wait)
            wait[1].cancel()
            asyncio.get_running_loop().call_soon(wait[2])

    def counts(self) -> dict[str, float]:
        return {
            "webhooks": self._webhooks,
            "distinct": self._distinct,
            "first_at": self._first_at,
            "last_at": self._last_at,
        }

    def times(self) -> dict[str, float]:
        return {webhook_id.decode("latin-1"): at for webhook_id, at in (self._older | self._newer).items()}


OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "


def json_answer(value: Any, headers: bytes = b"") -> bytes:
    body = json.dumps(value).encode()
    return b"%b%d\r\n%b\r\n%b" % (OK_HEAD, len(body), headers, body)


def envelope(name: str) -> tuple[bytes, bytes]:
    """Return a fixture as upstreams send it, without line ends, as what comes before the task's id and after it."""
    answer = json.loads((FIXTURES / name).read_text())
    text = json.dumps(answer, separators=(",", ":")).encode()
    head, _, tail = text.partition(answer["data"]["taskId"].encode())
    return head, tail


SUCCESS, WAITING = envelope("success.json"), envelope("waiting.json")


async def serve(keep: int, receivers: int) -> None:
    loop = asyncio.get_running_loop()
    arrivals, polls = Arrivals(keep), Polls()
    upstream = await loop.create_server(lambda: Upstream(polls), "127.0.0.1", 0, backlog=1024)
    listeners = listen(receivers)
    servers = [
        await loop.create_server(lambda: Receiver(arrivals, polls), sock=listener, backlog=1024)
        for listener in listeners
    ]
    urls = [url_of(sock) for sock in (*upstream.sockets, *listeners)]
    print(json.dumps({"upstream": urls[0], "receivers": urls[1:]}), flush=True)
    await asyncio.gather(upstream.serve_forever(), *(server.serve_forever() for server in servers))


def listen(count: int) -> list[socket.socket]:
    """Return listeners on 127.0.0.1, 127.0.0.2, …, all on one port; on ports of 127.0.0.1 where it is the only one."""
    first = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = first.getsockname()[1]
    listeners = [first]
    try:
        listeners += [socket.create_server((f"127.0.0.{n}", port), backlog=1024) for n in range(2, count + 1)]
    except OSError:
        listeners += [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(count - 1)]
    return listeners


def url_of(listener: Any) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--keep", type=int, default=1_000_000, help="webhook-ids to remember at most")
    cli.add_argument("--receivers", type=int, default=1, help="addresses to listen on, at most 254")
    options = cli.parse_args()
    uvloop.run(serve(options.keep, options.receivers))
