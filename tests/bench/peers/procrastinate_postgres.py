"""procrastinate on PostgreSQL: a job for each task and an async worker, 64 jobs at a time; a crash repeats its jobs.

The fastest found of what its documentation offers: jobs deferred in batches, one worker that is notified of new ones,
the connector's own pool, finished jobs kept, and uvloop. Several workers, larger pools or deleting jobs gained nothing.
A job is the whole life, so this keeps less than the others that are durable: a crash polls and delivers it again.
"""

import asyncio
import logging
from typing import Any

import httpx
import uvloop
from flow import AUTHORIZATION, Options, measure, read_options, signed_webhook
from procrastinate import App, PsycopgConnector

BATCH = 100


async def main(options: Options) -> None:
    app = App(connector=PsycopgConnector(conninfo=options.database))
    left = 0
    all_done = asyncio.Event()

    async with app.open_async(), httpx.AsyncClient() as client:

        @app.task
        async def life(task_id: str) -> None:
            nonlocal left
            try:
                answer = await client.get(options.record_url + task_id, headers=AUTHORIZATION)
                body, headers = signed_webhook(answer.raise_for_status().json())
                (await client.post(options.webhook_url, content=body, headers=headers)).raise_for_status()
            finally:  # of a failed one too: the receiver's count tells
                left -= 1
                if not left:
                    all_done.set()

        async def live(task_ids: list[str]) -> None:
            nonlocal left
            left = len(task_ids)
            all_done.clear()
            jobs: list[dict[str, Any]] = [{"task_id": task_id} for task_id in task_ids]
            for first in range(0, len(jobs), BATCH):
                await life.batch_defer_async(*jobs[first : first + BATCH])
            await all_done.wait()

        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=options.concurrency, install_signal_handlers=False)
        )
        await measure(options, live)
        worker.cancel()
        await asyncio.wait([worker])


if __name__ == "__main__":
    logging.getLogger("procrastinate").setLevel(logging.ERROR)  # it warns of apps that are made in a script
    uvloop.run(main(read_options(__doc__, database=True)))
