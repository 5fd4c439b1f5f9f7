"""DBOS on SQLite: a workflow of two steps, poll and deliver, each recorded; a crash resumes after the last one.

The fastest found that keeps all of that, of what its documentation offers: plain functions, each workflow called in a
thread. ``start_workflow`` made no more lives, async workflows and queues fewer; a queue as it comes also waits a second
between looks. One httpx client for all threads. Two settings are in its favour: one database connection, because SQLite
makes several writers sleep, and a write-ahead log with ``synchronous=FULL`` as it comes, so commits still reach the
disk. More than 16 threads only contend, so it is not 64 at a time.
"""

import asyncio
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from dbos import DBOS, SetWorkflowID
from flow import AUTHORIZATION, Options, measure, read_options, signed_webhook

MAX_THREADS = 16


async def main(options: Options) -> None:
    client = httpx.Client()

    @DBOS.step()
    def poll(task_id: str) -> Any:
        answer = client.get(options.record_url + task_id, headers=AUTHORIZATION)
        return answer.raise_for_status().json()

    @DBOS.step()
    def deliver(record: Any) -> None:
        body, headers = signed_webhook(record)
        client.post(options.webhook_url, content=body, headers=headers).raise_for_status()

    @DBOS.workflow()
    def life(task_id: str) -> None:
        deliver(poll(task_id))

    def start(task_id: str) -> None:
        with SetWorkflowID(task_id):
            life(task_id)

    with (
        tempfile.TemporaryDirectory(prefix="bench-dbos-") as folder,
        ThreadPoolExecutor(min(options.concurrency, MAX_THREADS)) as threads,
        client,
    ):
        file = Path(folder) / "dbos.sqlite"
        sqlite3.connect(file).execute("PRAGMA journal_mode=WAL").connection.close()
        DBOS(
            config={
                "name": "bench",
                "system_database_url": f"sqlite:///{file}",
                "sys_db_pool_size": 1,
                "log_level": "WARNING",
            }
        )
        DBOS.launch()
        await measure(options, lambda ids: asyncio.to_thread(lambda: list(threads.map(start, ids))))
        DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(read_options(__doc__)))
