"""The simulated upstream's HTTP: a raw ASGI application, and ``serve`` to put it on a socket.

Owns the tasks, what is counted, and the order in which a request meets key check, rate limit, fault and answer. Must
not wait without a timer or a socket event. Called by ``gateway.cli``, the tests and the benchmarks.

Routes: ``GET /api/v1/jobs/recordInfo``, ``POST /api/v1/jobs/createTask``; those of other APIs, which ``jobs`` has; and
for control, never limited or spoiled, ``GET /_sim/stats`` and ``POST /_sim/faults`` with a JSON array of faults, which
replaces those in force.
"""

import asyncio
import codecs
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from random import Random
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.api.webpages import PagesRefused
from gateway.core import lenientjson
from gateway.core.clock import Clock
from gateway.core.ratelimit import RateWindow
from gateway.serve.asgi import serve_asgi
from gateway.serve.serverprotocol import ServerProtocol
from gateway.simulator.faults import REPLACING, Endpoint, ErrorBody, Fault, FaultKind, Faults, SimResponse
from gateway.simulator.jobs import JobCall, Jobs, job_call
from gateway.simulator.scenario import (
    DEFAULT_MODEL,
    DEFAULT_PARAM,
    KeyedLimiter,
    Plan,
    PlanMix,
    Refusal,
    SimTask,
    drop_oldest,
    encode_text,
    error_envelope,
    plan_from_task_id,
)
from gateway.simulator.stats import Stats

RECORD_INFO = "/api/v1/jobs/recordInfo"
CREATE_TASK = "/api/v1/jobs/createTask"
_MAX_BODY_BYTES = 32 << 20
"""Runway takes data URIs of up to 16 MB (https://docs.dev.runwayml.com/assets/inputs), and others whole files."""
_encode = msgspec.json.Encoder().encode
_faults_decoder = msgspec.json.Decoder(list[Fault])


