"""A webhook receiver for trying things out: takes POSTs, verifies them, prints them.

Owns the ASGI app behind ``gateway listen`` and ``gateway demo``, the readable print of one webhook, and the check of a
saved webhook for ``gateway verify``. Must not open sockets (the caller serves the app) nor act on what a webhook says.
Everything that arrives is untrusted, verified or not: bodies are bounded, printed text is escaped.
"""

import asyncio
import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.core.clock import Clock
from gateway.core.errors import VerificationError
from gateway.core.eventledger import EVENT_TYPES
from gateway.core.terminal import printable
from gateway.signature import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Key, VerifiedWebhook, verify

_MAX_BODY_BYTES = 64 * 1024 * 1024  # a result may hold images
_MAX_SEEN_IDS = 10_000
# Enough for a signed URL; a longer value would push the rest of the webhook off the screen.
_MAX_PRINTED_CHARS = 2048
_MAX_PRINTED_URLS = 20
_NAME_WIDTH = 12
_SLOW_S = 20.0  # longer than an attempt may take by default
_MAX_SLOW_S = 86_400.0
_ANSWER = re.compile(r"(?P<status>[2-5][0-9]{2})|slow(:(?P<delay_s>[0-9]{1,5}(\.[0-9]{1,3})?))?|hang", re.ASCII)
_BOLD, _GREEN, _RED, _YELLOW, _DIM, _RESET = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


class PlannedAnswer(NamedTuple):
    """What a verified webhook is answered, for trying out what the gateway makes of it."""

    status: int = 204
    delay_s: float | None = 0.0
    """How long the sender waits first; None: for ever."""

    def __str__(self) -> str:
        if self.delay_s is None:
            return "none, until the sender goes"
        return f"{self.status} after {self.delay_s:g} s" if self.delay_s else str(self.status)


def parse_answers(text: str) -> tuple[PlannedAnswer, ...]:
    """Read a comma list of answers: a status, ``slow`` or ``slow:SECONDS``, or ``hang``. Raises ValueError."""
    answers = []
    for part in text.split(","):
        found = _ANSWER.fullmatch(part.strip())
        delay_s = float(found["delay_s"] or _SLOW_S) if found else 0.0
        if found is None or delay_s > _MAX_SLOW_S:
            raise ValueError(f"{part.strip()!r} is none of 200 to 599, slow, slow:SECONDS (at most a day) and hang")
        if found["status"]:
            answers.append(PlannedAnswer(int(found["status"])))
        else:
            answers.append(PlannedAnswer(delay_s=None if part.strip() == "hang" else delay_s))
    return tuple(answers)


class ReceivedWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """One POST as it arrived, and whether its signature held."""

    verified: bool
    problem: str | None
    """Why it did not verify."""
    headers: dict[str, str]
    """Names in lower case; values of repeated headers joined with a comma."""
    body: bytes
    event: Any
    """The body's JSON; None where it is not JSON."""
    duplicate: bool
    """A verified webhook whose id came before: delivery is at least once."""
    answer: str | None = None
    """What it is answered, where that is not what a receiver should."""


