"""``make demo-replicas``: three replicas on one PostgreSQL, the one that polls is killed, and nothing is lost.

Stands here, and not beside ``gateway demo``, as its PostgreSQL is a development dependency, which the tests find and
start. Must need no key and no network: all listens on 127.0.0.1, and nothing is left of it at the end.
Exit 0: each registered task's webhook came, with a signature that holds, or nobody reads what it prints any more.
1: not so. 2: no PostgreSQL. 130: stopped.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import uvloop

from gateway.cli.listen import call_when_nobody_reads
from gateway.cli.receiver import ReceivedWebhook, Receiver
from gateway.core.clock import SystemClock
from gateway.core.errors import OutputClosed, OutputError
from gateway.core.terminal import standard_output
from gateway.serve.asgi import serve_asgi
from gateway.signature import ID_HEADER, parse_secrets
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.store.postgres.webhookleases import TAKEN_OVER_S
from tests.crash.process import SECRET, GatewayProcess, environment, run_gateway
from tests.postgres import NotAvailable, Server, from_wheel, running

__all__ = ["Tally", "main"]

_NAMES = ("A", "B", "C")
_SENDER = "x-replica"
_EVERY_S = 0.5
_TASK_MS = 1_500
_BEFORE_THE_KILL = 5  # webhooks
_LED_WITHIN_S = 20.0  # a lease and five seconds, and some of a busy machine
_AFTERWARDS_S = 2.0
_ATTEMPT_S = 1.0
_DELIVERED_WITHIN_S = _ATTEMPT_S + TAKEN_OVER_S + 5  # of the kill: what was being sent is another's after its claim
_SETTINGS = {
    "GATEWAY_UPSTREAM_RATE": "20/1",
    "GATEWAY_POLL_MIN_S": "0.2",
    "GATEWAY_POLL_MAX_S": "1",
    "GATEWAY_ATTEMPT_TIMEOUT_S": f"{_ATTEMPT_S:g}",
    "GATEWAY_DRAIN_S": "2",
}


class Tally:
    """What was promised, and what came of it."""

    def __init__(self) -> None:
        self.registered: dict[str, str] = {}
        """Tasks, by the ids of their callbacks, which are those of their webhooks."""
        self.arrived: Counter[str] = Counter()
        """How often each webhook came whose signature holds, by its id."""
        self.unverified = 0

    @property
    def lost(self) -> list[str]:
        """The tasks whose webhook did not come, so far."""
        return [task_id for callback_id, task_id in self.registered.items() if not self.arrived[callback_id]]

    @property
    def ok(self) -> bool:
        """Whether something was registered, all of it came, and everything that came was signed."""
        return bool(self.registered) and not self.lost and not self.unverified

    def closing(self) -> str:
        """Return the last line."""
        delivered = len(self.registered) - len(self.lost)
        signatures = f"{self.unverified} NOT VERIFIED" if self.unverified else "each signature verified"
        again = sum(self.arrived.values()) - len(self.arrived)
        line = f"{len(self.registered)} registered, {delivered} delivered, {len(self.lost)} lost, {signatures}"
        return f"{line}; {again} sent again under the same id" if again else line


class _Show:
    """Three replicas, what happens to them, and the print of it."""

    def __init__(self, tally: Tally, receiver_url: str, replicas: dict[str, GatewayProcess]) -> None:
        self.tally = tally
        self.living = dict(replicas)
        self.began = time.monotonic()
        self.killed = self.began
        self._receiver_url = receiver_url
        self._asked = 0

    def say(self, line: str) -> None:
        _print(f"{time.monotonic() - self.began:5.1f} s  {line}")

    def leader(self) -> str | None:
        """Return who polls, of those that live."""
        for name, process in self.living.items():
            if len(process.logged("polls.led")) > len(process.logged("polls.not_led")):
                return name
        return None

    async def becomes(self, condition: Callable[[], object], within_s: float) -> bool:
        """Wait for it; return False where it does not come about in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition():  # noqa: ASYNC110 - of log lines, arrivals and time: no one event
                    await asyncio.sleep(0.02)
                return True
        return False

    async def trickle(self) -> None:
        """Register a task now and then, with one replica after the other, until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                await self._register(client)
                await asyncio.sleep(_EVERY_S)

    async def _register(self, client: httpx.AsyncClient) -> None:
        self._asked += 1
        task_id = f"sim-success-{_TASK_MS}-{self._asked}"
        while self.living:
            name = list(self.living)[self._asked % len(self.living)]
            asked = {"taskId": task_id, "callbackUrl": f"{self._receiver_url}/hooks"}
            try:
                answer = await client.post(f"{self.living[name].url}/v1/callbacks", json=asked)
            except httpx.TransportError:
                # As a load balancer does. Registering twice makes one callback.
                self.say(f"{name} does not answer: no more requests for it, this one goes to the next")
                del self.living[name]
                continue
            if answer.is_success:
                self.tally.registered[answer.json()["id"]] = task_id
                self.say(f"{name} answers {answer.status_code}: task {self._asked} is registered")
            else:
                self.say(f"{name} answers {answer.status_code}: task {self._asked} is not registered: {answer.text}")
            return

    def arrived(self, webhook: ReceivedWebhook) -> None:
        """Count a webhook before it is answered."""
        if not webhook.verified:
            self.tally.unverified += 1
            self.say(f"✗ a webhook's signature does NOT hold: {webhook.problem}")
            return
        self.tally.arrived[webhook.headers[ID_HEADER]] += 1
        number = str(webhook.event["data"]["taskId"]).rpartition("-")[2]
        again = ", again" if webhook.duplicate else ""
        self.say(f"  {webhook.headers[_SENDER]} delivers the webhook of task {number}{again}  ✓ signature verified")


def main() -> int:
    """Run the demonstration and print it; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running(from_wheel(), fsync="on") as server, standard_output():
            return uvloop.run(_until_stopped(server))
    except NotAvailable as exc:
        print(f"No PostgreSQL: {exc}", file=sys.stderr)
        return 2
    except OutputClosed:
        return 0
    except OutputError as exc:
        print(exc.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _print(line: str) -> None:
    """Print a line; where it cannot be, whoever sends a webhook is not to blame, and the end raises it again."""
    with suppress(OutputError):
        print(line, flush=True)


async def _until_stopped(server: Server) -> int:
    playing = asyncio.create_task(_play(server))
    for which in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(which, playing.cancel)
    unread = asyncio.Event()

    def leave() -> None:
        unread.set()
        playing.cancel()

    call_when_nobody_reads(leave)
    try:
        return await playing
    except asyncio.CancelledError:
        return 0 if unread.is_set() else 130


async def _play(server: Server) -> int:
    clock = SystemClock()
    tally = Tally()
    show: list[_Show] = []
    receiver = Receiver(parse_secrets(SECRET), clock, lambda webhook: show[0].arrived(webhook))
    async with (
        serve_simulator(SimulatedUpstream(clock)) as upstream_url,
        serve_asgi(receiver) as receiver_url,
        _replicas(server, upstream_url) as replicas,
    ):
        _print(f"PostgreSQL {server.execute('SHOW server_version').partition(' ')[0]}     127.0.0.1:{server.port}")
        _print(f"simulated upstream  {upstream_url}")
        _print(f"receiver            {receiver_url}  (checks signatures with {SECRET})")
        for name, process in replicas.items():
            _print(f"replica {name}           {process.url}  (process {process.process.pid})")
        _print("")
        show.append(_Show(tally, receiver_url, replicas))
        trickling = asyncio.create_task(show[0].trickle())
        try:
            taken_over = await _kill_the_leader(show[0])
        finally:
            trickling.cancel()
            with suppress(asyncio.CancelledError):
                await trickling
        await _await_the_rest(show[0])
        for process in show[0].living.values():
            process.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.ended() for process in show[0].living.values()))
    _print(f"\n{tally.closing()}.")
    return 0 if tally.ok and taken_over else 1