class SimulatedUpstream:
    """The upstream's two endpoints as an ASGI application, and beside them those of other job APIs.

    ``keys``: Bearer keys that are let in; none: everybody is. ``rate`` and ``create_rate``: limits for each key of
    reads and creates; none: no limit. ``plans``: what created tasks do; ``models``: what those of
    some models do in place of that. ``seed``: makes durations and faults repeat. ``max_tasks``: how many tasks are
    remembered, the oldest being dropped.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        keys: Iterable[str] = (),
        rate: Sequence[RateWindow] = (),
        create_rate: Sequence[RateWindow] = (),
        retry_after_header: bool = False,
        plans: Plan | PlanMix | None = None,
        models: Mapping[str, Plan | PlanMix] = MappingProxyType({}),
        seed: int | None = None,
        max_tasks: int = 100_000,
    ) -> None:
        self._clock = clock
        self._authorizations = frozenset(f"Bearer {key}" for key in keys)
        self._limiters: dict[Endpoint, KeyedLimiter] = {
            "recordInfo": KeyedLimiter(rate),
            "createTask": KeyedLimiter(create_rate),
        }
        self._retry_after_header = retry_after_header
        self._plans = PlanMix() if plans is None else plans
        self._models = models
        # One each: how often a fault is drawn must not change what tasks do.
        self._rng, faults_rng = Random(seed), Random(seed)  # noqa: S311 - repeatable on purpose, nothing secret
        self._max_tasks = max_tasks
        self._tasks: dict[str, SimTask] = {}
        self._requests_seen: dict[str, str] = {}
        self._jobs = Jobs(self._tasks, self._remember, self._plan_of)
        self.faults = Faults(faults_rng)
        self.stats = Stats()

    def add_task(
        self,
        task_id: str,
        plan: Plan,
        *,
        created_at: int | None = None,
        model: str = DEFAULT_MODEL,
        param: str = DEFAULT_PARAM,
    ) -> None:
        """Make a task known, or replace it. ``created_at`` (ms) is now where not given.

        ``param`` stands in the answers as it is, JSON or not.
        """
        at = self._clock.now() if created_at is None else created_at
        self._remember(task_id, SimTask(at, plan, model, param))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == RECORD_INFO and method == "GET":
            await self._handle("recordInfo", _task_id(scope["query_string"]), None, scope, receive, send)
        elif path == CREATE_TASK and method == "POST":
            body = await _read_body(receive)
            await self._handle("createTask", None, body, scope, receive, send)
        elif path == "/_sim/stats" and method == "GET":
            await _send(send, _json(200, {**self.stats.as_json(), "tasks": len(self._tasks)}))
        elif path == "/_sim/faults" and method == "POST":
            await _send(send, self._replace_faults(await _read_body(receive)))
        elif (call := job_call(method, path, scope["query_string"])) is not None:
            await self._handle_call(call, scope, receive, send)
        else:
            self.stats.count_request("other", self._clock.monotonic())
            await self._finish(send, _json(404, error_envelope(404, "No such endpoint")))

    async def _handle(
        self, endpoint: Endpoint, task_id: str | None, body: bytes | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        key = _header(scope, b"authorization")
        met = self._meet(endpoint, task_id, key)
        if met is not None and isinstance(met, SimResponse):
            await self._finish(send, met)
            return
        if body is None:
            envelope = self._record_info(task_id, key)
        else:
            envelope = self._create_task(body, key, _header(scope, b"x-request-id"))
        if met is None:
            await self._finish(send, _json(envelope["code"], envelope))
        else:
            await self._finish_with_fault(met, envelope["code"], envelope, scope, receive, send)

    async def _handle_call(self, call: JobCall, scope: Scope, receive: Receive, send: Send) -> None:
        """Do for another API's call what ``_handle`` does for the family's."""
        body = await _read_body(receive)
        headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in scope["headers"]}
        key = headers.get("authorization", "")
        task_id = call.task_id if call.endpoint == "recordInfo" else None
        met = self._meet(call.endpoint, task_id, key, call.api.error)
        if isinstance(met, SimResponse):
            await self._finish(send, met)
            return
        answer = self._jobs.answer(call, headers, body, key, self._clock.now())
        if answer.hold_s > 0:
            if await _client_gone_within(receive, answer.hold_s):
                return
            answer = self._jobs.made(call, answer.made, self._clock.now())
        if met is not None:
            await self._finish_with_fault(met, answer.status, answer.body, scope, receive, send)
        elif isinstance(answer.body, bytes):
            await self._finish(send, SimResponse(answer.status, answer.body, b"application/octet-stream"))
        else:
            await self._finish(send, _json(answer.status, answer.body))

    def _meet(
        self, endpoint: Endpoint | None, task_id: str | None, key: str, error: ErrorBody = error_envelope
    ) -> SimResponse | Fault | None:
        """Count a request, and return what it meets before it is carried out.

        That is an answer that takes the place of its own, a fault that is to spoil it, or nothing. ``endpoint`` is None
        for what is neither a read nor a create: the key is looked at, and that is all.
        """
        now_s = self._clock.monotonic()
        self.stats.count_request(endpoint or "other", now_s)
        if task_id is not None:
            self.stats.count_poll(task_id)
        if self._authorizations and key not in self._authorizations:
            return _json(401, error(401, "API key is missing or invalid", None))
        if endpoint is None:
            return None
        refusal = self._limiters[endpoint].check(key, now_s)
        if refusal is not None:
            return self._too_many(refusal, error)
        fault = self.faults.pick(endpoint, task_id) if self.faults.active else None
        if fault is None:
            return None
        self.stats.faults[fault.kind] += 1
        return fault.replacement(error) if fault.kind in REPLACING else fault

    def _record_info(self, task_id: str | None, key: str) -> dict[str, Any]:
        if not task_id:
            return error_envelope(400, "taskId is required")
        task = self._tasks.get(task_id)
        now = self._clock.now()
        if task is None:
            plan = plan_from_task_id(task_id)
            if plan is not None:
                task = SimTask(now, plan)
                self._remember(task_id, task)
        # As the real one: another key's task is not told from one that does not exist.
        if task is None or task.key not in (None, key):
            return error_envelope(404, "Task not found")
        return task.envelope(task_id, now)

    def _create_task(self, body: bytes, key: str, request_id: str) -> dict[str, Any]:
        try:
            wanted = lenientjson.decode(body)
        except ValueError:
            return error_envelope(400, "The request body is not valid JSON")
        if not isinstance(wanted, dict):
            return error_envelope(400, "The request body must be a JSON object")
        model = wanted.get("model")
        if not isinstance(model, str) or not model:
            return error_envelope(422, "model is required")
        if not isinstance(wanted.get("input"), dict):
            return error_envelope(422, "input must be an object")
        seen_as = f"{key}\n{request_id}" if request_id else ""
        task_id = self._requests_seen.get(seen_as) if seen_as else None
        if task_id is None:
            # Never from the seed: a restart must not hand out the ids of the run before it.
            task_id = str(uuid4())
            # The whole body: a member that the gateway should have taken out is seen in `param`.
            task = SimTask(self._clock.now(), self._plan_of(model), model, encode_text(wanted), key)
            self._remember(task_id, task)
            if seen_as:
                drop_oldest(self._requests_seen, self._max_tasks)
                self._requests_seen[seen_as] = task_id
        return {"code": 200, "msg": "success", "data": {"taskId": task_id}}

    def _plan_of(self, model: str) -> Plan:
        plans = self._models.get(model, self._plans)
        return plans if isinstance(plans, Plan) else plans.draw(self._rng)

    def _remember(self, task_id: str, task: SimTask) -> None:
        if task_id not in self._tasks:
            drop_oldest(self._tasks, self._max_tasks)
        self._tasks[task_id] = task

    def _too_many(self, refusal: Refusal, error: ErrorBody) -> SimResponse:
        window, wait_s = refusal
        data = {"retryAfter": wait_s, "limit": window.limit, "tier": "basic", "windowSeconds": window.window_s}
        msg = f"Rate limit exceeded. Please try again in {wait_s} seconds."
        headers = [(b"retry-after", b"%d" % wait_s)] if self._retry_after_header else []
        return SimResponse(429, _encode(error(429, msg, data)), headers=headers)

    def _replace_faults(self, body: bytes) -> SimResponse:
        try:
            faults = _faults_decoder.decode(body.removeprefix(codecs.BOM_UTF8))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _json(422, error_envelope(422, str(error)))
        self.faults.clear()
        self.faults.add(*faults)
        return _json(200, {"faults": self.faults.active})

    async def _finish(self, send: Send, answer: SimResponse) -> None:
        self.stats.statuses[answer.status] += 1
        await _send(send, answer)

    async def _finish_with_fault(
        self, fault: Fault, status: int, body: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = SimResponse(status, fault.spoil_body(_encode(fault.spoil_envelope(body))))
        if fault.kind is FaultKind.HANG:
            await _client_gone(receive)
        elif fault.kind is FaultKind.RESET:
            await _send_half_and_reset(scope["state"]["transport"], send, answer)
            await _client_gone(receive)
        else:
            if fault.kind is FaultKind.SLOW and await _client_gone_within(receive, fault.delay_s):
                return
            await self._finish(send, answer)


def serve(
    simulator: SimulatedUpstream, host: str = "127.0.0.1", port: int = 0
) -> AbstractAsyncContextManager[str, bool | None]:
    """Serve ``simulator`` within an ``async with`` block that yields its base URL; see ``serve_asgi``."""
    stats = simulator.stats

    class Protocol(ServerProtocol):
        """uvicorn's protocol, that also counts connections and hands its transport to the application."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            stats.connections_opened += 1
            stats.connections_open += 1
            # Reaches the application as scope["state"]: ASGI itself has no word for a TCP reset.
            self.app_state = {"transport": transport}

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            stats.connections_open -= 1

    return serve_asgi(PagesRefused(simulator), host, port, protocol=Protocol)


