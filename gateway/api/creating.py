"""A create that is paid for: from where it is forwarded until its callback is registered, and its task is watched.

Owns that a forwarded create's callback is not lost, however long the store fails, and what its client is told where
that cannot be promised. Called by the proxy, once the create has had its turn in the rate limit.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from gateway.api.createrequest import CreateRequest
from gateway.api.registering import new_callback
from gateway.api.schema import TASK_ID, CallbackRequest
from gateway.api.watching import Watching
from gateway.config.profile import Proxy
from gateway.core.clock import Clock
from gateway.core.errors import RequestError, StoreError, Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.core.telemetry import Metrics
from gateway.core.urls import receiver_of
from gateway.store import Registry
from gateway.upstream.api import Answer, NoAnswer, Upstream
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable
from gateway.upstream.turns import Waiter

__all__ = ["Creating", "stopped"]

_log = structlog.get_logger()

_TIMEOUT_S = 75.0  # some APIs hold a create for up to a minute where they are asked to
_REGISTRATION_WAIT_S = 10.0
"""How long the answer to a create is held back for its callback to be durable."""
_MAX_TOLD = 4000  # characters of an answer in which no id was found, which its client is shown
_RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""Pauses between tries to register, while the store fails."""


class Creating:
    """Forwards creates to one upstream until ``draining`` is set; ``spawn`` runs what outlives its client."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        upstream: Upstream,
        calls: Proxy,
        key: UpstreamKey,
        timetable: Timetable,
        watching: Watching,
        *,
        draining: asyncio.Event,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._upstream = upstream
        self._calls = calls
        self._key = key
        self._timetable = timetable
        self._watching = watching
        self._draining = draining
        self._spawn = spawn

    async def forward(
        self, asked: CreateRequest, target: str, headers: Mapping[str, str], request_id: str, waiter: Waiter
    ) -> Answer | RequestError:
        """Forward a create whose turn in the rate limit ``waiter`` has had.

        ``target``: path and query at the upstream; ``headers`` go on with it.
        """
        client = waiter.client
        own = {"content-type": asked.content_type, "x-request-id": _upstream_request_id(client, request_id)}
        if self._draining.is_set():
            self._key.creates.give_back(1, waiter)
            return Unavailable("The gateway is shutting down; nothing was created.")
        try:
            answer = await self._upstream.forward(
                "POST",
                target,
                headers={**headers, **own},
                content=asked.body,
                timeout_s=_TIMEOUT_S,
                whose=client,
            )
            task_id, declined = (None, False) if isinstance(answer, NoAnswer) else await self._read_created(answer)
        except asyncio.CancelledError:  # the drain's time was up
            _log.error("proxy.create_interrupted", upstream=self._upstream.name, request_id=request_id)
            return stopped(request_id)
        finally:
            self._key.creates.end(waiter)
        if isinstance(answer, NoAnswer):
            return _not_created(answer, request_id)
        url = None if asked.callback is None else asked.callback[1]
        registration: asyncio.Task[None] | None = None
        if url is not None and task_id is not None:
            # Before anything else is made of the answer: the task is paid for.
            work = self.register(client, task_id, url, asked.model)
            registration = self._spawn(work, f"proxy-register-{task_id}")
        result = await self._upstream.read(task_id or "", answer)
        self._key.judge_create(result)
        writes = [] if registration is None else [registration]
        if task_id is not None and not declined:
            watch = self._watching.created(task_id, client, asked.model, asked.body, result)
            writes.append(self._spawn(watch, f"proxy-watch-{task_id}"))
        _log.info(
            "proxy.created",
            upstream=self._upstream.name,
            status=answer.status,
            task_id=task_id,
            model=asked.model,
            receiver=None if url is None else receiver_of(url),
            client=client,
        )
        if url is not None and registration is None and not declined:
            return self._without_id(answer, receiver_of(url))
        if writes:
            await asyncio.wait(writes, timeout=_REGISTRATION_WAIT_S)
        return self._upstream.without_key(answer)

    async def _read_created(self, answer: Answer) -> tuple[str | None, bool]:
        """Return the new task's id, and whether the upstream says that it made none."""
        found, refused = await self._upstream.read_created(answer, self._calls.created_id)
        return (found if isinstance(found, str) and TASK_ID.fullmatch(found) else None), refused

    def _without_id(self, answer: Answer, receiver: str) -> RequestError:
        """Return the answer to a create that may have been charged for, and whose webhook cannot be promised."""
        _log.error("proxy.created_without_id", upstream=self._upstream.name, status=answer.status, receiver=receiver)
        text = self._upstream.without_key(answer).body.decode("utf-8", "replace")
        return UpstreamFailed(
            f"The upstream answered {answer.status}, and no {self._calls.created_id} can be found in that: a task may "
            "have been created, and no webhook will come for it. Once its id is known, register it with POST "
            f"/v1/callbacks. The answer was: {text[:_MAX_TOLD]}"
        )

    async def register(self, client: str, task_id: str, url: str, model: str | None) -> None:
        """Register a callback, however long the store fails: its task is paid for."""
        told = {"upstream": self._upstream.name, "task_id": task_id, "receiver": receiver_of(url), "client": client}
        asked = CallbackRequest(task_id=task_id, callback_url=url, model=model)
        tries = 0
        try:
            while True:
                now = self._clock.now()  # anew each time: the clock may have been set since the last
                first_poll_at = self._timetable.first_poll_at(now, client, model, new=True)
                new = new_callback(asked, b"{}", client, self._upstream.name, now, first_poll_at)
                try:
                    (registration,) = await self._registry.register([new])
                except StoreError as exc:
                    pause_s = _RETRY_S[min(tries, len(_RETRY_S) - 1)]
                    tries += 1
                    _log.error("proxy.registration_failed", **told, error=exc.message, next_in_s=pause_s)
                    await asyncio.sleep(pause_s)
                else:
                    self._metrics.registrations.labels(registration.created).inc()
                    return
        except BaseException:  # the drain's time was up, or a defect
            _log.error("proxy.registration_lost", **told)  # by hand: `gateway register`
            raise


def stopped(request_id: str) -> RequestError:
    """Return the answer to a create that the shutdown cut short."""
    return _not_created(NoAnswer(error="The gateway shut down before the upstream answered."), request_id)


def _upstream_request_id(client: str, request_id: str) -> str:
    """Return the id that the upstream sees: the same for a repeated request, another for another client's equal id.

    The upstream answers an id that it has seen with the task of that time, whoever sends it.
    """
    return hashlib.sha256(f"{client}\0{request_id}".encode()).hexdigest()[:32]


def _not_created(answer: NoAnswer, request_id: str) -> RequestError:
    if not answer.sent:
        return UpstreamFailed(f"{answer.error} Nothing was created.")
    return (UpstreamTimeout if answer.timed_out else UpstreamFailed)(
        f"{answer.error} The task may have been created: send the same request again with X-Request-ID: {request_id}, "
        "so that it is not created twice."
    )
