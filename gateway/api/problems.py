"""Errors → answers, for everything that HTTP clients can do wrong.

Owns their formats: below an upstream's own paths, which the proxy serves, its envelope; everywhere else
``application/problem+json`` (RFC 9457). Used as exception handlers, by the token check, and for a batch's items.
"""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.config.profile import Profile
from gateway.core.errors import (
    MethodNotAllowed,
    NotFound,
    RateLimited,
    RequestError,
    StoreError,
    StoreLocked,
    StorePartly,
    StoreUnsure,
    Unavailable,
    without_frames,
)
from gateway.upstream.envelope import error_envelope

_log = structlog.get_logger()

PROBLEM_TYPE = "application/problem+json"
_STORE_RETRY_AFTER_S = 5


class FieldError(TypedDict):
    field: str
    message: str


class Problem(TypedDict):
    """An error as RFC 9457 has it; clients go by ``code``, which stays the same."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: NotRequired[list[FieldError]]


def problem(error: RequestError) -> Problem:
    """Return the problem document of an error."""
    document: Problem = {
        "type": f"urn:webhook-gateway:problem:{error.code.replace('_', '-')}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    if error.errors:
        document["errors"] = [{"field": field, "message": message} for field, message in error.errors]
    return document


class ErrorAnswers:
    """Answers errors; ``profile_of`` returns the API whose envelope they have below a path, None for none."""

    def __init__(self, profile_of: Callable[[str], Profile | None]) -> None:
        self.profile_of = profile_of

    def handlers(self) -> dict[Any, Any]:
        """Return the handlers for Starlette."""
        return {
            RequestError: self._request_error,
            StoreError: self._store_error,
            HTTPException: self._http_exception,
            ClientDisconnect: _client_gone,
            MemoryError: self._out_of_memory,
            Exception: self._defect,
        }

    def answer(self, path: str, error: RequestError) -> Response:
        """Return the answer to a request for ``path``."""
        profile = self.profile_of(path)
        if profile is None:
            return Response(msgspec.json.encode(problem(error)), error.status, error.headers, PROBLEM_TYPE)
        retry_after_s = error.retry_after_s if isinstance(error, RateLimited) else None
        body = error_envelope(profile, error.status, error.message, retry_after_s)
        return Response(body, error.status, error.headers, "application/json")

    async def _request_error(self, request: Request, error: RequestError) -> Response:
        return self.answer(request.url.path, without_frames(error))  # one of them may hold it, and the request

    async def _store_error(self, request: Request, error: StoreError) -> Response:
        told = "The database cannot be used at the moment; nothing was stored."
        why: BaseException = error
        if isinstance(error, StorePartly):
            told, why = error.message, error.__cause__ or error
        elif isinstance(error, StoreUnsure):
            told = "The database's answer was lost, so that this may be stored all the same; send it again."
        elif isinstance(error, StoreLocked):
            told = "Somebody else holds in the database what this would change; nothing was stored, send it again."
        _log.warning("request.store_failed", path=request.url.path, error=str(why))
        return self.answer(request.url.path, Unavailable(told, retry_after_s=_STORE_RETRY_AFTER_S))

    async def _out_of_memory(self, request: Request, error: Exception) -> Response:
        _log.error("request.out_of_memory", method=request.method, path=request.url.path)
        return self.answer(request.url.path, Unavailable("The gateway has no memory left for this request."))

    async def _http_exception(self, request: Request, error: HTTPException) -> Response:
        """Answer what Starlette's router refuses."""
        if error.status_code == MethodNotAllowed.status:
            allowed = (error.headers or {}).get("Allow", "")
            refused: RequestError = MethodNotAllowed(f"{request.method} is not allowed here; use {allowed}.")
            refused.headers["allow"] = allowed  # RFC 9110 §15.5.6 asks for it
        else:
            refused = NotFound(f"There is nothing at {request.url.path}; GET /openapi.json lists what there is.")
        return self.answer(request.url.path, refused)

    async def _defect(self, request: Request, error: Exception) -> Response:
        _log.error("request.failed", method=request.method, path=request.url.path, exc_info=error)
        return self.answer(request.url.path, RequestError("The gateway failed on this request; its log says why."))


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it
