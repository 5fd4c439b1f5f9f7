"""What the peers share: their arguments, the signed webhook of a task, and the one line each prints.

Every peer lives the same life of a task: register → GET recordInfo, which succeeds → signed POST, answered with 204.
Not shared, because it is what is compared: how a peer keeps its tasks and how it speaks HTTP.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

WARM_UP = 256
SECRET = bytes(range(32))
AUTHORIZATION = {"authorization": "Bearer benchmark"}


class Options(argparse.Namespace):
    upstream: str
    receiver: str
    count: int
    concurrency: int
    database: str

    @property
    def record_url(self) -> str:
        """The URL to poll, to which the task's id is to be added."""
        return f"{self.upstream}/api/v1/jobs/recordInfo?taskId="

    @property
    def webhook_url(self) -> str:
        return f"{self.receiver}/hook"


def read_options(description: str | None, *, database: bool = False) -> Options:
    """Read the command line; a peer that needs a database server is told how to connect."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument("--receiver", required=True, metavar="URL")
    parser.add_argument("--count", type=int, default=2000, help="lives to measure, after a warm-up")
    parser.add_argument("--concurrency", type=int, default=64, help="lives at a time")
    if database:
        parser.add_argument("--database", required=True, metavar="CONNINFO", help="an empty PostgreSQL database")
    return parser.parse_args(namespace=Options())


async def measure(options: Options, live: Callable[[list[str]], Awaitable[Any]]) -> None:
    """Live the warm-up, then the measured tasks; ``live`` returns when all of its webhooks are delivered."""
    await live(task_ids(WARM_UP))
    measured = task_ids(options.count)
    started, cpu_started = time.perf_counter(), time.process_time()
    await live(measured)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    figures = {"per_s": round(options.count / seconds, 1), "count": options.count, "seconds": round(seconds, 3)}
    print(json.dumps(figures | {"cpu_ms": round(cpu_s / options.count * 1000, 3), "warm_up": WARM_UP}))


def task_ids(count: int) -> list[str]:
    prefix = os.urandom(4).hex()
    return [f"task-{prefix}-{number}" for number in range(count)]


def signed_webhook(record: Any) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the webhook for an answer of recordInfo, signed as Standard Webhooks say."""
    data = record["data"]
    if data["state"] != "success":
        raise ValueError(f"the task is {data['state']}")
    now_s = int(time.time())
    body = json.dumps({"type": "task.succeeded", "timestamp": now_s, "data": data}, separators=(",", ":")).encode()
    webhook_id = f"msg_{data['taskId']}"
    digest = hmac.digest(SECRET, f"{webhook_id}.{now_s}.".encode() + body, hashlib.sha256)
    return body, {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
