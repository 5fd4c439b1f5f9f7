"""The floor under everything: a bare aiohttp GET and POST on uvloop, no JSON, no signature, nothing kept.

What no gateway written with aiohttp can beat on one core: the distance to it is the price of all the rest.
"""

import asyncio

import aiohttp
import uvloop
from flow import AUTHORIZATION, Options, measure, read_options


async def main(options: Options) -> None:
    async with aiohttp.ClientSession() as session:

        async def worker(task_ids: list[str]) -> None:
            while task_ids:
                task_id = task_ids.pop()
                async with session.get(options.record_url + task_id, headers=AUTHORIZATION) as answer:
                    body = await answer.read()
                async with session.post(options.webhook_url, data=body, headers={"webhook-id": task_id}) as answer:
                    assert answer.status == 204

        await measure(options, lambda ids: asyncio.gather(*(worker(ids) for _ in range(options.concurrency))))


if __name__ == "__main__":
    uvloop.run(main(read_options(__doc__)))