@asynccontextmanager
async def _replicas(server: Server, upstream_url: str) -> AsyncIterator[dict[str, GatewayProcess]]:
    """Run one after the other: the first makes the schema."""
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        async with AsyncExitStack() as stack:
            started = {}
            for name in _NAMES:
                config = Path(folder) / f"{name}.toml"
                config.touch(0o600)
                config.write_text(f'[clients.default]\nheaders = {{ {_SENDER} = "{name}" }}\n', "utf-8")
                of_its_own = {"GATEWAY_DATABASE_URL": server.url(), "GATEWAY_CONFIG": str(config)}
                environ = environment(Path(folder) / "unused", upstream_url) | _SETTINGS | of_its_own
                started[name] = await stack.enter_async_context(run_gateway(environ, Path(folder)))
            yield started


async def _kill_the_leader(show: _Show) -> bool:
    """Kill the replica that polls in the midst of its work; return whether another took its place."""
    if not await show.becomes(show.leader, _LED_WITHIN_S):
        show.say("nobody polls the upstream")
        return False
    victim = show.leader() or ""
    show.say(
        f"{victim} polls the upstream; all three take registrations, and send the webhooks that they have room for"
    )
    if not await show.becomes(lambda: len(show.tally.arrived) >= _BEFORE_THE_KILL, _LED_WITHIN_S):
        show.say("hardly a webhook comes")
        return False
    process = show.living[victim]
    show.say(f"kill -9 {process.process.pid}: {victim} is gone, with all that it had in memory")
    show.killed = time.monotonic()
    await process.kill()
    if not await show.becomes(lambda: show.leader() not in (victim, None), _LED_WITHIN_S):
        show.say("nobody polls the upstream any more")
        return False
    took_s = time.monotonic() - show.killed
    show.say(f"{show.leader()} polls the upstream now: {victim}'s lease has ended, {took_s:.1f} s after the kill")
    await asyncio.sleep(_AFTERWARDS_S)
    return True


async def _await_the_rest(show: _Show) -> None:
    show.say("no more registrations; what is owed still comes")
    if await show.becomes(lambda: not show.tally.lost, _LED_WITHIN_S / 4):
        return
    show.say(f"{len(show.tally.lost)} not yet here: what the killed one was sending is another's when its claim ends")
    if not await show.becomes(lambda: not show.tally.lost, show.killed + _DELIVERED_WITHIN_S - time.monotonic()):
        show.say(f"LOST: {', '.join(show.tally.lost)}")


if __name__ == "__main__":
    sys.exit(main())
