"""Databases as earlier gateways left them, and the world that they were left in: what they owe can still go on.

One story is played with a real ``gateway serve``, of whichever commit: a callback that was delivered, one whose
receiver has gone, one whose receiver failed, a cancelled one and two that wait for their task. Then it is told to stop,
and its database is written down as SQL (``make keep-databases``). ``taken_up`` lays such a file out as if it had
been left two days ago. Owns the story, the form of the files and the peers. Called by the tests of upgrades.
"""

import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from standardwebhooks import Webhook
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.crash.process import SECRET
from tests.manual import ROOT

__all__ = ["FOLDER", "STORY", "Peers", "play", "read_sqlite", "taken_up", "write_sqlite"]

FOLDER = ROOT / "tests" / "fixtures" / "databases"
STORY = {
    "delivered": ("done", "/ok"),
    "dead": ("done-too", "/gone"),
    "pending": ("done-as-well", "/fails"),
    "cancelled": ("of-nobody", "/ok"),
    "waiting": ("later", "/ok"),
    "waiting-record": ("later-too", "/ok"),
}
"""By what became of it: the task, and where its webhook goes."""
_AGE_MS = 2 * 86_400_000  # since it was left: the next attempt is due, and no callback's time has passed
_INSTANT = re.compile(r"(?<![\w.])1[789]\d{11}(?!\w)")
_MADE = re.compile(r"-- Made by (.*) at (\d+), with a receiver at (127\.0\.0\.1:\d+)\.\n")


class Peers:
    """The upstream and the receiver of the story."""

    def __init__(self) -> None:
        self.running = True
        """Whether tasks that are to end later are still running."""
        self.broken = True
        """Whether the receiver still fails where it did in the story."""
        self.webhooks: dict[str, Any] = {}
        """By webhook-id: the body, whose signature was right."""

    async def upstream(self, scope: Any, receive: Any, send: Any) -> None:
        task_id = Request(scope, receive).query_params["taskId"]
        runs = task_id.startswith("later") and self.running
        state = "waiting" if runs or task_id == "of-nobody" else "success"
        answer = json.loads((ROOT / f"tests/fixtures/aigptimage/{state}.json").read_text("utf-8"))
        now = int(time.time() * 1000)
        answer["data"] |= {"taskId": task_id, "createTime": now - 2000}
        if state == "success":
            answer["data"]["completeTime"] = now - 1000
        await JSONResponse(answer)(scope, receive, send)

    async def receiver(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        status = {"/fails": 500, "/gone": 410}.get(request.url.path, 204) if self.broken else 204
        if status == 204:
            Webhook(SECRET).verify(body, dict(request.headers))
            self.webhooks[request.headers["webhook-id"]] = json.loads(body)
        await Response(status_code=status)(scope, receive, send)


async def play(client: httpx.AsyncClient, receiver_url: str) -> None:
    """Have the story happen at a gateway that is asked by this client."""
    for name, (task_id, path) in STORY.items():
        body = {"taskId": task_id, "callbackUrl": f"{receiver_url}{path}", "metadata": {"is": name, "wört": "ü"}}
        body |= {"timeoutSeconds": 2_592_000} | ({"format": "record"} if name.endswith("record") else {})
        answer = await client.post("/v1/callbacks", json=body)
        answer.raise_for_status()
        state, found = name.partition("-")[0], answer.json()
        if state == "cancelled":
            (await client.delete(f"/v1/callbacks/{found['id']}")).raise_for_status()
        while not _has_become(found, state):
            found = (await client.get(f"/v1/callbacks/{found['id']}")).json()


def _has_become(callback: Any, state: str) -> bool:
    if callback["state"] != state:
        return False
    return bool({"pending": callback["attempts"], "waiting": callback["task"]["polls"]}.get(state, True))


def header(by: str, at_ms: int, receiver_url: str) -> str:
    """Return the first line of a file, from which ``taken_up`` learns when it was left."""
    return f"-- Made by {by} at {at_ms}, with a receiver at {receiver_url.removeprefix('http://')}.\n"


def taken_up(file: Path, receiver_url: str) -> str:
    """Return a file's SQL as of a database that was left two days ago, with this receiver in the place of its own."""
    text = file.read_text("utf-8")
    made = _MADE.match(text)
    assert made is not None, file
    later = int(time.time() * 1000) - _AGE_MS - int(made[2])
    move: Callable[[re.Match[str]], str] = lambda found: str(int(found[0]) + later)  # noqa: E731
    return _INSTANT.sub(move, text.replace(made[3], receiver_url.removeprefix("http://")))


def write_sqlite(path: Path) -> str:
    """Return a database of SQLite's as SQL, with the two numbers of its head."""
    with closing(sqlite3.connect(path)) as db:
        heads = [f"PRAGMA {name} = {db.execute(f'PRAGMA {name}').fetchone()[0]};" for name in HEADS]
        return "\n".join([*db.iterdump(), *heads, ""])


HEADS = ("application_id", "user_version")


def read_sqlite(sql: str, path: Path) -> None:
    """Make a database of SQLite's from what ``write_sqlite`` wrote."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(sql)
