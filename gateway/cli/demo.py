"""``gateway demo``: a simulated upstream, a gateway and a receiver on this machine, and three tasks end to end.

Must need no key and no network: everything listens on 127.0.0.1 and forgets itself at the end. Called by ``commands``.
"""

import asyncio
import tempfile
from pathlib import Path

import uvloop

from gateway.api.webpages import PagesRefused
from gateway.app.build import build
from gateway.cli.client import RemoteGateway
from gateway.cli.receiver import ReceivedWebhook, Receiver, pretty
from gateway.config.load import load
from gateway.core.clock import Clock, SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret, parse_secrets
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator

_TIMEOUT_S = 30.0
_EXPECTED = ("task.succeeded", "task.failed", "task.abandoned")
_CAT = {"resultUrls": ["https://cdn.example.com/cat.png"]}
_REFUSED = "Sorry, but the image we created may violate our content policies."
_TASKS = (
    # A task, what it will come to, and for how long the callback waits for it.
    ("task_cat", Plan(duration_s=2.5, outcome="success", result=_CAT), 60),
    ("task_concert", Plan(duration_s=1.5, outcome="fail", fail_code="400", fail_msg=_REFUSED), 60),
    ("task_forever", Plan(duration_s=0, outcome="never"), 4),
)


def run(*, colour: bool) -> int:
    """Run the demonstration; return 0 when every expected webhook came and was verified, else 1."""
    return uvloop.run(_run(colour=colour))


async def _run(*, colour: bool) -> int:
    clock = SystemClock()
    secret = make_secret()
    arrived: asyncio.Queue[ReceivedWebhook] = asyncio.Queue()
    receiver = PagesRefused(Receiver(parse_secrets(secret), clock, arrived.put_nowait))
    simulator = SimulatedUpstream(clock)
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        async with serve_simulator(simulator) as upstream_url, serve_asgi(receiver) as receiver_url:
            settings = load(
                {
                    "GATEWAY_DATABASE_URL": f"sqlite:///{Path(folder) / 'demo.db'}",
                    "GATEWAY_UPSTREAM_URL": upstream_url,
                    "GATEWAY_UPSTREAM_RATE": "20/1",
                    "GATEWAY_WEBHOOK_SECRET": secret,
                    "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
                    "GATEWAY_POLL_MIN_S": "0.5",
                }
            )
            gateway = build(settings, clock)
            try:
                await gateway.start()
                async with serve_asgi(gateway) as gateway_url:
                    print(f"simulated upstream  {upstream_url}")
                    print(f"gateway             {gateway_url}")
                    print(f"receiver            {receiver_url}  (checks signatures with {secret})\n")
                    await _register(simulator, clock, gateway_url, f"{receiver_url}/hooks")
                    return await _watch(arrived, colour=colour)
            finally:
                await gateway.drain()
                await gateway.close()


async def _register(simulator: SimulatedUpstream, clock: Clock, gateway_url: str, callback_url: str) -> None:
    with RemoteGateway(gateway_url, None) as client:
        for number, (task_id, plan, timeout_s) in enumerate(_TASKS, 1):
            simulator.add_task(task_id, plan, created_at=clock.now())
            asked = {"taskId": task_id, "callbackUrl": callback_url, "timeoutSeconds": timeout_s}
            callback = await asyncio.to_thread(client.register, metadata={"orderId": number}, **asked)
            print(f"POST /v1/callbacks  {task_id:<13} → 201  {callback['id']}  (waits {timeout_s} s)")
    print("\nFrom here on nobody polls but the gateway. Its webhooks, as they arrive:\n")


async def _watch(arrived: "asyncio.Queue[ReceivedWebhook]", *, colour: bool) -> int:
    missing = set(_EXPECTED)
    verified = True
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while missing:
                webhook = await arrived.get()
                print(pretty(webhook, colour=colour), end="\n\n", flush=True)
                verified = verified and webhook.verified
                if isinstance(webhook.event, dict):
                    missing.discard(str(webhook.event.get("type")))
    except TimeoutError:
        print(f"After {_TIMEOUT_S:g} s there was still no {', '.join(sorted(missing))}.")
        return 1
    print("Every webhook came and its signature was verified." if verified else "A signature was not verified.")
    return 0 if verified else 1
