"""Polls alone by an httpx.AsyncClient as it comes, 64 at a time: what the script's half of the work costs."""

import asyncio

import httpx
import uvloop
from flow import AUTHORIZATION, Options, measure, read_options


async def main(options: Options) -> None:
    async with httpx.AsyncClient() as client:

        async def worker(task_ids: list[str]) -> None:
            while task_ids:
                answer = await client.get(options.record_url + task_ids.pop(), headers=AUTHORIZATION)
                assert answer.status_code == 200

        await measure(options, lambda ids: asyncio.gather(*(worker(ids) for _ in range(options.concurrency))))


if __name__ == "__main__":
    uvloop.run(main(read_options(__doc__)))
