"""The only file that speaks the upstream's HTTP.

Owns the request for a task's status and the bounds around it. Called by the poller; what comes back is a value,
whatever went wrong.
"""

import asyncio
from urllib.parse import quote

import httpx
import msgspec
import structlog

from gateway.clock import Clock
from gateway.outcome import PollKind, PollResult, read_answer
from gateway.profile import Profile
from gateway.retry import parse_retry_after

__all__ = ["Upstream"]

_log = structlog.get_logger()

_MAX_ANSWER = 4 * 1024 * 1024  # bytes; a task's answer is a few KB
_USER_AGENT = "Mozilla/5.0 (compatible; webhook-gateway)"
"""Members of the family sit behind a CDN that answers 403 to anything not like a browser."""


class Upstream:
    """One job API and one key."""

    def __init__(
        self,
        profile: Profile,
        transport: httpx.AsyncBaseTransport,
        clock: Clock,
        *,
        base_url: str,
        api_key: str | None,
        name: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Keep the key to this object: it goes into its requests' header and nowhere else.

        ``name`` is what callbacks call this upstream; default: as its profile is called.
        """
        self.profile = profile
        self.name = name or profile.name
        self._api_key = api_key
        self._transport = transport
        self._clock = clock
        self._status_url = base_url.rstrip("/") + profile.request.status_path
        self._timeout_s = timeout_s
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": _USER_AGENT,
            **{name.lower(): value for name, value in profile.request.headers.items()},
        }
        if api_key is not None:
            self._headers[profile.request.auth_header] = profile.request.auth_prefix + api_key

    async def poll(self, task_id: str) -> PollResult:
        """Ask for one task's state; an answer within ``timeout_s``, all included, or UNREACHABLE."""
        safe = "/" if self.profile.request.task_id_has_slashes else ""
        if not {".", ".."}.isdisjoint(task_id.split("/") if safe else [task_id]):
            # A URL's dot segments are resolved, encoded or not: the key would be shown to another of the API's pages.
            return PollResult(kind=PollKind.NOT_KNOWN, error="No task has an id with . or .. as a part of its path.")
        url = self._status_url.replace("{task_id}", quote(task_id, safe=safe))
        request = httpx.Request("GET", url, headers=self._headers)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    body = await _read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            return PollResult(
                kind=PollKind.UNREACHABLE, error=f"The upstream did not answer within {self._timeout_s:g} s."
            )
        except httpx.RemoteProtocolError:  # its text quotes the answer, which may repeat the key
            return PollResult(kind=PollKind.UNREACHABLE, error="The upstream's answer is not valid HTTP/1.1.")
        except httpx.HTTPError as exc:
            return PollResult(kind=PollKind.UNREACHABLE, error=f"The upstream could not be reached: {exc}"[:300])
        if body is None:
            return PollResult(kind=PollKind.BROKEN, error=f"The upstream's answer is larger than {_MAX_ANSWER} bytes.")
        retry_after_s = parse_retry_after(response.headers.get("retry-after"), self._clock.now())
        result = read_answer(self.profile, task_id, response.status_code, retry_after_s, body)
        if result.error is None or not self._api_key:
            return result
        # Some answers to a refused key repeat it. An error quotes a part of the answer only, and may end within the
        # key: so it is worded anew without it. The rest stays as it was read; a short key may be anywhere in JSON.
        masked = body.replace(self._api_key.encode("utf-8"), b"***")
        again = read_answer(self.profile, task_id, response.status_code, retry_after_s, masked)
        return msgspec.structs.replace(result, error=(again.error or result.error).replace(self._api_key, "***"))


async def _read(response: httpx.Response) -> bytes | None:
    """Read the body; None where it is larger than allowed."""
    chunks: list[bytes] = []
    size = 0
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - the transport's interface
    async for chunk in response.stream:
        size += len(chunk)
        if size > _MAX_ANSWER:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
