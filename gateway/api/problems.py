"""Errors → ``application/problem+json`` (RFC 9457), for everything that HTTP clients can do wrong.

Owns the error format. Used by the wiring as exception handlers and by the batch route for its items.
"""

from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.errors import MethodNotAllowed, NotFound, RequestError, StoreError, Unavailable

__all__ = ["EXCEPTION_HANDLERS", "PROBLEM_TYPE", "problem"]

_log = structlog.get_logger()

PROBLEM_TYPE = "application/problem+json"
_STORE_RETRY_AFTER_S = 5


def problem(error: RequestError) -> dict[str, Any]:
    """Return the problem document of an error."""
    document: dict[str, Any] = {
        "type": f"urn:webhook-gateway:problem:{error.code.replace('_', '-')}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    if error.errors:
        document["errors"] = [{"field": field, "message": message} for field, message in error.errors]
    return document


def _response(error: RequestError) -> Response:
    return Response(msgspec.json.encode(problem(error)), error.status, error.headers, PROBLEM_TYPE)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - registered for this class
    return _response(error)


async def _store_error(request: Request, error: Exception) -> Response:
    _log.warning("request.store_failed", path=request.url.path, error=str(error))
    return _response(
        Unavailable(
            "The database cannot be used at the moment; nothing was stored.", retry_after_s=_STORE_RETRY_AFTER_S
        )
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    """Answer what Starlette's router refuses."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    if error.status_code == MethodNotAllowed.status:
        allowed = (error.headers or {}).get("Allow", "")
        refused: RequestError = MethodNotAllowed(f"{request.method} is not allowed here; use {allowed}.")
        refused.headers["allow"] = allowed  # RFC 9110 §15.5.6 asks for it
    else:
        refused = NotFound(f"There is nothing at {request.url.path}; GET /openapi.json lists what there is.")
    return _response(refused)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _defect(request: Request, error: Exception) -> Response:
    _log.error("request.failed", method=request.method, path=request.url.path, exc_info=error)
    return _response(RequestError("The gateway failed on this request; its log says why. It is safe to try again."))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    RequestError: _request_error,
    StoreError: _store_error,
    HTTPException: _http_exception,
    ClientDisconnect: _client_gone,
    Exception: _defect,
}
