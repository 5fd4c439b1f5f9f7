"""The only file that speaks the upstream's HTTP.

Owns the requests and the bounds around them. The poller asks for a task's state, the proxy forwards what clients ask;
what comes back is a value, whatever went wrong.
"""

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import httpx
import msgspec

from gateway.clock import Clock
from gateway.outcome import PollKind, PollResult, read_answer
from gateway.profile import TASK_ID, Profile
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
    key_number: int = 0
    """Which of the upstream's keys asked, counted from 0."""


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
        self._keys: list[str | None] = []
        self.use_key(api_key)
        self._poll_body = None if profile.request.body is None else msgspec.json.encode(profile.request.body)

    def use_key(self, api_key: str | None) -> None:
        """Send another key from now on. Earlier ones may still come in answers, and are shown as little as this one."""
        self._keys.append(api_key)
        self._headers.pop(self.profile.request.auth_header, None)
        if api_key is not None:
            self._headers[self.profile.request.auth_header] = self.profile.request.auth_prefix + api_key
        # Polls have these and no others: encoding them each time took longer than parsing the answer.
        self._poll_headers = httpx.Headers(self._headers)

    async def poll(self, task_id: str) -> PollResult:
        """Ask for one task's state; an answer within ``timeout_s``, all included, or UNREACHABLE."""
        safe = "/" if self.profile.request.task_id_has_slashes else ""
        if not {".", ".."}.isdisjoint(task_id.split("/") if safe else [task_id]):
            # A URL's dot segments are resolved, encoded or not: the key would be shown to another of the API's pages.
            return PollResult(kind=PollKind.NOT_KNOWN, error="No task has an id with . or .. as a part of its path.")
        path = self.profile.request.status_path.replace(TASK_ID, quote(task_id, safe=safe))
        if self.profile.request.method == "GET":
            return self.read(task_id, await self.forward("GET", path))
        return self.read(task_id, await self._poll_by_post(task_id, path))

    async def _poll_by_post(self, task_id: str, path: str) -> "Answer | NoAnswer":
        if self._poll_body is None:
            return await self.forward("POST", path, content=b"", asks_only=True)
        body = self._poll_body.replace(TASK_ID.encode(), msgspec.json.encode(task_id)[1:-1])
        return await self.forward(
            "POST", path, headers={"content-type": "application/json"}, content=body, asks_only=True
        )

    async def forward(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float | None = None,
        asks_only: bool = False,
    ) -> Answer | NoAnswer:
        """Make one request with the key; ``path`` may have a query, and is sent as it is.

        The time limit is for all of it. ``asks_only``: a POST that changes nothing, and may be sent twice.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        framing = {} if content is None else {"content-length": str(len(content))}
        more = {**(headers or {}), **framing}
        # The path as an extension: a URL of its own for each task would have to be parsed, half of a poll's cost here.
        key_number = len(self._keys) - 1
        request = httpx.Request(
            method,
            self._url,
            headers={**self._headers, **more} if more else self._poll_headers,
            stream=httpx.ByteStream(content or b""),
            extensions={"target": (self._base_path + path).encode("ascii"), "repeatable": asks_only},
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
        return Answer(response.status_code, response.headers, body, key_number)

    def read(self, task_id: str, answer: Answer | NoAnswer) -> PollResult:
        """Return what an answer says of a task, and of the key."""
        if isinstance(answer, NoAnswer):
            return PollResult(kind=answer.kind, error=answer.error)
        first = read_answer(self.profile, task_id, answer.status, None, answer.body)
        if first.error is None:
            return first  # nothing is to wait, and looking for the header took a seventh of all this
        retry_after_s = parse_retry_after(answer.headers.get("retry-after"), self._clock.now())
        result = read_answer(self.profile, task_id, answer.status, retry_after_s, answer.body)
        if result.kind is PollKind.KEY_REFUSED and answer.key_number < len(self._keys) - 1:
            result = msgspec.structs.replace(result, kind=PollKind.BROKEN, of_old_key=True)
        keys = [key for key in self._keys if key]
        if not keys:
            return result
        # Some answers to a refused key repeat it. An error quotes a part of the answer only, and may end within the
        # key: so it is worded anew without it. The rest stays as it was read; a short key may be anywhere in JSON.
        again = read_answer(self.profile, task_id, answer.status, retry_after_s, _masked(answer.body, keys))
        error = _masked((again.error or first.error).encode(), keys).decode()
        return msgspec.structs.replace(result, error=error)

    def without_key(self, answer: Answer) -> Answer:
        """Return an answer that clients may see: some answers to a refused key repeat it."""
        # A key as short as a word is no secret, and would be found in answers that do not speak of it.
        keys = [key for key in self._keys if key is not None and len(key) >= _LEAST_SECRET]
        return msgspec.structs.replace(answer, body=_masked(answer.body, keys)) if keys else answer


def _masked(text: bytes, keys: Sequence[str]) -> bytes:
    for key in keys:
        text = text.replace(key.encode(), b"***")
    return text


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
