"""The clients of several replicas: they register, read and create without a pause, and try elsewhere what failed once.

Owns the load, and what each try came to. A client that got no answer, or 503, asks once more, another replica where
there is one; what fails then too is taken down, and asked for again later.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from tests.crash.checker import Checker
from tests.crash.harness import http_client
from tests.crash.replicas import Replica
from tests.crash.scenario import Item, items
from tests.crash.sharedsides import UPSTREAMS, SharedSides

__all__ = ["Clients", "Failure"]

_PER_S = 15.0  # registrations: what the keys' limits let through
_LIMIT_S = 3.0
"""So long a client waits for an answer."""
_AVOIDED_S = 2.0
"""So long a replica that failed is asked for nothing, as whoever hands out the requests would."""


@dataclass(frozen=True)
class Failure:
    """A try that failed, in seconds of the monotonic clock."""

    replica: str
    began_at: float
    ended_at: float
    what: str
    retry_after_s: float = 0.0
    """When it is to be tried again, as it was told."""


class Clients:
    """What the load is, and what came of it."""

    def __init__(
        self, sides: SharedSides, checker: Checker, replicas: Callable[[], Sequence[Replica]], seed: int
    ) -> None:
        """``replicas``: those that are there to be asked."""
        self.workers = 6
        self.patient = False
        """Whether they wait before they ask again, for as long as they were told; else they ask another at once."""
        self.first: list[Failure] = []
        self.second: list[Failure] = []
        """Of clients that asked once more."""
        self.problems: list[str] = []
        self.others: Counter[str] = Counter()
        """What proxied reads and creates were answered."""
        self._sides, self._checker, self._replicas = sides, checker, replicas
        self._rng = Random(seed)
        self._items: Iterator[list[Item]] = items(seed)
        self._unanswered: deque[list[Item]] = deque()
        self._avoided: dict[str, float] = {}
        self._stopping = asyncio.Event()
        self.answered = asyncio.Event()
        """Set with each registration that was answered."""

    async def run(self) -> None:
        """Ask until they are stopped, and for what had no answer until it has one."""
        self._stopping.clear()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(http_client())
            async with asyncio.TaskGroup() as group:
                for number in range(self.workers):
                    group.create_task(self._register_always(client), name=f"client-{number}")
                group.create_task(self._read_always(client), name="reader")
                group.create_task(self._create_always(client), name="creator")

    def stop(self) -> None:
        self._stopping.set()

    async def _pause(self, pause_s: float) -> bool:
        """Return after a pause whether to go on."""
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s * (0.5 + self._rng.random()))
        except TimeoutError:
            return True
        return False

    # Registrations

    async def _register_always(self, client: httpx.AsyncClient) -> None:
        while True:
            going_on = await self._pause(self.workers / _PER_S)
            if not going_on and not self._unanswered:
                return
            again = self._unanswered and (not going_on or self._rng.random() < 0.3)
            await self._register(client, self._unanswered.popleft() if again else next(self._items))

    async def _register(self, client: httpx.AsyncClient, batch: list[Item]) -> None:
        self._checker.sent |= {item.key: item for item in batch}
        first = self._choose()
        response, failure = await self._try(client, first, batch)
        if response is None:
            assert failure is not None
            self.first.append(failure)
            if self.patient:
                await asyncio.sleep(failure.retry_after_s)
            response, failure = await self._try(client, self._choose(but=first), batch)
        if response is None:
            assert failure is not None
            self.second.append(failure)
            self._unanswered.append(batch)
            return
        answers = [{"status": response.status_code, "callback": response.json()}]
        if len(batch) > 1:
            answers = response.json()["data"]
        for item, answer in zip(batch, answers, strict=True):
            if answer["status"] in (200, 201):
                self._checker.answered(item, answer["status"], answer["callback"])
            else:
                self.problems.append(f"a registration in a batch was answered {answer}")
        self.answered.set()

    async def _try(
        self, client: httpx.AsyncClient, replica: Replica, batch: list[Item]
    ) -> tuple[httpx.Response | None, Failure | None]:
        requests = [
            item.request(self._sides.url_of(item)) | {"upstream": self._sides.upstream_of(item)} for item in batch
        ]
        path = "/v1/callbacks" if len(batch) == 1 else "/v1/callbacks/batch"
        began_at = time.monotonic()
        name, retry_after_s = replica.name, 0.0
        try:
            body = requests[0] if len(batch) == 1 else {"callbacks": requests}
            response = await self._ask(client, "POST", replica.url + path, body)
        except (httpx.TransportError, TimeoutError) as exc:
            what = repr(exc)
        else:
            in_batch = response.json()["data"] if len(batch) > 1 and response.status_code == 200 else []
            if response.status_code in (200, 201) and all(one["status"] != 503 for one in in_batch):
                return response, None
            what = f"{response.status_code} {response.text[:300]}"
            retry_after_s = float(response.headers.get("retry-after", 0))
            if response.status_code == 503 and not retry_after_s:
                self.problems.append(f"{name} answered {what}, without Retry-After")
            if response.status_code != 503 and not in_batch:
                self.problems.append(f"{name} answered a registration {what}")
        self._avoided[name] = time.monotonic() + _AVOIDED_S
        return None, Failure(name, began_at, time.monotonic(), what, retry_after_s)

    def _choose(self, but: Replica | None = None) -> Replica:
        """Choose a replica at random, one that has not just failed if there is one."""
        now = time.monotonic()
        there = self._replicas()
        others = [one for one in there if one is not but] or there
        good = [one for one in others if self._avoided.get(one.name, 0.0) < now]
        return self._rng.choice(good or others)

    async def _ask(self, client: httpx.AsyncClient, method: str, url: str, body: Any = None) -> httpx.Response:
        async with asyncio.timeout(_LIMIT_S):
            return await client.request(method, url, json=body)

    # What else is asked of an upstream with the same key

    async def _read_always(self, client: httpx.AsyncClient) -> None:
        number = 0
        while await self._pause(0.3):
            number += 1
            path = f"/api/v1/jobs/recordInfo?taskId=sim-success-300-read-{number}"
            await self._ask_other(client, "read", "GET", path)

    async def _create_always(self, client: httpx.AsyncClient) -> None:
        body = {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}}
        while await self._pause(0.4):
            await self._ask_other(client, "create", "POST", "/api/v1/jobs/createTask", body)

    async def _ask_other(self, client: httpx.AsyncClient, kind: str, method: str, path: str, body: Any = None) -> None:
        replica = self._choose()
        try:
            url = f"{replica.url}/u/{self._rng.choice(UPSTREAMS)}{path}"
            response = await self._ask(client, method, url, body)
        except (httpx.TransportError, TimeoutError):
            self.others[f"{kind} no answer"] += 1
        else:
            self.others[f"{kind} {response.status_code}"] += 1
