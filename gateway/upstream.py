"""The only file that speaks the upstream's HTTP.

Owns the requests and the bounds around them. The poller asks for a task's state, the proxy forwards what clients ask;
what comes back is a value, whatever went wrong.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import httpx
import msgspec

from gateway.clock import Clock
from gateway.outcome import PollKind, PollResult, read_answer
from gateway.profile import Profile
from gateway.retry import parse_retry_after

__all__ = ["Answer", "NoAnswer", "Upstream"]

_MAX_ANSWER = 4 * 1024 * 1024  # bytes; a task's answer is a few KB
_USER_AGENT = "Mozilla/5.0 (compatible; webhook-gateway)"
"""Members of the family sit behind a CDN that answers 403 to anything not like a browser."""
_LEAST_SECRET = 8  # characters
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class Answer(msgspec.Struct, frozen=True):
    """What the upstream answered, as it came."""

    status: int
    headers: httpx.Headers
    body: bytes


class NoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer that could be used."""

    error: str
    kind: PollKind = PollKind.UNREACHABLE
    timed_out: bool = False
    sent: bool = True
    """Whether the upstream may have had the request, and acted on it."""


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
        self._url = httpx.URL(base_url)
        self._base_path = self._url.raw_path.decode("ascii").rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {
            "host": self._url.netloc.decode("ascii"),
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": _USER_AGENT,
            **{name.lower(): value for name, value in profile.request.headers.items()},
        }
        if api_key is not None:
            self._headers[profile.request.auth_header] = profile.request.auth_prefix + api_key
        # Polls have these and no others: encoding them each time took longer than parsing the answer.
        self._poll_headers = httpx.Headers(self._headers)

    async def poll(self, task_id: str) -> PollResult:
        """Ask for one task's state; an answer within ``timeout_s``, all included, or UNREACHABLE."""
        safe = "/" if self.profile.request.task_id_has_slashes else ""
        if not {".", ".."}.isdisjoint(task_id.split("/") if safe else [task_id]):
            # A URL's dot segments are resolved, encoded or not: the key would be shown to another of the API's pages.
            told = "No task has an id with . or .. as a part of its path."
            return PollResult(kind=PollKind.NOT_KNOWN, error=told, by_api=False)
        path = self.profile.request.status_path.replace("{task_id}", quote(task_id, safe=safe))
        return self.read(task_id, await self.forward("GET", path))

    async def forward(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Answer | NoAnswer:
        """Make one request with the key; ``path`` may have a query, and is sent as it is.

        The time limit is for all of it.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        framing = {} if content is None else {"content-length": str(len(content))}
        more = {**(headers or {}), **framing}
        # The path as an extension: a URL of its own for each task would have to be parsed, half of a poll's cost here.
        request = httpx.Request(
            method,
            self._url,
            headers={**self._headers, **more} if more else self._poll_headers,
            stream=httpx.ByteStream(content or b""),
            extensions={"target": (self._base_path + path).encode("ascii")},
        )
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._transport.handle_async_request(request)
                assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - the transport's interface
                try:
                    body = await _read(response.stream)
                finally:
                    await response.stream.aclose()
        except TimeoutError:
            return NoAnswer(error=f"The upstream did not answer within {timeout_s:g} s.", timed_out=True)
        except httpx.RemoteProtocolError:  # its text quotes the answer, which may repeat the key
            return NoAnswer(error="The upstream's answer is not valid HTTP/1.1.")
        except httpx.HTTPError as exc:
            return NoAnswer(error=f"The upstream could not be reached: {exc}"[:300], sent=not isinstance(exc, _UNSENT))
        if body is None:
            return NoAnswer(error=f"The upstream's answer is larger than {_MAX_ANSWER} bytes.", kind=PollKind.BROKEN)
        return Answer(response.status_code, response.headers, body)

    def read(self, task_id: str, answer: Answer | NoAnswer) -> PollResult:
        """Return what an answer says of a task, and of the key."""
        if isinstance(answer, NoAnswer):
            return PollResult(kind=answer.kind, error=answer.error)
        first = read_answer(self.profile, task_id, answer.status, None, answer.body)
        if first.error is None:
            return first  # nothing is to wait, and looking for the header took a seventh of all this
        retry_after_s = parse_retry_after(answer.headers.get("retry-after"), self._clock.now())
        result = read_answer(self.profile, task_id, answer.status, retry_after_s, answer.body)
        if not self._api_key:
            return result
        # Some answers to a refused key repeat it. An error quotes a part of the answer only, and may end within the
        # key: so it is worded anew without it. The rest stays as it was read; a short key may be anywhere in JSON.
        masked = answer.body.replace(self._api_key.encode("utf-8"), b"***")
        again = read_answer(self.profile, task_id, answer.status, retry_after_s, masked)
        return msgspec.structs.replace(result, error=(again.error or first.error).replace(self._api_key, "***"))

    def without_key(self, answer: Answer) -> Answer:
        """Return an answer that clients may see: some answers to a refused key repeat it."""
        # A key as short as a word is no secret, and would be found in answers that do not speak of it.
        if self._api_key is None or len(self._api_key) < _LEAST_SECRET:
            return answer
        return msgspec.structs.replace(answer, body=answer.body.replace(self._api_key.encode(), b"***"))


async def _read(stream: httpx.AsyncByteStream) -> bytes | None:
    """Read the body; None where it is larger than allowed."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > _MAX_ANSWER:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
