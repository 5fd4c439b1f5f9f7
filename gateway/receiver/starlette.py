"""A dependency for FastAPI, and the same for Starlette: the request → the event.

Imported on its own, as it needs starlette (which FastAPI brings, and the gateway too).
"""

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.core.errors import VerificationError
from gateway.receiver.events import Event, UnknownBody
from gateway.receiver.verifying import verify

_MAX_BODY = 64 * 1024 * 1024  # a result may hold images


class WebhookEvent:
    """``event: Annotated[Event, Depends(WebhookEvent(secret))]``, or ``await WebhookEvent(secret)(request)``.

    Answers a request that does not verify with 401, and a body above ``max_bytes`` with 413. One that verifies and is
    an API's own record is 422: verify it with ``verify`` yourself.
    """

    def __init__(self, secrets: str | Sequence[str], *, tolerance_s: float = 300, max_bytes: int = _MAX_BODY) -> None:
        self._secrets = secrets
        self._tolerance_s = tolerance_s
        self._max_bytes = max_bytes

    async def __call__(self, request: Request) -> Event:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self._max_bytes:
                raise HTTPException(413, f"The body has more than {self._max_bytes} bytes.")
        try:
            return verify(bytes(body), request.headers, self._secrets, tolerance_s=self._tolerance_s)
        except VerificationError as error:
            raise HTTPException(401, error.message) from error
        except UnknownBody as error:
            raise HTTPException(422, error.message) from error
