"""Why an attempt failed, in sentences for people: what went wrong and what to do, and never a URL's path or query.

Owns the words, and whom they speak of: a callback's receiver, or whoever gets the operator's events. Pure. Called by
``sender``.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import httpx

from gateway.core.urls import cached_by_url
from gateway.net import errors

Reason = Literal[errors.Reason, "status"]


class Peer(NamedTuple):
    """What the sentences call whom a POST goes to."""

    name: str
    url: str
    """What its URL is called."""
    change: str
    """How another URL is named."""
    wants_no_more: str
    """What an answer of 410 says."""


OF_CALLBACK = Peer(
    "the receiver",
    "callback URL",
    "register the callback again with",
    "it wants no more webhooks; redeliver once it does again",
)
OF_EVENTS = Peer(
    "the events URL server",
    "events URL",
    "set GATEWAY_EVENTS_URL to",
    "it wants no more events, and so this one is given up",
)

SENTENCES: dict[Reason, str] = {
    "dns": "The name of {where} could not be resolved ({why}): check the {peer.url}'s host and its DNS record.",
    "refused": (
        "{where} could not be reached ({why}): check that {peer.name} runs, and that its firewall lets the gateway in."
    ),
    "tls": (
        "No secure connection to {where} ({why}): "
        "check {peer.name}'s certificate, its chain, and that the name in it is the URL's."
    ),
    "timeout": (
        "{where} did not answer in full within {timeout_s} s: let {peer.name} answer first and do its work afterwards."
    ),
    "reset": (
        "{where} closed the connection before its answer was complete: "
        "look for a crash or a time limit in {peer.name}'s log, or in the proxy's before it."
    ),
    "protocol": (
        "What {where} answered is not valid HTTP/1.1 ({why}): check that the {peer.url}'s scheme and port are right."
    ),
    "proxy_unreachable": (
        "The egress proxy on the way to {where} could not be reached ({why}): "
        "whoever operates the gateway must see that it runs. The attempt does not count."
    ),
    "proxy_auth": (
        "The egress proxy on the way to {where} refuses the gateway's user or password ({why}): "
        "whoever operates the gateway must set the proxy's own. The attempt does not count."
    ),
    "proxy_failed": (
        "The egress proxy opened no connection to {where} ({why}): check that {peer.name} runs, "
        "and that the proxy knows its name and may connect to it."
    ),
    "proxy_timeout": (
        "The egress proxy on the way to {where} neither connected nor refused ({why}): "
        "look into the proxy's log, and whether {peer.name} runs."
    ),
    "blocked": "The {peer.url} cannot be read: {peer.change} a valid URL.",
}

_OF_US = re.compile(r" ALERT (.*CERTIFICATE|UNKNOWN CA|HANDSHAKE FAILURE|ACCESS DENIED)")
"""What a receiver says that minds our certificate, or that there is none."""
_REFUSES_US = (
    "No secure connection to {where} ({why}): {peer.name} refuses it, most often as it wants a client certificate, "
    "or another one. Whoever operates the gateway has it in client_cert_file of [[receivers]]."
)

# The dearest part of making a request.
parsed: Callable[[str], httpx.URL] = cached_by_url(httpx.URL)
"""A URL's parts. Raises httpx.InvalidURL."""


@cached_by_url
def where(url: str) -> str:
    """Return the URL's host and port: all that an error may show of it. Raises httpx.InvalidURL."""
    return parsed(url).netloc.decode("ascii")


def explained(reason: Reason, url: str, peer: Peer = OF_CALLBACK, *, why: str = "", timeout_s: float = 0.0) -> str:
    """Say why there is no answer, or not the whole of one."""
    text = _REFUSES_US if reason == "tls" and _OF_US.search(why) else SENTENCES[reason]
    shown = "" if reason == "blocked" else where(url)  # else it can be read
    return text.format(peer=peer, where=shown, why=why, timeout_s=f"{timeout_s:g}")


def explained_status(status_code: int, at: str, peer: Peer = OF_CALLBACK) -> str:
    """Say what an answer that is none of 2xx means; ``at``: host and port."""
    if 300 <= status_code < 400:
        advice = f"redirects are never followed, so {peer.change} the URL that it points to"
    elif status_code in (401, 403):
        advice = f"check the signature, or what {peer.name} (or a proxy before it) wants for authorization"
    elif status_code == 407:
        advice = f"check what the proxy before {peer.name} wants for authorization"
    elif status_code in (404, 405):
        advice = f"check the {peer.url}'s path, and that it takes POST"
    elif status_code == 410:
        advice = peer.wants_no_more
    elif status_code == 429:
        advice = "it takes no more requests for now"
    elif status_code >= 500:
        advice = f"look into {peer.name}'s log"
    else:
        advice = "only 2xx counts as delivered; the answer's text may say why"
    return f"{at} answered {status_code}: {advice}."
