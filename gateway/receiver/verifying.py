"""The one function that a receiver needs: headers and body → the event, or what is wrong with them; the same for
operator events.

Owns in which forms frameworks hand these over, and the hint that somebody wrote the body anew; signatures are
``gateway.signature``'s.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from gateway.core.errors import SecretError, VerificationError
from gateway.receiver.events import Event, read_event, read_told
from gateway.receiver.operatorevents import OperatorEvent
from gateway.signature import Key, parse_secrets
from gateway.signature import verify as verify_signature

_LOOKED_AT = 64 * 1024  # bytes of a body that did not verify up to which its JSON is looked at


class _Items(Protocol):
    """Headers as most frameworks have them, though not all call theirs a mapping."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names and values."""


Headers = Mapping[str, str] | _Items


def verify(
    body: bytes | str,
    headers: Headers,
    secrets: str | Sequence[str],
    *,
    tolerance_s: float = 300,
    now_s: float | None = None,
) -> Event:
    """Return what a webhook says, once its signature has been checked.

    ``body`` is the request's body as it came, before anything parsed it; ``headers`` its headers, names in any case.
    ``secrets``: ``whsec_…``, or ``whpk_…`` with the extra ``ed25519``; several, in a list or with spaces between them,
    while one takes another's place. A timestamp may be ``tolerance_s`` seconds off from ``now_s``, which is now.

    Raises VerificationError, whose ``reason`` and message say what is wrong: answer 401 and handle nothing. UnknownBody
    where the signature is right and the body is an API's own record; SecretError for secrets that cannot be used.
    """
    return read_event(*_verified(body, headers, secrets, tolerance_s, now_s))


def verify_operator_event(
    body: bytes | str,
    headers: Headers,
    secrets: str | Sequence[str],
    *,
    tolerance_s: float = 300,
    now_s: float | None = None,
) -> OperatorEvent:
    """Return what a webhook to GATEWAY_EVENTS_URL says, in the same way; ``secrets``: GATEWAY_WEBHOOK_SECRET's."""
    return read_told(*_verified(body, headers, secrets, tolerance_s, now_s))


def _verified(
    body: bytes | str, headers: Headers, secrets: str | Sequence[str], tolerance_s: float, now_s: float | None
) -> tuple[bytes, str, datetime]:
    """Return a body whose signature holds, its webhook-id and when it was sent."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogateescape")
    elif not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body is {type(body).__name__}: hand over the request's bytes, before anything parses them")
    body, named = bytes(body), _named(headers)
    keys = _keys(secrets if isinstance(secrets, str) else " ".join(secrets))
    now_s = time.time() if now_s is None else now_s
    try:
        verified = verify_signature(keys, named, body, now_s=now_s, tolerance_s=tolerance_s)
    except VerificationError as error:
        if error.reason == "no_match" and _was_rewritten(keys, named, body, now_s, tolerance_s):
            raise VerificationError(
                "the body was changed: it is the JSON that was signed, written in another way. Verify the bytes of the "
                "request, before anything parses them",
                "changed",
            ) from None
        raise
    return body, verified.webhook_id, datetime.fromtimestamp(verified.timestamp_s, UTC)


@lru_cache(maxsize=16)
def _keys(secrets: str) -> tuple[Key, ...]:
    if not secrets.strip():
        raise SecretError("no secret to verify with")
    return parse_secrets(secrets)


def _named(headers: Headers) -> Mapping[str, str]:
    """Return the headers by name. Raises VerificationError for one of ours that is there twice."""
    named: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in named and lower.startswith("webhook-"):
            raise VerificationError(f"{lower} is there more than once")
        named[lower] = value
    return named


def _was_rewritten(
    keys: Sequence[Key], headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float
) -> bool:
    """Whether a signature holds for the body's JSON as the gateway writes it: without white space, text as it is."""
    if len(body) > _LOOKED_AT:
        return False
    try:
        signed = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
        verify_signature(keys, headers, signed, now_s=now_s, tolerance_s=tolerance_s)
    except (ValueError, RecursionError, VerificationError):
        return False
    return True
