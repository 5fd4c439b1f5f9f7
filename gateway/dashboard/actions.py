"""What forms of the pages do: redeliver one callback, cancel it, redeliver all that died within a span of time.

Owns what a form may ask for and the page that asks "how many?" before. Whether a form may be taken at all the routes
have found out.
"""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode

from gateway.core.clock import from_iso, to_iso
from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.model import CallbackState
from gateway.dashboard.asked import Asked, Shown, text_of
from gateway.dashboard.parts import PageParts

__all__ = ["NOTICES", "Actions"]

_MOST = 100_000
_MOST_OF_RECEIVER = 10_000
"""So many are counted where one receiver's are meant."""
NOTICES = {
    "redelivered": "The webhook is due again, with a fresh attempt budget.",
    "cancelled": "The callback is cancelled: nothing more is sent.",
}
"""What a page says after an action, by what its query says."""


class Dead(NamedTuple):
    """Which dead callbacks are meant."""

    client: str | None
    since: int
    until: int
    receiver: str | None
    """A text that the receiver has in its name; None: whichever it is."""

    @property
    def most(self) -> int:
        """How many of them are looked at."""
        return _MOST if self.receiver is None else _MOST_OF_RECEIVER


class Actions:
    """The forms."""

    def __init__(self, parts: PageParts) -> None:
        self._registry = parts.registry
        self._clock = parts.clock

    async def redeliver(self, asked: Asked, form: Mapping[str, str]) -> str:
        callback_id = _id(asked)
        found = await self._registry.redeliver(asked.visitor.client, callback_id, self._clock.now())
        if found is None:
            raise NotFound(f"There is no callback {callback_id}.")
        if found is CallbackState.WAITING:
            raise Conflict("The task still runs: there is no webhook to redeliver yet.")
        if found is CallbackState.CANCELLED:
            raise Conflict("The callback was cancelled; register it anew.")
        return _page_of(callback_id, "redelivered")

    async def cancel(self, asked: Asked, form: Mapping[str, str]) -> str:
        callback_id = _id(asked)
        found = await self._registry.cancel(asked.visitor.client, callback_id, self._clock.now())
        if found is None:
            raise NotFound(f"There is no callback {callback_id}.")
        if found in (CallbackState.DELIVERED, CallbackState.DEAD):
            raise Conflict(f"The callback is {found} already: there is nothing left to cancel.")
        return _page_of(callback_id, "cancelled")

    async def ask_redeliver_dead(self, asked: Asked) -> Shown:
        """Show how many died within a span, before anything is done about them."""
        dead = self._dead(asked, asked.query)
        count = len(await self._find(dead, dead.most + 1))
        done = asked.query.get("done", "")
        context = {
            "count": min(count, dead.most),
            "more": count > dead.most,
            "since": asked.query.get("since", ""),
            "until": asked.query.get("until", ""),
            "receiver": dead.receiver,
            "client": dead.client if asked.visitor.client is None else None,
            "exact_since": to_iso(dead.since),
            "exact_until": to_iso(dead.until),
            "done": int(done) if done.isascii() and done.isdecimal() and len(done) < 10 else None,
        }
        return Shown("redeliver.html", "callbacks", context)

    async def redeliver_dead(self, asked: Asked, form: Mapping[str, str]) -> str:
        dead = self._dead(asked, form)
        now = self._clock.now()
        count = await self._registry.redeliver_dead(dead.client, dead.since, dead.until, now, receiver=dead.receiver)
        return f"/dashboard/redeliver?{urlencode({'done': count})}"

    async def _find(self, dead: Dead, most: int) -> list[str]:
        return await self._registry.find_dead(dead.client, dead.since, dead.until, most, dead.receiver)

    def _dead(self, asked: Asked, given: Mapping[str, str]) -> Dead:
        own = asked.visitor.client
        client = text_of(given, "client") if own is None else own
        since = _instant(given.get("since", ""), 0)
        until = _instant(given.get("until", ""), self._clock.now() + 1)
        if since >= until:
            raise InvalidRequest("The span must begin before it ends.")
        return Dead(client, since, until, text_of(given, "receiver"))


def _id(asked: Asked) -> str:
    callback_id: str = asked.path_params["id"]
    if not callback_id.isprintable():  # not every database takes such a name, not even to look for it
        raise NotFound("There is no such callback.")
    return callback_id


def _page_of(callback_id: str, done: str) -> str:
    return f"/dashboard/callbacks/{quote(callback_id, safe='')}?{urlencode({'done': done})}"


def _instant(text: str, default: int) -> int:
    """Read an instant as a form's field writes it, in UTC where it names no zone."""
    text = text.strip()
    if not text:
        return default
    for zone in ("", "Z"):
        try:
            return from_iso(f"{text}{zone}")
        except ValueError:
            continue
    raise InvalidRequest(f"{text[:40]!r} is no instant such as 2026-11-23T10:00.")
