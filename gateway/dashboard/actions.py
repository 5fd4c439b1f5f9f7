"""What forms of the pages do: redeliver one callback or all that died within a span, cancel one, pause a receiver.

Owns what a form may ask for and the page that asks "how many?" before, each in its visitor's share of the database.
Whether a form may be taken at all the routes have found out.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, urlencode

import httpx

from gateway.config.receivers import name_of
from gateway.config.settings import DEFAULT_CLIENT
from gateway.core.clock import from_iso, to_iso
from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.search import Sought, sought
from gateway.core.shares import READ, WHOLE
from gateway.core.telling import refuse_cancelling, refuse_redelivering
from gateway.dashboard.asked import Asked, Shown, text_of
from gateway.dashboard.facts import Paused
from gateway.dashboard.frame import web_link
from gateway.dashboard.parts import PageParts
from gateway.dashboard.words import clock_time

_RESUMED = "The receiver was resumed: what is due is sent, a few at first."
NOTICES = {
    "redelivered": "The webhook was made due again, with a fresh attempt budget.",
    "cancelled": "The callback was cancelled: nothing more is sent.",
    "paused": "The receiver was paused: its webhooks wait, and none is lost. An attempt that is under way goes on.",
    "resumed": _RESUMED,
    "held": _RESUMED,  # and what held it on has been resumed since
    "unpaused": "The receiver is not paused: there was nothing to resume.",
}
"""What a page says after an action, by what its query says: in the past tense, as the page goes on."""


def notice(asked: Asked, paused: Paused | None) -> str | None:
    """Return what a page says after an action; ``paused``: what holds back the receiver that it is about."""
    done = asked.query.get("done", "")
    if done == "held" and paused is not None:
        return f"Its own pause was ended, and nothing is sent yet all the same: {_holds(paused)}"
    return NOTICES.get(done)


def _holds(paused: Paused) -> str:
    return (
        f"{paused.receiver} is paused, by {paused.by} since {clock_time(paused.since)}, "
        "with all that lies under it. Resume that."
    )


class Dead(NamedTuple):
    """Which dead callbacks are meant."""

    client: str | None
    since: int
    until: int
    receiver: Sought | None
    """None: whichever it is."""


class Actions:
    """The forms."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._clock = parts.clock

    async def redeliver(self, asked: Asked, form: Mapping[str, str]) -> str:
        callback_id = _id(asked)
        async with self._share(asked, 1):
            found = await self._registry.redeliver(asked.visitor.client, callback_id, self._clock.now())
        if found is None:
            raise NotFound(f"There is no callback {callback_id}.")
        refuse_redelivering(found[0])
        return _page_of(callback_id, "redelivered")

    async def cancel(self, asked: Asked, form: Mapping[str, str]) -> str:
        callback_id = _id(asked)
        async with self._share(asked, 1):
            found = await self._registry.cancel(asked.visitor.client, callback_id, self._clock.now())
        if found is None:
            raise NotFound(f"There is no callback {callback_id}.")
        refuse_cancelling(found)
        return _page_of(callback_id, "cancelled")

    async def pause(self, asked: Asked, form: Mapping[str, str]) -> str:
        async with self._share(asked, READ):
            client, receiver = await self._lane(asked, form)
            await self._refuse_unknown(client)
            await self._parts.pause(client, receiver, asked.visitor.name)
        return _page_of_receiver(form, "paused")

    async def resume(self, asked: Asked, form: Mapping[str, str]) -> str:
        async with self._share(asked, READ):
            client, receiver = await self._lane(asked, form)
            ended = await self._parts.resume(client, receiver, asked.visitor.name)
        above = self._parts.paused(client, receiver, None)
        if not ended and above is not None:
            raise Conflict(f"{receiver} has no pause of its own to end: {_holds(above)}")
        if above is not None:
            return _page_of_receiver(form, "held", client=client, receiver=receiver)
        return _page_of_receiver(form, "resumed" if ended else "unpaused")

    async def _lane(self, asked: Asked, form: Mapping[str, str]) -> tuple[str, str]:
        """Return whose webhooks to which receiver a form means."""
        client = text_of(form, "client") if asked.visitor.client is None else asked.visitor.client
        if client is None:
            raise InvalidRequest("Say whose webhooks are meant: those of which client.")
        named = form.get("receiver", "")
        if await self._is_known(client, named, text_of(form, "callback")):
            return client, named
        url = web_link(named)
        try:
            if url is not None:
                return client, name_of(self._parts.settings().receivers, url)
        except httpx.InvalidURL:
            pass
        raise InvalidRequest("A receiver is named as https://app.example.com, with the port where it has one.")

    async def _is_known(self, client: str, receiver: str, callback_id: str | None) -> bool:
        """Whether webhooks go to a receiver of that name, perhaps as a table called it that is there no more."""
        paused = self._parts.paused(client, receiver, None)
        if paused is not None and paused.receiver == receiver:
            return True
        if any((one.client, one.receiver) == (client, receiver) for one in self._parts.receivers()):
            return True
        callback = None if callback_id is None else await self._registry.get_callback(client, callback_id)
        return callback is not None and callback.receiver == receiver

    async def _refuse_unknown(self, client: str) -> None:
        """Raise NotFound for a client that has neither a table nor a callback, as what was mistyped has none."""
        settings = self._parts.settings()
        if client in (DEFAULT_CLIENT, *(one.name for one in settings.clients)):
            return
        if not await self._registry.list_callbacks(client, state=None, task_id=None, before_seq=None, limit=1):
            raise NotFound(f"There is no client {client[:40]!r}.")

    async def ask_redeliver_dead(self, asked: Asked) -> Shown:
        """Show how many died within a span, before anything is done about them."""
        dead = self._dead(asked, asked.query)
        async with self._share(asked, WHOLE):
            count = await self._registry.count_dead(*dead)
        done = asked.query.get("done", "")
        context = {
            "count": count,
            "since": asked.query.get("since", ""),
            "until": asked.query.get("until", ""),
            "receiver": text_of(asked.query, "receiver"),
            "client": dead.client if asked.visitor.client is None else None,
            "exact_since": to_iso(dead.since),
            "exact_until": to_iso(dead.until),
            "done": int(done) if done.isascii() and done.isdecimal() and len(done) < 10 else None,
        }
        return Shown("redeliver.html", "callbacks", context)

    async def redeliver_dead(self, asked: Asked, form: Mapping[str, str]) -> str:
        dead = self._dead(asked, form)
        now = self._clock.now()
        turn = partial(self._share, asked, WHOLE)
        count = await self._registry.redeliver_dead(dead.client, dead.since, dead.until, now, turn, dead.receiver)
        return f"/dashboard/redeliver?{urlencode({'done': count})}"

    def _share(self, asked: Asked, cost: int) -> AbstractAsyncContextManager[None]:
        """Wait for room in the visitor's share, as its calls of the API do."""
        return self._parts.shares.of(asked.visitor.client, cost)

    def _dead(self, asked: Asked, given: Mapping[str, str]) -> Dead:
        own = asked.visitor.client
        client = text_of(given, "client") if own is None else own
        since = _instant(given.get("since", ""), 0)
        until = _instant(given.get("until", ""), self._clock.now() + 1)
        if since >= until:
            raise InvalidRequest("The span must begin before it ends.")
        receiver = text_of(given, "receiver")
        try:
            named = None if receiver is None else sought(receiver)
        except ValueError as error:
            raise InvalidRequest(f"The receiver {error}.") from None
        return Dead(client, since, until, named)


def _id(asked: Asked) -> str:
    callback_id: str = asked.path_params["id"]
    if not callback_id.isprintable():  # not every database takes such a name, not even to look for it
        raise NotFound("There is no such callback.")
    return callback_id


def _page_of_receiver(form: Mapping[str, str], done: str, **about: str) -> str:
    """Return the page that the form stood on; ``about``: what else that of all receivers has to be told."""
    on = text_of(form, "callback")
    return f"/dashboard/receivers?{urlencode({'done': done} | about)}" if on is None else _page_of(on, done)


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
