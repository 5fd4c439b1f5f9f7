"""What operators look at: receivers and how they do, upstreams with what was learned, the configuration in force.

Owns that no secret is shown, and who sees the configuration: the operator, or everybody where no token is asked for.
"""

from typing import Any, NamedTuple

from gateway.config.databaseurl import without_password
from gateway.config.receivers import told
from gateway.config.settings import SETTINGS, ClientSettings, Settings, written
from gateway.core.errors import Forbidden
from gateway.core.search import host_of
from gateway.dashboard.actions import notice
from gateway.dashboard.asked import Asked, Shown, text_of
from gateway.dashboard.facts import Paused, ReceiverFacts
from gateway.dashboard.parts import PageParts

_MOST_RECEIVERS = 200
_HIDDEN = "set, and not shown"
_NOT_SET = "\N{EN DASH}"


class SettingLine(NamedTuple):
    """One setting as the page has it."""

    name: str
    value: str
    is_default: bool
    doc: str


class Operating:
    """These pages."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts

    async def receivers(self, asked: Asked) -> Shown:
        own, text = asked.visitor.client, text_of(asked.query, "q")
        known = [
            one
            for one in self._parts.receivers()
            if (own is None or one.client == own) and (text is None or text in one.receiver or text == one.client)
        ]
        known.sort(key=_worst_first)
        context: dict[str, Any] = {
            "rows": known[:_MOST_RECEIVERS],
            "count": len(known),
            "text": text or "",
            "host": host_of(text or ""),
            "notice": notice(asked, self._paused(asked)),
        }
        return Shown("receivers.html", "receivers", context)

    def _paused(self, asked: Asked) -> Paused | None:
        """Return what holds back the receiver that was resumed just now."""
        named, client = asked.query.get("receiver"), asked.visitor.client or asked.query.get("client", "")
        return None if named is None else self._parts.paused(client, named, None)

    async def upstreams(self, asked: Asked) -> Shown:
        backlog = await self._parts.backlog()
        own, everything = asked.visitor.client, asked.visitor.sees_all
        # What models others use is theirs.
        models = [
            one for one in self._parts.models(None, None) if everything or (one.kind, one.name) == ("client", own)
        ]
        models.sort(key=lambda one: (one.upstream, one.kind != "model", -one.seen, one.name))
        context: dict[str, Any] = {
            "rows": self._parts.upstreams(),
            "models": models,
            "waiting": {} if backlog is None else backlog.waiting,
        }
        return Shown("upstreams.html", "upstreams", context)

    async def configuration(self, asked: Asked) -> Shown:
        if not asked.visitor.sees_all:
            raise Forbidden("The configuration is for the operator: sign in with GATEWAY_OPERATOR_TOKEN.")
        settings = self._parts.settings()
        context: dict[str, Any] = {
            "lines": setting_lines(settings),
            "upstreams": settings.upstreams,
            "receivers": [(one.match, told(one)) for one in settings.receivers],
            "clients": [_client_line(client) for client in settings.clients],
        }
        return Shown("configuration.html", "configuration", context)


def _worst_first(one: ReceiverFacts) -> tuple[bool, int, int, str, str]:
    return one.paused is None, -one.failures, -one.in_flight, one.receiver, one.client


def setting_lines(settings: Settings) -> list[SettingLine]:
    """Return every setting with the value in force; of a secret only whether there is one."""
    lines = []
    for row in SETTINGS:
        value = getattr(settings, row.key)
        default = row.absent if row.default == "" or row.default is None else row.parse(row.default)
        if row.of_profile and value is None:
            shown, is_default = "its profile's", True
        elif row.secret:
            shown, is_default = (_NOT_SET if value is None else _HIDDEN), value is None
        else:
            shown = written(without_password(value) if row.key == "database_url" else value) or _NOT_SET
            is_default = value == default
        lines.append(SettingLine(row.env, shown, is_default, row.doc))
    return lines


def _client_line(client: ClientSettings) -> dict[str, Any]:
    """Return what may be shown of a client: neither tokens, secrets nor headers."""
    return {
        "name": client.name,
        "tokens": len(client.token_hashes),
        "own_secret": client.webhook_secret is not None,
        "upstream": client.upstream,
        "headers": len(client.headers),
        "rate": written(client.rate),
    }
