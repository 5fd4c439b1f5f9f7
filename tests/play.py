"""``make play``: a gateway with its dashboard, a simulated upstream, receivers and a trickle of tasks, until Ctrl-C.

Stands here as it is no command of the gateway. Needs no key and no network: all listens on 127.0.0.1 in this process,
and nothing is left of it at the end. Exit 0: stopped, or nobody reads what it prints any more. 1: it cannot be written.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import httpx
import uvloop

from gateway.api.webpages import PagesRefused
from gateway.app.build import build
from gateway.cli.listen import call_when_nobody_reads
from gateway.cli.receiver import PlannedAnswer, ReceivedWebhook, Receiver
from gateway.config.load import load
from gateway.config.tokens import make_token
from gateway.core.clock import SystemClock
from gateway.core.errors import OutputClosed, OutputError
from gateway.core.telemetry import configure_logging
from gateway.core.terminal import printable, standard_output
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret, parse_secrets
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator

__all__ = ["main"]

_GATEWAY = os.path.relpath(Path(sys.executable).with_name("gateway"))
_EVERY_S = 2.0
_FIRST_S = 1.0
"""How long the first task takes, so that there is soon something to see."""
_LINES = 12
"""So many webhooks are shown; the dashboard has all."""
_MODELS = {"quick-sketch": 4.0, "gpt-image-2-text-to-image": 12.0}
"""With the median of how long a task takes, in seconds."""
_FAIL_SHARE = 0.2
_PROMPTS = ("a cat on a sofa", "a harbour at dawn", "snow on a red roof", "an orchard in May", "a concert at night")
_RECEIVERS = {
    "well": (PlannedAnswer(),),
    "slow": (PlannedAnswer(delay_s=2.0),),
    "in trouble": (PlannedAnswer(status=503), PlannedAnswer(status=500), PlannedAnswer(status=410)),
}
"""What each answers the first, the second, … time that a webhook comes."""
_WEIGHTS = (6, 2, 2)
_SETTINGS = {
    "GATEWAY_UPSTREAM_RATE": "20/1",
    "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
    "GATEWAY_POLL_MIN_S": "0.5",
    "GATEWAY_RETRY_SCHEDULE": "0,5,20,60,300",
    "GATEWAY_DRAIN_S": "1",
}


class _Place(NamedTuple):
    """All that runs, and where."""

    simulator: SimulatedUpstream
    simulator_url: str
    receivers: dict[str, str]
    url: str
    token: str
    """A client's."""


def main() -> int:
    """Run until Ctrl-C, SIGTERM, or the terminal or who reads its output is gone; return the exit code."""
    configure_logging("console", level="error")
    try:
        with standard_output():
            uvloop.run(_play())
    except OutputClosed:
        return 0
    except OutputError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


async def _play() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    call_when_nobody_reads(stop.set)
    operator = make_token()

    def say(text: str) -> None:
        try:
            print(text, flush=True)
        except OutputError:  # whoever sends a webhook is not to blame; the end of standard output raises it again
            stop.set()

    async with _started(operator, say) as place:
        say(
            f"dashboard           {place.url}/\n"
            f"sign in with        {operator}\n"
            f"manual              {place.url}/manual\n"
            f"simulated upstream  {place.simulator_url}\n"
            + "".join(f"receiver            {url}  ({name})\n" for name, url in place.receivers.items())
            + f"\nA task every {_EVERY_S:g} s: some fail, and one receiver is in trouble. In another terminal:\n"
            f"  GATEWAY_OPERATOR_TOKEN={operator} {_GATEWAY} top --url {place.url}\n"
            "Ctrl-C ends all of it and leaves nothing behind.\n"
        )
        trickle = asyncio.create_task(_trickle(place))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({trickle, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (trickle, stopped):
            task.cancel()
        ended = await asyncio.gather(trickle, stopped, return_exceptions=True)
    if isinstance(ended[0], Exception):
        raise ended[0]
    say("ended")


@asynccontextmanager
async def _started(operator: str, say: Callable[[str], None]) -> AsyncIterator[_Place]:
    clock, secret, client = SystemClock(), make_secret(), make_token()
    shown = count(1)

    def show(name: str, webhook: ReceivedWebhook) -> None:
        if webhook.verified and (number := next(shown)) <= _LINES:
            event = webhook.event
            answer = f"answered {webhook.answer}" if webhook.answer else "taken"
            say(
                printable(
                    f"{event['type']:<15}  {event['data']['taskId']:<8}  by the receiver that is {name}: {answer}"
                )
            )
            if number == _LINES:
                say("… and so on: the dashboard has all of them")

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-play-")))
        simulator = SimulatedUpstream(clock)
        upstream_url = await stack.enter_async_context(serve_simulator(simulator))
        receivers = {}
        for name, answers in _RECEIVERS.items():
            app = Receiver(parse_secrets(secret), clock, lambda webhook, name=name: show(name, webhook), answers)
            receivers[name] = await stack.enter_async_context(serve_asgi(PagesRefused(app)))
        gateway = build(
            load(
                _SETTINGS
                | {
                    "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'play.db'}",
                    "GATEWAY_UPSTREAM_URL": upstream_url,
                    "GATEWAY_WEBHOOK_SECRET": secret,
                    "GATEWAY_TOKEN": client,
                    "GATEWAY_OPERATOR_TOKEN": operator,
                }
            ),
            clock,
        )
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(gateway.drain)
        await gateway.start()
        url = await stack.enter_async_context(serve_asgi(gateway))
        yield _Place(simulator, upstream_url, receivers, url, client)


async def _trickle(place: _Place) -> None:
    """Have the simulated upstream make tasks, and register each."""
    rng = random.Random()
    headers = {"authorization": f"Bearer {place.token}"}
    async with httpx.AsyncClient(base_url=place.url, headers=headers, trust_env=False) as client:
        for number in count(1):
            model, prompt = rng.choice(list(_MODELS)), rng.choice(_PROMPTS)
            plan = Plan(
                duration_s=_MODELS[model] * rng.lognormvariate(0, 0.3) if number > 1 else _FIRST_S,
                outcome="fail" if rng.random() < _FAIL_SHARE else "success",
                fail_msg="The prompt was refused.",
            )
            task_id = f"task-{number}"
            place.simulator.add_task(task_id, plan, model=model)
            name = rng.choices(list(place.receivers), _WEIGHTS)[0] if number > 1 else "well"
            asked = {
                "taskId": task_id,
                "callbackUrl": f"{place.receivers[name]}/hooks",
                "metadata": {"orderId": number, "prompt": prompt},
                "model": model,
            }
            (await client.post("/v1/callbacks", json=asked)).raise_for_status()
            await asyncio.sleep(_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