class Receiver:
    """An ASGI app that answers 204 to a verified webhook and 401 to any other POST, on every path.

    ``answers`` take the place of the 204: the first one the first time that an id comes, then the second, and the last
    from there on. ``on_webhook`` is called for each, verified or not, before it is answered; when it raises, the
    answer is a 500 and the gateway sends again. The last 10,000 verified ids are remembered, to mark duplicates.
    """

    def __init__(
        self,
        secrets: Sequence[Key],
        clock: Clock,
        on_webhook: Callable[[ReceivedWebhook], None],
        answers: Sequence[PlannedAnswer] = (PlannedAnswer(),),
    ) -> None:
        self._secrets = tuple(secrets)
        self._clock = clock
        self._on_webhook = on_webhook
        self._answers = tuple(answers)
        self._seen: dict[str, int] = {}  # how often each verified id came

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # The answer the ASGI specification asks of an app that does not know a protocol; servers expect it.
            raise NotImplementedError(f"no {scope['type']} here, only http")
        if scope["method"] != "POST":
            refused = JSONResponse({"error": "webhooks are sent with POST"}, 405, {"allow": "POST"})
            await refused(scope, receive, send)
            return
        headers = _joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        body = await _read_body(receive)
        if body is None:
            return
        if len(body) > _MAX_BODY_BYTES:
            # Closing spares both sides the rest of the body.
            problem = f"the body is larger than {_MAX_BODY_BYTES} bytes"
            await JSONResponse({"error": problem}, 413, {"connection": "close"})(scope, receive, send)
            return
        webhook = self._check(headers, body)
        self._on_webhook(webhook)
        if not webhook.verified:
            await JSONResponse({"error": webhook.problem}, 401)(scope, receive, send)
            return
        answer = self._answer_to(headers[ID_HEADER])
        self._remember(headers[ID_HEADER])
        if answer.delay_s == 0 or not await _sender_goes(receive, answer.delay_s):
            await Response(status_code=answer.status)(scope, receive, send)

    def _check(self, headers: dict[str, str], body: bytes) -> ReceivedWebhook:
        problem: str | None = None
        duplicate = False
        try:
            duplicate = verify(self._secrets, headers, body, now_s=self._clock.now() / 1000).webhook_id in self._seen
        except VerificationError as error:
            problem = error.message
        answer = self._answer_to(headers[ID_HEADER]) if problem is None else None
        return ReceivedWebhook(
            verified=problem is None,
            problem=problem,
            headers=headers,
            body=body,
            event=_decode(body),
            duplicate=duplicate,
            answer=None if answer is None or answer == PlannedAnswer() else str(answer),
        )

    def _answer_to(self, webhook_id: str) -> PlannedAnswer:
        return self._answers[min(self._seen.get(webhook_id, 0), len(self._answers) - 1)]

    def _remember(self, webhook_id: str) -> None:
        self._seen[webhook_id] = self._seen.get(webhook_id, 0) + 1
        if len(self._seen) > _MAX_SEEN_IDS:
            del self._seen[next(iter(self._seen))]


async def _read_body(receive: Receive) -> bytes | None:
    """Read the body, but not much past the limit; None when the sender hung up."""
    body = bytearray()
    while len(body) <= _MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


async def _sender_goes(receive: Receive, within_s: float | None) -> bool:
    """Wait that long; return at once, True, where the sender hangs up before."""
    try:
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def verify_saved(
    body: bytes, headers_text: bytes | str, secrets: Sequence[Key], now_s: float, tolerance_s: float = 300
) -> VerifiedWebhook:
    """Verify a webhook from a saved body and the saved text of its request headers.

    The text is a JSON object of names and values, or ``name: value`` lines as curl and HTTP dumps print them, up to
    the first empty line. Raises VerificationError, which says so where only what an editor or a shell does to a file
    keeps the body from verifying.
    """
    headers = _saved_headers(headers_text if isinstance(headers_text, str) else _saved_text(headers_text))
    try:
        return verify(secrets, headers, body, now_s=now_s, tolerance_s=tolerance_s)
    except VerificationError:
        for changes, signed in _unsaved(body):
            try:
                verify(secrets, headers, signed, now_s=now_s, tolerance_s=tolerance_s)
            except VerificationError:
                continue
            raise VerificationError(
                f"no signature matches the body as it is saved; without {' and '.join(changes)} one does: "
                "save the bytes as they came",
                "changed",
            ) from None
        raise


_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What saving a body does to it, in the order in which it is undone.
_SAVING: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("another encoding (UTF-16)", lambda body: _saved_text(body).encode() if body.startswith(_UTF16) else body),
    ("a byte order mark", lambda body: body.removeprefix(codecs.BOM_UTF8)),
    ("line ends of CR LF", lambda body: body.replace(b"\r\n", b"\n")),
    ("a newline at its end", lambda body: body.removesuffix(b"\n").removesuffix(b"\r")),
    ("white space in its JSON", lambda body: body if (event := _decode(body)) is None else _json(event).encode()),
)


def _unsaved(body: bytes) -> Iterable[tuple[list[str], bytes]]:
    """Yield what the body may have been before it was saved, with what each takes out; the fewest changes first."""
    for count in range(1, len(_SAVING) + 1):
        for changes in combinations(_SAVING, count):
            signed, names = body, []
            for name, undo in changes:
                if (undone := undo(signed)) != signed:
                    names.append(name)
                    signed = undone
            if len(names) == count:
                yield names, signed


def _saved_text(data: bytes) -> str:
    """Decode a text file of any usual encoding; header values may be of any byte."""
    if data.startswith(_UTF16):  # what PowerShell writes
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _saved_headers(text: str) -> dict[str, str]:
    text = text.removeprefix("\ufeff").strip()
    if text.startswith(("{", "[")):
        members = _decode(text.encode("utf-8", "replace"))
        if not isinstance(members, dict):
            raise VerificationError("the saved headers start like JSON but are no object of names and values")
        # A list for each name is how Go and some proxies write them; a timestamp may be a number.
        pairs = [
            (name, item if isinstance(item, str) else _json(item))
            for name, value in members.items()
            for item in (value if isinstance(value, list) else [value])
        ]
    else:
        pairs = _saved_lines(text)
    names = [name.lower() for name, _ in pairs]
    for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER):
        if names.count(name) > 1:
            raise VerificationError(f"{name} is there more than once: save the headers of one request")
    return _joined(pairs)