def _task_id(query: bytes) -> str:
    """Return the query's taskId, empty where there is none; the plain form takes a short cut."""
    if query.startswith(b"taskId=") and b"&" not in query and b"%" not in query and b"+" not in query:
        return query[7:].decode("latin-1")
    return parse_qs(query.decode("latin-1")).get("taskId", [""])[0]


def _header(scope: Scope, name: bytes) -> str:
    for header, value in scope["headers"]:
        if header == name:
            return str(value, "latin-1")
    return ""


def _json(status: int, value: Any) -> SimResponse:
    return SimResponse(status, _encode(value))


async def _read_body(receive: Receive) -> bytes:
    """Return the body; what goes beyond _MAX_BODY_BYTES is dropped, which leaves JSON that does not parse."""
    parts, left = [], _MAX_BODY_BYTES
    while True:
        message = await receive()
        parts.append(message.get("body", b"")[:left])
        left -= len(parts[-1])
        if not message.get("more_body", False):
            return b"".join(parts)


async def _client_gone(receive: Receive) -> None:
    """Return when the client has closed the connection, or it was reset."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _client_gone_within(receive: Receive, seconds: float) -> bool:
    """Wait so long; return whether the client has gone before that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _client_gone(receive)
            return True
    return False


async def _send(send: Send, answer: SimResponse) -> None:
    await _send_start(send, answer)
    await send({"type": "http.response.body", "body": answer.body})


async def _send_start(send: Send, answer: SimResponse) -> None:
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _send_half_and_reset(transport: asyncio.Transport, send: Send, answer: SimResponse) -> None:
    await _send_start(send, answer)
    await send({"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True})
    # What the system does not take at once the event loop writes in its next turn; an abort would throw it away.
    await asyncio.sleep(0)
    # Lingering for 0 s makes the close a reset (RST) in place of an orderly end (FIN).
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
