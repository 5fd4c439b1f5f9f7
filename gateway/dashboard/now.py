"""The first page: what is going on now, and what is wrong."""

from gateway.dashboard.asked import Asked, Shown
from gateway.dashboard.parts import PageParts

_MOST = 20


class Now:
    """The page."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts

    async def show(self, asked: Asked) -> Shown:
        parts, client, everything = self._parts, asked.visitor.client, asked.visitor.sees_all
        backlog = await parts.backlog()
        receivers = [one for one in parts.receivers() if client is None or one.client == client]
        failing = [one for one in receivers if one.failures]
        failing.sort(key=lambda one: -one.failures)
        return Shown(
            "now.html",
            "now",
            {
                "backlog": backlog,
                "waiting": {} if backlog is None else backlog.waiting,
                "counts": parts.counts(),
                "upstreams": parts.upstreams(),
                "failing": failing[:_MOST],
                "paused": [one for one in receivers if one.paused is not None][:_MOST],
                "troubles": [(reason, detail if everything else None) for reason, detail in parts.troubles()],
            },
        )
