"""One life of a gateway's loops in virtual time: everything real but the network; it can be drained, or killed."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from gateway.config.profile import Profile
from gateway.config.profilefile import parse_profile
from gateway.core.clock import Clock, FollowingClock
from gateway.core.errors import StoreError
from gateway.core.ids import new_callback_id
from gateway.core.memory import Memory
from gateway.core.model import Callback, Format, NewCallback
from gateway.core.ratelimit import RateWindow
from gateway.core.telemetry import Metrics
from gateway.loops.clocksteps import ClockSteps
from gateway.loops.deliverer import Deliverer
from gateway.loops.leading import Lease
from gateway.loops.poller import Poller
from gateway.loops.supervisor import Loop, Supervisor
from gateway.signature import Signer, parse_secrets
from gateway.store.sqlite.store import SqliteStore
from gateway.upstream.answer import PollResult
from gateway.upstream.api import Upstream
from gateway.upstream.budget import Budget
from gateway.upstream.key import UpstreamKey
from gateway.upstream.lastanswers import LastAnswers
from gateway.upstream.learned import Learned
from gateway.upstream.schedule import PollSchedule
from gateway.upstream.timetable import Timetable
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.limits import ReceiverLimits
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import Found, Sender, SendResult
from tests.claims import Claiming
from tests.nouns import due_task
from tests.virtualtime import InlineConnection, VirtualClock

__all__ = ["FORGETS", "FREE", "PROFILE", "Life", "ScriptedSender", "ScriptedUpstream", "Transport", "sent_url", "until"]

FREE = (RateWindow(2, 1.0), RateWindow(60, 60.0))
PROFILE_FILE = Path(__file__).parents[1] / "config" / "upstreams" / "aigptimage.toml"
PROFILE = parse_profile(PROFILE_FILE.read_text("utf-8"), PROFILE_FILE.name)
FORGETS = parse_profile(PROFILE_FILE.read_text("utf-8").replace("once = true", "once = false"), PROFILE_FILE.name)
"""The same of an upstream that makes a task of each create, whatever its X-Request-ID."""
SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def sent_url(request: httpx.Request) -> str:
    """Return the URL that a request asks for, its target extension included."""
    return str(request.url.copy_with(raw_path=request.extensions.get("target") or request.url.raw_path))


class Transport(httpx.AsyncBaseTransport):
    """Answers each request by asking a coroutine."""

    def __init__(self, answer: Callable[[httpx.Request], Awaitable[httpx.Response]]) -> None:
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        request.url = httpx.URL(sent_url(request))
        return await self._answer(request)


class ScriptedUpstream(Upstream):
    """An upstream whose polls a coroutine answers."""

    def __init__(self, poll: Callable[[str], Awaitable[PollResult]], name: str = "up") -> None:
        self.profile = PROFILE
        self.name = name
        self.last_answers = LastAnswers(VirtualClock())
        self._poll = poll

    async def poll(self, task_id: str, whose: str = "", **_: object) -> PollResult:
        return await self._poll(task_id)


class ScriptedSender(Sender):
    """A sender whose attempts a coroutine makes."""

    def __init__(self, send: Callable[[str, Mapping[str, str], bytes], Awaitable[SendResult]]) -> None:
        self._send = send
        self.timeout_s = 15.0

    def must_look_up(self, url: str) -> bool:
        return False

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, found: Found | None = None) -> SendResult:
        return await self._send(url, headers, body)


def teach(timetable: Timetable, model: str | None, durations_s: Iterable[float]) -> None:
    """Let tasks of a model end that took so long; nobody's that anything else is registered by."""
    for duration_s in durations_s:
        task = due_task(watchers="teacher", created_at=0, born_at=0, model=model)
        timetable.ended(task, model, 0, duration_s, told=True)


