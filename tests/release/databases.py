"""``make keep-databases``: write down what this version leaves behind, for the tests of upgrades to take up.

A release runs it once, with ``NAME=v1.0.0``, and keeps both files: what is released is never changed after that.
``OF=FOLDER`` has the gateway of another checkout do it, an older one's say. Needs the tests' PostgreSQL.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from gateway.serve.asgi import serve_asgi
from tests.crash.process import SECRET, run_gateway
from tests.oldgateways import FOLDER, Peers, header, play, write_sqlite
from tests.postgres import from_wheel, running


async def left_behind(folder: Path, code: Path, by: str, database_url: str, dump: Callable[[], str]) -> str:
    """Play the story with the gateway of a checkout; return its database as SQL."""
    peers = Peers()
    async with serve_asgi(peers.upstream) as upstream_url, serve_asgi(peers.receiver) as receiver_url:
        environ = {
            "PYTHONPATH": str(code),
            "GATEWAY_PORT": "0",
            "GATEWAY_DATABASE_URL": database_url,
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_API_KEY": "sk-none",
            "GATEWAY_UPSTREAM_RATE": "1000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_WEBHOOK_SECRET": SECRET,
            "GATEWAY_LOG_FORMAT": "json",
        }
        async with run_gateway(environ, folder) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
            await play(client, receiver_url)
            if await gateway.stop():
                sys.exit("".join(gateway.text))
        return header(by, int(time.time() * 1000), receiver_url) + dump()


def main(name: str, code: Path) -> None:
    """Write the two files."""
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h"], cwd=code, check=True, capture_output=True, text=True
    ).stdout.strip()
    by = f"the gateway of commit {commit}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        text = asyncio.run(left_behind(Path(folder), code, by, f"sqlite:///{path}", lambda: write_sqlite(path)))
        (FOLDER / f"{name}.sqlite.sql").write_text(text, "utf-8")
    programs = from_wheel()
    with running(programs) as server, tempfile.TemporaryDirectory() as folder:
        words = (programs / "pg_dump", "--inserts", "--no-owner", "--no-privileges", "--no-comments", server.url())

        def dump() -> str:
            told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            return re.sub(r"^\\.*\n", "", told, flags=re.MULTILINE)  # what only a new psql reads

        text = asyncio.run(left_behind(Path(folder), code, by, server.url(), dump))
        (FOLDER / f"{name}.postgres.sql").write_text(text, "utf-8")
    print(f"{FOLDER}/{name}.*.sql, by {by}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
