"""The script people write: asyncio, an httpx.AsyncClient as it comes, a semaphore; a crash loses all that it knew."""

import asyncio

import httpx
from flow import AUTHORIZATION, Options, measure, read_options, signed_webhook


async def main(options: Options) -> None:
    semaphore = asyncio.Semaphore(options.concurrency)

    async with httpx.AsyncClient() as client:

        async def life(task_id: str) -> None:
            async with semaphore:
                answer = await client.get(options.record_url + task_id, headers=AUTHORIZATION)
                body, headers = signed_webhook(answer.raise_for_status().json())
                (await client.post(options.webhook_url, content=body, headers=headers)).raise_for_status()

        await measure(options, lambda ids: asyncio.gather(*map(life, ids)))


if __name__ == "__main__":
    asyncio.run(main(read_options(__doc__)))
