"""Creates that their clients send again under one X-Request-ID: no task is to be paid for twice.

Owns what such a repetition gets, and that equal creates come one after the other. Called by the proxy, which forwards
what is to be forwarded.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.api.forwarding import shutting_down
from gateway.api.proxied import Proxied
from gateway.core.clock import wait_for_event
from gateway.core.creates import KnownCreate, NewCreate
from gateway.core.errors import Conflict

SAME_AGAIN = {"x-should-retry": "false"}
"""Some SDKs send again by themselves what got 409 or 5xx, and heed this: it would get the same, or be paid twice."""
_BOUNDARY = re.compile(r'^multipart/.*;\s*boundary="?([^";]+)', re.IGNORECASE)
_MOST_PARTS = 10_000  # some milliseconds; of a large body millions would hold up all that others have large
_LONGEST_MS = 90_000  # for so long a create is under way that gets no answer, from where it is taken down
_PATIENCE_S = 10.0  # how long such a one is waited for where another replica has it
_Key = tuple[str, str]
"""A client, and its request's id."""


class Once:
    """The creates at one upstream, which may know X-Request-ID itself, and return the task that exists."""

    def __init__(self, proxied: Proxied) -> None:
        self._registry = proxied.registry
        self._clock = proxied.clock
        self._upstream = proxied.upstream.name
        self._honoured = proxied.calls.once
        self._has_replicas, self._recheck_s = proxied.has_replicas, proxied.recheck_s
        self._draining = proxied.draining
        self._under_way: dict[_Key, asyncio.Event] = {}

    def create(self, client: str, request_id: str, digest: bytes) -> NewCreate:
        return NewCreate(
            client=client, upstream=self._upstream, request_id=request_id, digest=digest, at=self._clock.now()
        )

    def alone(self, create: NewCreate) -> "Alone":
        """Wait until no create under this id is under way, and keep others waiting until the block ends."""
        return Alone(self._under_way, (create.client, create.request_id))

    async def look(self, create: NewCreate) -> KnownCreate | None:
        """Return what is known of this create by now; None: it is new."""
        return await self._registry.known_create(create)

    async def known(self, create: NewCreate, look: Callable[[], Awaitable[KnownCreate | None]]) -> KnownCreate | None:
        """Return what ``look`` finds of this create: an answer to be given again, or that it may be forwarded again.

        Where another replica may be forwarding it, once that has its answer. None: it is new. Raises Conflict: it may
        not be forwarded.
        """
        known = await look()
        until = self._clock.monotonic() + _PATIENCE_S
        while known is not None and self._is_anothers(create, known):
            if self._draining.is_set():
                raise shutting_down()
            if self._clock.monotonic() >= until:
                raise Conflict(
                    f"X-Request-ID {create.request_id} is being forwarded by another replica, or was, and its answer "
                    "is lost. Nothing was forwarded now: send this one again, under the same id.",
                    headers={"retry-after": f"{_PATIENCE_S:g}"},
                )
            await wait_for_event(self._draining, self._recheck_s)
            known = await look()
        if known is None:
            return None
        if known.digest != create.digest:
            raise Conflict(
                f"X-Request-ID {create.request_id} was sent with another request before; nothing was forwarded. "
                "A new request needs a new id.",
                headers=SAME_AGAIN,
            )
        if known.answer is None and not self._honoured:
            raise Conflict(
                f"X-Request-ID {create.request_id} was forwarded before, and its answer is not known: a task may have "
                "been created, and this upstream cannot be asked. Nothing was forwarded now. Look there; a new id "
                "creates anew.",
                headers=SAME_AGAIN,
            )
        return known

    def _is_anothers(self, create: NewCreate, known: KnownCreate) -> bool:
        """Whether an equal create may be under way at another replica; here none is."""
        waits = self._has_replicas and not self._honoured and known.digest == create.digest and known.answer is None
        return waits and known.lost_at is None and self._clock.now() < known.at + _LONGEST_MS


class Alone:
    """Of equal creates the one that goes on."""

    def __init__(self, under_way: dict[_Key, asyncio.Event], key: _Key) -> None:
        self._under_way = under_way
        self._key = key
        self._kept = False

    async def __aenter__(self) -> "Alone":
        while (other := self._under_way.get(self._key)) is not None:
            await other.wait()
        self._under_way[self._key] = asyncio.Event()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._kept:
            self._end()

    def last_until(self, work: "asyncio.Task[Any]") -> None:
        """Keep the others waiting until this has ended, which outlives the block where its client goes away."""
        self._kept = True
        work.add_done_callback(self._end)

    def _end(self, *_: object) -> None:
        self._under_way.pop(self._key).set()


def digest_of(target: str, content_type: str, body: bytes) -> bytes:
    """Return what tells one request from another: its bytes, as who tries again sends the same.

    But for what stands between the parts of a form, which many clients draw anew for each try: up to _MOST_PARTS.
    """
    digest = hashlib.sha256(b"%b\0" % target.encode())
    boundary = _BOUNDARY.search(content_type)
    between = b"" if boundary is None else b"--" + boundary[1].encode("latin-1")
    if between and body.count(between) > _MOST_PARTS:
        between = b""
    with memoryview(body) as view:
        start = 0
        while between and (end := body.find(between, start)) >= 0:
            digest.update(view[start:end])
            digest.update(b"--")
            start = end + len(between)
        digest.update(view[start:])
    return digest.digest()