def _saved_lines(text: str) -> list[tuple[str, str]]:
    """Read ``name: value`` lines up to the first empty one; others, such as a request line, are passed over."""
    pairs: list[tuple[str, str]] = []
    for line in re.split(r"\r\n?|\n", text):
        # curl -v puts "> " before each line it sent.
        line = line.removeprefix(">")
        if not line.strip():
            break
        name, colon, value = line.strip().partition(":")
        if colon and name:  # HTTP/2's :method and :path have none
            pairs.append((name.strip(), value.strip()))
        elif pairs and not colon and line.startswith((" ", "\t")):
            # A long value, folded over several lines.
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]} {line.strip()}")
    return pairs


def pretty(webhook: ReceivedWebhook, *, colour: bool = False) -> str:
    """Format one webhook as a few lines for people: what its sender wrote cannot move the cursor or fake a line."""

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if colour else text

    if webhook.verified:
        mark, signature = paint(_GREEN, "✓"), paint(_GREEN, "✓ verified")
    else:
        mark, signature = paint(_RED, "✗"), paint(_RED, f"✗ not verified: {_printable(webhook.problem)}")
    title, lines = _lines_of(webhook)
    lines += [("webhook-id", _printable(webhook.headers.get(ID_HEADER, "none"))), ("signature", signature)]
    if webhook.answer is not None:
        lines.append(("answer", paint(_YELLOW, webhook.answer)))
    heading = f"{mark} {paint(_BOLD, title)}"
    if webhook.duplicate:
        heading += paint(_YELLOW, "  (duplicate: this webhook-id came before)")
    return "\n".join([heading, *(f"  {paint(_DIM, name.ljust(_NAME_WIDTH - 1))} {value}" for name, value in lines)])


def _lines_of(webhook: ReceivedWebhook) -> tuple[str, list[tuple[str, str]]]:
    """Pick what is worth reading from the event: a title, and pairs of name and printable value."""
    event = webhook.event
    if not isinstance(event, Mapping) or not isinstance(event.get("data"), Mapping):
        # Of format record it may be any object: what the upstream itself sends.
        is_record = webhook.verified and isinstance(event, Mapping) and "type" not in event
        title = "a task's record" if is_record else "not a task's webhook"
        return title, [("body", _printable(webhook.body.decode("utf-8", "replace")))]
    data = event["data"]
    if isinstance(event.get("type"), str) and event["type"] in EVENT_TYPES:
        return event["type"], [(_printable(name), _printable(value)) for name, value in data.items()]
    lines = [(name, _printable(data.get(name))) for name in ("taskId", "state")]
    result = data.get("result")
    if result is None and isinstance(text := data.get("resultJson"), str):  # of format record
        result = _decode(text.encode("utf-8", "replace")) or text
    urls = result.get("resultUrls") if isinstance(result, Mapping) else None
    if isinstance(urls, list):
        lines += [("resultUrls" if at == 0 else "", _printable(url)) for at, url in enumerate(urls[:_MAX_PRINTED_URLS])]
        if len(urls) > _MAX_PRINTED_URLS:
            lines.append(("", f"… and {len(urls) - _MAX_PRINTED_URLS} more"))
    elif result is not None:
        lines.append(("result", _printable(result)))
    lines += [
        (name, _printable(data[name]))
        for name in ("failCode", "failMsg", "reason", "decodeError")
        if data.get(name) is not None
    ]
    if data.get("metadata"):
        lines.append(("metadata", _printable(data["metadata"])))
    # Of format record it has a code and a sentence in the place of its type.
    title = " ".join([_printable(event[name]) for name in ("type", "code", "msg") if name in event])
    return title or "not a task's webhook", lines


def _printable(value: Any) -> str:
    """Make one short line of any JSON value, with everything escaped that a terminal might act on."""
    text = value if isinstance(value, str) else _json(value)
    if len(text) > _MAX_PRINTED_CHARS:
        text = text[:_MAX_PRINTED_CHARS] + "…"
    return printable(text)


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:  # decoding, nearer to the stack's start, could still take it
        return "(nested too deeply to print)"


def _decode(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors; deep nesting is not
        return None


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Lower the names and join repeated headers as RFC 9110 §5.3 does, so that none hides another."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return headers
