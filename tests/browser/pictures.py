"""Makes the pictures of the dashboard that README and the manual show: ``make pictures``.

A gateway over a simulated upstream, with a receiver that is well, one that is in trouble and one that is paused; then
two of its pages in a real browser, in light and dark.
"""

import asyncio
import json
import random
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.scenario import Plan
from tests.browser.test_dashboard import Hooks
from tests.browsing import BROWSER, NODE, browse
from tests.dashboard import Visitor
from tests.manual import MANUAL
from tests.running import Running, running

MODEL = "gpt-image-2-text-to-image"
PROMPT = json.dumps({"model": MODEL, "input": {"prompt": "A cat that reads a time table"}})
SETTINGS = {
    "GATEWAY_UPSTREAM_RATE": "20/1,600/60",
    "GATEWAY_POLL_MIN_S": "0.4",
    "GATEWAY_POLL_MAX_S": "5",
    "GATEWAY_RETRY_SCHEDULE": "0,1.5,5,300,1800",
    "GATEWAY_CALLBACK_ALLOW": "127.0.0.1,localhost",
}


async def main() -> None:
    upstream, chance = SimulatedUpstream(SystemClock()), random.Random(7)
    hooks = {name: Hooks() for name in ("well", "busy", "paused")}
    hooks["busy"].answer = 503, "busy"
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {name: await stack.enter_async_context(serve_asgi(hook)) for name, hook in hooks.items()}
        upstream_url = await stack.enter_async_context(serve_simulator(upstream))
        run = await stack.enter_async_context(running(folder, upstream_url, **SETTINGS))
        visitor = await stack.enter_async_context(Visitor(str(run.client.base_url)))

        async def begun(name: str, seconds: float | None, to: str) -> str:
            plan = Plan(outcome="never") if seconds is None else Plan(duration_s=seconds)
            upstream.add_task(name, plan, model=MODEL, param=PROMPT)
            about = {"model": MODEL, "metadata": {"orderId": len(name) * 37}}
            answer = await run.register(name, f"{urls[to]}/hooks", **about)
            return str(answer.json()["id"])

        seen = [await begun(f"task-{n}", chance.lognormvariate(1.0, 0.3), "well") for n in range(30)]
        await asyncio.gather(*map(run.delivered, seen))
        await visitor.post("/dashboard/receivers/pause", "/dashboard/receivers", receiver=urls["paused"])
        for n in range(4):
            await begun(f"waits-{n}", 0.0, "paused")
            await begun(f"tried-{n}", 0.0, "busy")
            await begun(f"runs-{n}", None, "well")
        hooks["well"].answer = 503, "busy: deploying"
        told = await begun("img-7f3a9c", 3.3, "well")
        await _tried(run, told)
        hooks["well"].answer = 204, ""
        await run.delivered(told)
        await asyncio.sleep(3)  # the first page counts now and then
        pages = {"now": "/", "time-line": f"/dashboard/callbacks/{told}"}
        await browse("pictures", str(run.client.base_url).rstrip("/"), folder=str(MANUAL), pages=pages)
    for path in sorted(MANUAL.glob("dashboard-*.webp")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


async def _tried(run: Running, callback_id: str) -> None:
    await run.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["attempts"] > 0)


if __name__ == "__main__":
    if BROWSER is None or not (NODE / "node_modules" / "playwright-core").is_dir():
        sys.exit("The pictures need Chromium (apt install chromium) and Node's packages (npm ci in tests/node).")
    asyncio.run(main())
