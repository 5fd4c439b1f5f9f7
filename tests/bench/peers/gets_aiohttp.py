"""Polls alone by bare aiohttp, 64 at a time, whose answers nobody decodes."""

import asyncio

import aiohttp
import uvloop
from flow import AUTHORIZATION, Options, measure, read_options


async def main(options: Options) -> None:
    async with aiohttp.ClientSession() as session:

        async def worker(task_ids: list[str]) -> None:
            while task_ids:
                async with session.get(options.record_url + task_ids.pop(), headers=AUTHORIZATION) as answer:
                    await answer.read()
                    assert answer.status == 200

        await measure(options, lambda ids: asyncio.gather(*(worker(ids) for _ in range(options.concurrency))))


if __name__ == "__main__":
    uvloop.run(main(read_options(__doc__)))
