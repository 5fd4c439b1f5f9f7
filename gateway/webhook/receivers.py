"""What is particular to some receivers, by how their URLs begin: the tables ``[[receivers]]`` at work.

Owns which table a URL's webhooks go by, and that no connection serves under another table's certificates or proxy: each
that has some has a transport of its own. What they count is ``limits``'. Asked by the sender, the headers, and for each
new callback; the wiring hands it the tables, at a reload anew.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.config.egressproxy import EgressProxy
from gateway.config.receivers import table_of
from gateway.config.settings import ReceiverSettings
from gateway.core.urls import cached_by_url, receiver_of
from gateway.net.guard import Netguard, Resolve
from gateway.net.hosts import read_host
from gateway.net.proxied import pooled
from gateway.net.tls import client_context, ends_at
from gateway.net.transport import PooledTransport
from gateway.signature import Signer, parse_secrets
from gateway.webhook.limits import ProxyHealth, ReceiverLimits, Usage

__all__ = ["MOST_IDLE", "ReceiverTable", "Receivers"]

MOST_IDLE = 16
"""Connections of one table that are kept for the next webhook."""


class _Way(NamedTuple):
    """What a connection is made by; where all of it is the same, tables share their connections."""

    proxy: EgressProxy | None
    ca: str | None
    client_cert: str | None
    client_key: str | None


_COMMON = _Way(None, None, None, None)


class ReceiverTable:
    """One table."""

    def __init__(
        self, settings: ReceiverSettings, transport: PooledTransport | None, usage: Usage, proxy: ProxyHealth | None
    ) -> None:
        self.settings = settings
        self.usage = usage
        self.proxy = proxy
        self.headers = settings.headers
        self.signer = None if settings.secret is None else Signer(parse_secrets(" ".join(settings.secret)))
        self.timeout_s = settings.timeout_s
        self.transport = transport
        """None: the one of all receivers."""


def _counts_as(settings: ReceiverSettings) -> tuple[object, ...]:
    """Return what a table's usage is made of."""
    return settings.concurrency, settings.rate, settings.proxy


class Receivers:
    """The tables; none until ``use``."""

    def __init__(self, guard: Netguard, resolve: Resolve, connections: int, monotonic: Callable[[], float]) -> None:
        """``connections``: how many may be in use at once, of those that are made in one way."""
        self._guard = guard
        self._resolve = resolve
        self._connections = connections
        self._tables: dict[str, ReceiverTable] = {}  # by how their URLs begin
        self._transports: dict[_Way, PooledTransport] = {}
        self._retired: list[PooledTransport] = []
        self._proxies: dict[EgressProxy, ProxyHealth] = {}
        self.limits = ReceiverLimits(monotonic, self._usage_of)
        """What the claims of webhooks go by."""
        self._find: Callable[[str], ReceiverTable | None] = cached_by_url(self._look)

    def use(self, tables: Sequence[ReceiverSettings]) -> None:
        """Go by these from now on; attempts under way end as they began.

        Raises TlsFilesUnusable, and then nothing has changed.
        """
        transports: dict[_Way, PooledTransport] = {}
        proxies = {one.proxy: self._proxies.get(one.proxy) or ProxyHealth() for one in tables if one.proxy is not None}
        made: dict[str, ReceiverTable] = {}
        for one in tables:
            way = _Way(one.proxy, one.ca, one.client_cert, one.client_key)
            if way != _COMMON and way not in transports:
                transports[way] = self._transports.get(way) or self._transport(way)
            proxy = None if one.proxy is None else proxies[one.proxy]
            known = self._tables.get(one.match)
            same = known is not None and _counts_as(known.settings) == _counts_as(one)
            usage = known.usage if known is not None and same else Usage(one.concurrency, one.rate, proxy, one.match)
            made[one.match] = ReceiverTable(one, transports.get(way), usage, proxy)
        self._retired = [one for one in self._retired if one.in_use]
        for way in self._transports.keys() - transports.keys():
            self._transports[way].retire()
            self._retired.append(self._transports[way])
        self._transports, self._proxies = transports, proxies
        self._tables = made
        self._find = cached_by_url(self._look)
        self.limits.use([one.usage for one in made.values()])

    @property
    def certificate_ends_at(self) -> float:
        """When the first client certificate ends, in seconds since 1970; 0: there is none."""
        return min(
            (ends_at(one.settings.client_cert) for one in self._tables.values() if one.settings.client_cert),
            default=0.0,
        )

    @property
    def failing_proxies(self) -> list[str]:
        """Host and port of each egress proxy that could not be used when it was tried last, in the last minutes."""
        now_s = self.limits.now_s()
        return [str(proxy) for proxy, health in self._proxies.items() if health.failing(now_s)]

    def of(self, url: str) -> ReceiverTable | None:
        """Return the table that a URL's webhooks go by; None: there is nothing particular to them."""
        return self._find(url) if self._tables else None

    def name_of(self, url: str) -> str:
        """Return what a URL's receiver is called: what goes by one table is a receiver of its own, with its own lanes.

        So nothing else waits where it has no room, or its proxy is down.
        """
        receiver = self.of(url)
        return receiver_of(url) if receiver is None else receiver.settings.match

    def _usage_of(self, url: str) -> Usage | None:
        receiver = self.of(url)
        return None if receiver is None else receiver.usage

    async def check(self, url: str) -> None:
        """Check a URL that is to be registered. Raises AddressNotAllowed.

        Where a proxy connects to it, its name is not looked up: often only that can.
        """
        if not self.check_now(url):
            await self._guard.check_registration(url, self._resolve)

    def check_now(self, url: str) -> bool:
        """As ``check``, but for the look-up of a name; return whether there is none to look up."""
        target, receiver = self._guard.check_url(url), self.of(url)
        if receiver is not None and receiver.settings.proxy is not None:
            self._guard.check_proxied(target)
            return True
        return read_host(target.host)[0] is not None

    @property
    def secrets(self) -> list[str]:
        """All that they sign with, as it is written."""
        return [text for one in self._tables.values() for text in one.settings.secret or ()]

    async def aclose(self) -> None:
        for transport in (*self._retired, *self._transports.values()):
            await transport.aclose()

    def _look(self, url: str) -> ReceiverTable | None:
        table = table_of([one.settings for one in self._tables.values()], url)
        return None if table is None else self._tables[table.match]

    def _transport(self, way: _Way) -> PooledTransport:
        has_tls = way.ca is not None or way.client_cert is not None
        return pooled(
            way.proxy,
            guard=self._guard,
            resolve=self._resolve,
            limit=self._connections,
            limit_idle=MOST_IDLE,
            verify=client_context(way.ca, way.client_cert, way.client_key) if has_tls else None,
        )
