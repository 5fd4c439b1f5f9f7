"""The upstream's HTTP, which nothing else speaks.

Owns the key, the requests and the bounds around them; what comes back is a value, whatever went wrong. Must not say
what an answer means (``gateway.upstream.answer``), nor when to ask. Called by ``gateway.loops.poller`` for a task's
state, and by ``gateway.api.proxy`` for what clients ask.
"""

import asyncio
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from urllib.parse import quote

import httpx
import msgspec

from gateway.config.profile import TASK_ID, Profile
from gateway.core import lenientjson
from gateway.core.clock import Clock
from gateway.core.masking import Mask
from gateway.core.memory import SMALL, Memory
from gateway.core.retryafter import parse_retry_after
from gateway.core.tracing import PollCall, SpanOfPoll
from gateway.net.errors import ExchangeFailed
from gateway.upstream.answer import Created, PollKind, PollResult, read_answer, read_created
from gateway.upstream.lastanswers import MOST_BYTES, LastAnswers

_MAX_ERROR_ANSWER = SMALL
"""Bytes that are read of an error's answer: all that counts stands at its beginning."""
_MOST_COST = 192 * 1024 * 1024
"""Bytes that reading one answer may take, or three times GATEWAY_MEMORY_BYTES where that is more. The largest images
take less; a few megabytes of empty lists take more."""
_ON_ITS_WORD = 8  # up to this part of all memory, an answer is given its room as soon as it is announced
_USER_AGENT = "Mozilla/5.0 (compatible; webhook-bridging-gateway)"
"""Members of the family sit behind a CDN that answers 403 to anything not like a browser."""
_RETRY_AFTER = b"retry-after"
_GZIP = b"\x1f\x8b"  # how a gzip file begins; a body may be several
_PLAIN = (b"{", b"[")
"""How JSON begins, and nothing compressed: it is not, whatever the headers say."""
_MOST_CODINGS = 8  # a body can be made that decompresses to itself, for ever
_PIECE = 16 * 1024  # bytes that are decompressed at once
_LONGEST_CODING = 7  # characters
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]+")  # as most tasks' ids: in a URL such a text stands as it is
_KEYS_KEPT = 8  # that were in use before, and may still come in answers


class Answer(msgspec.Struct, frozen=True):
    """What the upstream answered, as it came, but for the keys in its body."""

    status: int
    headers: httpx.Headers
    body: bytes
    key_number: int = 0
    """Which of the upstream's keys asked, counted from 0."""
    whose: str = ""
    """For whom it was asked: who takes turns in the memory for large answers."""


class NoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer that could be used."""

    error: str
    logged: str | None = None
    """As in PollResult."""
    kind: PollKind = PollKind.UNREACHABLE
    timed_out: bool = False
    sent: bool = True
    """Whether the upstream may have had the request, and acted on it."""
    unreadable: bool = False
    """As in PollResult."""
    oversized: bool = False
    """As in PollResult."""


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
        max_answer: int = 32 * 1024 * 1024,
        memory: Memory | None = None,
    ) -> None:
        """Keep the key to this object: it goes into its requests' header and nowhere else.

        ``name`` is what callbacks call this upstream; default: as its profile is called. ``max_answer``: bytes of the
        largest answer that is taken, before and after decompression; ``memory``: where large ones have room.
        """
        self.profile = profile
        self.name = name or profile.name
        self.last_answers = LastAnswers(clock, 0 if profile.proxy is None else MOST_BYTES)
        self._transport = transport
        self._clock = clock
        self.base_url = base_url.rstrip("/")
        self._url = httpx.URL(base_url)
        self._base_path = self._url.raw_path.decode("ascii").rstrip("/")
        self._timeout_s = timeout_s
        self.max_answer = max_answer
        self._memory = Memory(2 * max_answer) if memory is None else memory
        self._most_cost = max(_MOST_COST, 3 * self._memory.limit)
        self._headers = {
            "host": self._url.netloc.decode("ascii"),
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": _USER_AGENT,
            **{name.lower(): value for name, value in profile.request.headers.items()},
        }
        self._keys: list[str] = []  # the last one is the one in use, where there is any
        self._key_number = -1
        self.use_key(api_key)
        self._poll_body = None if profile.request.body is None else msgspec.json.encode(profile.request.body)

    def use_key(self, api_key: str | None) -> None:
        """Send another key from now on. Earlier ones may still come in answers, and are shown as little as this one."""
        self._key_number += 1
        if api_key is not None:
            self._keys = [*self._keys[-_KEYS_KEPT:], api_key]
        self._mask = Mask(sorted(self._keys, key=len, reverse=True))
        self._headers.pop(self.profile.request.auth_header, None)
        if api_key is not None:
            self._headers[self.profile.request.auth_header] = self.profile.request.auth_prefix + api_key
        # Polls have these and no others: encoding them each time took longer than parsing the answer.
        self._poll_headers = httpx.Headers(self._headers)

    def poll_call(self, task_id: str) -> PollCall:
        """Return how a poll of the task is told of."""
        asked, origin = self.profile.request, f"{self._url.scheme}://{self._url.netloc.decode('ascii')}"
        template = self._base_path + asked.status_path.partition("?")[0]
        return PollCall(asked.method, origin, self.target(template, task_id) or template, template)

    async def poll(
        self,
        task_id: str,
        whose: str = "",
        span: SpanOfPoll | None = None,
        answered: Callable[[], object] | None = None,
    ) -> PollResult:
        """Ask for one task's state as ``forward``; an answer within ``timeout_s``, all included, or UNREACHABLE."""
        asked = self.profile.request
        path = self.target(asked.status_path, task_id)
        if path is None:
            told = "No task has an id with . or .. as a part of its path."
            return PollResult(kind=PollKind.NOT_KNOWN, error=told, by_api=False)
        headers: dict[str, str] = {}
        by_post = asked.method == "POST"
        body = b"" if by_post else None
        if self._poll_body is not None:
            headers = {"content-type": "application/json"}
            body = self._poll_body.replace(TASK_ID.encode(), msgspec.json.encode(task_id)[1:-1])
        answer = await self.forward(
            asked.method, path, headers=headers, content=body, asks_only=by_post, whose=whose, answered=answered
        )
        if span is not None and isinstance(answer, Answer):
            span.answered(answer.status)
        return await self.read(task_id, answer)

    def target(self, template: str, task_id: str) -> str | None:
        """Return a path and query with the task's id in it, None where no task has such an id."""
        safe = "/" if self.profile.request.task_id_has_slashes else ""
        if not {".", ".."}.isdisjoint(task_id.split("/") if safe else [task_id]):
            # A URL's dot segments are resolved, encoded or not: the key would be shown to another of the API's pages.
            return None
        return template.replace(TASK_ID, task_id if _UNRESERVED.fullmatch(task_id) else quote(task_id, safe=safe))

    async def forward(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float | None = None,
        asks_only: bool = False,
        whose: str = "",
        answered: Callable[[], object] | None = None,
    ) -> Answer | NoAnswer:
        """Make one request with the key; ``path`` may have a query, and is sent as it is.

        The time limit is for all of it. ``asks_only``: a POST that changes nothing, and may be sent twice. ``whose``:
        for which clients it is made, by whom the room for large answers is shared out. ``answered`` is called once the
        head of an answer has come, before any wait for room for the rest.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        framing = {} if content is None else {"content-length": str(len(content))}
        more = {**(headers or {}), **framing}
        # The path as an extension: a URL of its own for each task would have to be parsed, half of a poll's cost here.
        key_number = self._key_number
        request = httpx.Request(
            method,
            self._url,
            headers={**self._headers, **more} if more else self._poll_headers,
            stream=httpx.ByteStream(content or b""),
            extensions={"target": (self._base_path + path).encode("ascii"), "repeatable": asks_only},
        )
        try:
            async with asyncio.timeout(timeout_s) as time_limit:
                response = await self._transport.handle_async_request(request)
                if answered is not None:
                    answered()
                assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - the transport's interface
                try:
                    body = await self._read(response, response.stream, time_limit, whose)
                finally:
                    await response.stream.aclose()
        except TimeoutError:
            return NoAnswer(error=f"The upstream did not answer within {timeout_s:g} s.", timed_out=True)
        except ExchangeFailed as exc:
            what = " could not be reached"
            if exc.sent:
                what = "'s answer is not valid HTTP/1.1" if exc.reason == "protocol" else " gave no answer"
            words = exc.message[:250].rstrip(".")
            if not exc.of_proxy:
                return NoAnswer(error=f"The upstream{what}: {words}.", sent=exc.sent)
            error = f"The upstream{what}: its egress proxy: {exc.why[:250].rstrip('.')}."
            return NoAnswer(error=error, logged=f"The upstream{what}: {words}.", sent=exc.sent)
        if body is not None and not body.startswith(_PLAIN):
            codings = _codings(response.headers)
            if codings:
                return await self._decompressed(response, codings, body, key_number, whose)
        return self._oversized() if body is None else await self._answer(response, body, key_number, whose)

    async def _answer(self, response: httpx.Response, body: bytes, key_number: int, whose: str) -> Answer:
        # Here, so that neither the database nor a webhook, a client or a log ever gets an echo of the key. Of an error
        # the end may be missing.
        mask = self._mask.masked if 200 <= response.status_code < 300 else self._mask.masked_cut
        masked = await self._memory.work(mask, body) if len(body) > SMALL else mask(body)
        return Answer(response.status_code, response.headers, masked, key_number, whose)

    async def _read(
        self, response: httpx.Response, stream: httpx.AsyncByteStream, time_limit: asyncio.Timeout, whose: str
    ) -> bytes | None:
        """Read the body, or how an error's begins; None where it is larger than allowed, and then no more of it."""
        good = 200 <= response.status_code < 300
        limit = self.max_answer if good else min(_MAX_ERROR_ANSWER, self.max_answer)
        announced: int | None = None
        chunks: list[bytes] = []
        size, room = 0, SMALL
        async for chunk in stream:
            chunks.append(chunk)
            size += len(chunk)
            if size > SMALL and announced is None:  # only now: polls are many
                length = response.headers.get("content-length", "")
                announced = int(length) if length.isdecimal() and len(length) < 20 else 0
            if max(size, announced or 0) > limit:
                if good:
                    return None
                if size >= limit:
                    break
            elif size > room:
                # For what is announced, but not for much of that on its word alone: it may never come.
                ahead = 2 * size if not announced else min(2 * size, announced)
                room = max(min(announced or 0, self._memory.limit // _ON_ITS_WORD), ahead)
                await self._hold(2 * room, time_limit, whose)  # its pieces, and then the whole
        return b"".join(chunks)[:limit]

    async def _hold(self, size: int, time_limit: asyncio.Timeout, whose: str) -> None:
        """Wait for room: that is no time of the upstream's."""
        loop = asyncio.get_running_loop()
        began, ends_at = loop.time(), time_limit.when()
        time_limit.reschedule(None)
        await self._memory.hold(size, self.name, whose)
        time_limit.reschedule(None if ends_at is None else ends_at + loop.time() - began)

    async def _decompressed(
        self, response: httpx.Response, codings: Sequence[str], body: bytes, key_number: int, whose: str
    ) -> Answer | NoAnswer:
        """Return an answer that was compressed although that was not asked for."""
        good, limit = 200 <= response.status_code < 300, self.max_answer
        plain, coding = _undone(body, codings, SMALL + 1)
        if plain is not None and len(plain) > SMALL and good:
            await self._memory.hold(2 * len(body) + 2 * limit, self.name, whose)
            plain, coding = await self._memory.work(_undone, body, codings, limit + 1)
        if not coding.isalnum() or len(coding) > _LONGEST_CODING:
            coding = "in an unknown way"  # this goes to clients and logs, and a header may say anything
        if plain is None and good:
            error = (
                f"The upstream's answer cannot be decompressed ({coding}), and compression was not asked for: "
                "see that it, or the CDN before it, heeds Accept-Encoding: identity."
            )
            return NoAnswer(error=error, kind=PollKind.BROKEN, unreadable=True)
        if plain is None:  # the status says enough
            plain = f"(compressed: {coding})".encode("ascii", "replace")
        if good and len(plain) > limit:
            return self._oversized()
        return await self._answer(response, plain[:limit], key_number, whose)

    def _oversized(self) -> NoAnswer:
        error = f"The upstream's answer is larger than the {self.max_answer} bytes of GATEWAY_RESULT_MAX_BYTES."
        return NoAnswer(error=error, kind=PollKind.BROKEN, unreadable=True, oversized=True)

    async def read(self, task_id: str, answer: Answer | NoAnswer) -> PollResult:
        """Return what an answer says of a task, and of the key."""
        if isinstance(answer, NoAnswer):
            why, logged = answer.error, answer.logged
            unreadable, oversized = answer.unreadable, answer.oversized
            return PollResult(kind=answer.kind, error=why, logged=logged, unreadable=unreadable, oversized=oversized)
        if len(answer.body) <= SMALL and lenientjson.is_light(answer.body):
            return self._read_answer(task_id, answer)
        if not await self._has_room(answer):
            error = (
                f"Reading the {len(answer.body)} bytes of the upstream's answer would take more than "
                f"{self._most_cost} bytes of memory; a larger GATEWAY_MEMORY_BYTES allows for it."
            )
            return PollResult(kind=PollKind.BROKEN, error=error, unreadable=True, oversized=True)
        return await self._memory.work(self._read_answer, task_id, answer)

    async def read_created(self, answer: Answer, path: str) -> Created:
        """Read an answer to a create, as ``answer.read_created``."""
        if len(answer.body) <= SMALL and lenientjson.is_light(answer.body):
            return read_created(self.profile, answer.status, answer.body, path)
        body = answer.body if await self._has_room(answer) else b""
        return await self._memory.work(read_created, self.profile, answer.status, body, path)

    async def _has_room(self, answer: Answer) -> bool:
        """Wait for room to decode this; False where that is out of all proportion."""
        cost = await self._memory.work(lenientjson.cost, answer.body)
        if cost > self._most_cost:
            return False
        await self._memory.hold(cost + len(answer.body), self.name, answer.whose)
        return True

    def _read_answer(self, task_id: str, answer: Answer) -> PollResult:
        retry_after_s = self._retry_after_s(answer.headers)
        result = read_answer(self.profile, task_id, answer.status, retry_after_s, answer.body)
        if result.kind is PollKind.KEY_REFUSED and answer.key_number < self._key_number:
            result = msgspec.structs.replace(result, kind=PollKind.BROKEN, of_old_key=True)
        if result.error is None:
            return result
        error = result.error
        for key in self._keys:
            error = error.replace(key, "***")  # one as short as a word, too
        return msgspec.structs.replace(result, error=error)

    def _retry_after_s(self, headers: httpx.Headers) -> float | None:
        # Seldom there: httpx's own look-up, which decodes every header first, took a seventh of reading an answer.
        for name, _ in headers.raw:
            if name.lower() == _RETRY_AFTER:
                return parse_retry_after(headers.get("retry-after"), self._clock.now())
        return None

    def without_key(self, answer: Answer) -> Answer:
        """Return an answer that clients may see, its headers too: some answers to a refused key repeat it."""
        fields = [(name, self._mask.masked(value)) for name, value in answer.headers.raw]
        return msgspec.structs.replace(answer, headers=httpx.Headers(fields))


def _codings(headers: httpx.Headers) -> list[str]:
    """Return how a body is said to be compressed, in the order in which that was done: of all such headers."""
    words = (word.strip().lower() for word in headers.get("content-encoding", "").split(","))
    return [word for word in words if word not in ("", "identity")]


def _undone(body: bytes, codings: Sequence[str], limit: int) -> tuple[bytes | None, str]:
    """Undo the codings, the last one first: at most so many bytes, or None and the coding that cannot be undone."""
    if len(codings) > _MOST_CODINGS:
        return None, ""
    for coding in reversed(codings):
        if body.startswith(_PLAIN) or len(body) >= limit:
            break
        plain = _inflated(body, coding, limit) if coding in ("gzip", "x-gzip", "deflate") else None
        if plain is None:
            return None, coding
        body = plain
    return body, ""


def _inflated(body: bytes, coding: str, limit: int) -> bytes | None:
    """Return at most so many bytes of what was compressed; None where it cannot be decompressed."""
    # zlib's own frame or gzip's, whichever it is; and deflate without a frame, as some servers have always sent it.
    for bits in (47, -15) if coding == "deflate" else (47,):
        with suppress(zlib.error):
            return b"".join(_members(body, bits, limit))
    return None


def _members(body: bytes, bits: int, limit: int) -> Iterator[bytes]:
    """Yield what was compressed, one gzip file after the other: a server may have put several together."""
    member = zlib.decompressobj(bits)
    at = 0
    while at < len(body) and limit > 0:
        # A piece at a time: whatever follows a file is copied when it ends, and there may be very many of them.
        piece = body[at : at + _PIECE]
        plain = member.decompress(piece, limit)
        yield plain
        limit -= len(plain)
        at += len(piece) - len(member.unused_data)
        if member.eof:
            if not body.startswith(_GZIP, at):  # nothing more, or padding
                return
            member = zlib.decompressobj(bits)