class Life:
    """Store, key, timetable, poller and deliverer on one file, as ``gateway.app.build`` ties them together."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        upstream: httpx.AsyncBaseTransport | Upstream,
        sender: Sender | None = None,
        rate: Sequence[RateWindow] = FREE,
        min_s: float = 1.0,
        max_s: float = 30.0,
        schedule_s: tuple[float, ...] = SCHEDULE_S,
        seed: int = 0,
        memory_bytes: int = 67_108_864,
        lease: Lease | None = None,
        profile: Profile = PROFILE,
        limits: ReceiverLimits | None = None,
    ) -> None:
        """``lease``: when it leads, as one of several replicas; None: always. ``limits``: of some receivers."""
        self.clock = clock = FollowingClock(clock)
        self.metrics = Metrics()
        self.store = SqliteStore(path, first_attempt_delay_s=schedule_s[0])
        if isinstance(upstream, httpx.AsyncBaseTransport):
            upstream = Upstream(profile, upstream, clock, base_url="https://up.example", api_key="k", name="up")
        queries = Budget(rate, clock, partial(self.store.load, "queries"), partial(self.store.swap, "queries"))
        creates = Budget(rate, clock, partial(self.store.load, "creates"), partial(self.store.swap, "creates"))
        self.key = UpstreamKey(upstream.name, queries, creates, self.metrics)
        per_s = min((window.limit / window.window_s for window in rate), default=1e6)
        learned = Learned(partial(self.store.load, "durations"), partial(self.store.swap, "durations"))
        self.timetable = Timetable(PollSchedule(min_s, max_s), per_s, clock, random.Random(seed), learned)
        self.tasks, self.outbox = Claiming(self.store.tasks), Claiming(self.store.outbox)
        self.poller = Poller(self.tasks, upstream, self.key, self.timetable, clock, self.metrics, lease)
        self.store.tasks._shared = lease is not None
        loops: list[Loop] = [self.poller]
        if sender is not None:
            headers = ClientHeaders()
            headers.use(Signer(parse_secrets(SECRET)), {})
            retry = RetryPolicy(schedule_s)
            rng = random.Random(seed + 1)
            self.memory = Memory(memory_bytes)
            self.deliverer = Deliverer(
                self.outbox, sender, headers, retry, self.memory, clock, self.metrics, rng, limits=limits
            )
            loops.append(self.deliverer)
        self.clock_steps = ClockSteps(self.store, clock)
        self.supervisor = Supervisor(loops, clock, self.metrics, self.clock_steps)

    async def start(self) -> "Life":
        await self.store.open()
        await self.clock_steps.catch_up()
        await self.poller.prepare()
        self.supervisor.start()
        return self

    async def stop(self, drain_s: float = 10.0) -> None:
        """End as at SIGTERM."""
        await self.supervisor.drain(drain_s)
        with suppress(StoreError):
            await self.clock_steps.finish()
        await self.store.close()

    async def kill(self) -> None:
        """End as at ``kill -9``: nothing more reaches the file or the network."""
        self.connection.kill()
        mine = asyncio.current_task()
        left = {task for task in asyncio.all_tasks() if task is not mine and _is_ours(task.get_name())}
        while left:
            for task in left:
                task.cancel()  # more than once: what cleans up after itself is not to get far
            _, left = await asyncio.wait(left, timeout=0.001)

    @property
    def connection(self) -> InlineConnection:
        connection: object = self.store._database._db
        assert isinstance(connection, InlineConnection)
        return connection

    async def register(
        self,
        task_id: str,
        *,
        url: str = "https://app.example/hook",
        timeout_s: int = 86_400,
        client: str = "",
        at_once: bool = True,
        model: str | None = None,
        shape: Format = Format.STANDARD,
    ) -> Callback:
        """Register a callback as the API does; ``at_once``: its task is due whatever the timetable says."""
        now = self.clock.now()
        new = NewCallback(
            id=new_callback_id(now),
            client=client,
            upstream="up",
            task_id=task_id,
            url=url,
            metadata=b"{}",
            timeout_s=timeout_s,
            created_at=now,
            first_poll_at=self.timetable.first_poll_at(now, client, model) if model or not at_once else now,
            model=model,
            format=shape,
        )
        (registration,) = await self.store.registry.register([new])
        return registration.callback

    async def look(self, callback: Callback) -> Callback:
        found = await self.store.registry.get_callback("", callback.id)
        assert found is not None
        return found

    @property
    def claims(self) -> int:
        """How many tasks and callbacks the loops have claimed."""
        return len(self.tasks.held) + len(self.outbox.held)


def _is_ours(name: str) -> bool:
    return name.startswith(("loop-", "poll-", "attempt-", "store-writer", "proxy-"))


async def until(
    condition: Callable[[], bool | Awaitable[bool]], limit_s: float = 86_400.0, step_s: float = 0.1
) -> None:
    """Return once the condition holds; look every ``step_s`` seconds of virtual time."""
    async with asyncio.timeout(limit_s):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(step_s)
