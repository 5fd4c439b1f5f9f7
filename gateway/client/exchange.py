"""One call's requests as steps that know no connection: what is sent, when it is sent again, what its answer means.

Owns which calls are repeated, how often and after how long. A call is a generator: it yields what to do and is sent
what came of it, so that the client for threads and the one for asyncio have nothing to repeat but their I/O. Called by
``gateway.client.calls``.
"""

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import Any, Generic, NamedTuple, TypeVar

import httpx

from gateway.client.errors import ApiError, ClientError, NotAGateway, Unreachable
from gateway.core.retryafter import parse_retry_after

T = TypeVar("T")

_LONGEST_PAUSE_S = 30.0
"""A gateway that asks for a longer wait is believed: the error is raised, and has ``retry_after_s``."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NOT_NOW = (502, 503, 504)
"""The gateway, or a proxy in front of it, does not work just now. What was asked may be done all the same."""


class Send(NamedTuple):
    """Send a request; the reply is httpx's response, or why there is none."""

    method: str
    path: str
    params: Mapping[str, Any]
    body: Any
    timeout_s: float


class Pause(NamedTuple):
    """Wait for so long; there is no reply."""

    seconds: float


Reply = httpx.Response | httpx.RequestError | None
Steps = Generator[Send | Pause, Reply, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[T]):
    """What is asked of the gateway, and how its answer is read."""

    method: str
    path: str
    read: Callable[[Any], T]
    """Raises ValueError for what no gateway answers."""
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    repeatable: bool = True
    """Whether asking twice does no more than asking once, also where the first answer was lost."""
    held_s: float = 0.0
    """How long the gateway was asked to hold the request."""


class Exchange:
    """Makes the steps of one question; ``retries`` is how often it is put again at most."""

    def __init__(self, base_url: str, *, timeout_s: float, retries: int, backoff_s: float) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._retries = retries
        self._backoff_s = backoff_s

    def steps(self, ask: Ask[T]) -> Steps[T]:
        """Return the answer. Raises ApiError, Unreachable and NotAGateway."""
        timeout_s = self._timeout_s + ask.held_s
        attempt = 0
        while True:
            reply = yield Send(ask.method, ask.path, ask.params, ask.body, timeout_s)
            error: ClientError
            asked_s = None
            if isinstance(reply, httpx.Response):
                if reply.is_success:
                    return self._read(reply, ask)
                asked_s = parse_retry_after(reply.headers.get("retry-after"), time.time_ns() // 1_000_000)
                error = self._refusal(reply, asked_s)
                again = reply.status_code == 429 or (ask.repeatable and reply.status_code in _NOT_NOW)
            else:
                error = Unreachable(f"No gateway answers at {self._base_url} ({str(reply) or type(reply).__name__}).")
                error.__cause__ = reply
                again = ask.repeatable or isinstance(reply, _NOT_SENT)
            pause_s = max(asked_s or 0.0, self._pause_s(attempt))
            if not again or attempt == self._retries or pause_s > _LONGEST_PAUSE_S:
                raise error
            yield Pause(pause_s)
            attempt += 1

    def _pause_s(self, attempt: int) -> float:
        """Return how long to wait before the next one: twice as long each time, and at random between half and all."""
        longest = min(self._backoff_s * 2.0**attempt, _LONGEST_PAUSE_S)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # nothing secret

    def _read(self, response: httpx.Response, ask: Ask[T]) -> T:
        try:
            return ask.read(None if response.status_code == 204 else _json(response))
        except ValueError as exc:
            raise NotAGateway(f"What {self._base_url} answers is not a gateway's: {exc}.") from exc

    def _refusal(self, response: httpx.Response, retry_after_s: float | None) -> ClientError:
        try:
            problem = _json(response)
        except ValueError:
            problem = None
        if isinstance(problem, dict) and isinstance(problem.get("code"), str):
            return ApiError(response.status_code, problem, retry_after_s)
        to = f", to go to {response.headers['location']}" if response.has_redirect_location else ""
        return NotAGateway(f"{self._base_url} answered {response.status_code}{to}: that is no gateway's answer.")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except JSONDecodeError as exc:
        raise ValueError(f"it is not JSON ({exc})") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
