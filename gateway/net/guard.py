"""Which addresses a callback may reach: https to public addresses on port 443, the rest only where an entry names it.

Owns the policy: the shape of a callback URL, what is refused with which words, and the entries of
GATEWAY_CALLBACK_ALLOW, which alone make exceptions, but none for what hands out a cloud's credentials; what is special
about a host ``hosts`` knows. Opens no connection. The API asks when a callback is registered; the transport asks again
for each address it is about to dial, because a name's answer may have changed since.

A URL is read by ``httpx.URL``, the type that the transport dials from, so that both see the same host.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

import httpx
import idna
import msgspec

from gateway.core.addresses import Address, address_text
from gateway.core.errors import AddressNotAllowed
from gateway.core.urls import cached_by_url
from gateway.net.hosts import METADATA_NAMES, is_local, is_metadata, is_numeric, read_host, special_range

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → every address of the host, as text. Raises OSError where there is none."""

DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_URL = 2048
_RESOLVE_S = 3.0
_CHECKED_AT_ONCE = 64  # addresses: less than a millisecond
_AUTHORITY = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"(?:|[0-9]{1,5})", re.ASCII)


class Target(NamedTuple):
    """Whom a connection is made for; as text the entry of GATEWAY_CALLBACK_ALLOW that names just this."""

    scheme: str
    host: str
    """In its ASCII form, without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class AllowEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry of GATEWAY_CALLBACK_ALLOW opens: a host or a network, on one port or on all."""

    host: str | None = None
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None

    def covers_port(self, port: int) -> bool:
        return self.port is None or self.port == port

    def covers_name(self, host: str, port: int) -> bool:
        return self.host == host and self.covers_port(port)

    def covers_address(self, address: Address, port: int) -> bool:
        # A network of the other version contains nothing of this one: an entry for a v4 address does not open the
        # v6 forms that embed it.
        return self.network is not None and address in self.network and self.covers_port(port)


class Netguard:
    """The callback policy with the entries that this gateway's operator added."""

    def __init__(self, allow: Sequence[AllowEntry] = ()) -> None:
        self._allow = tuple(allow)
        # The same few URLs are registered again and again, and reading one takes a third of a registration.
        self._checked: Callable[[str], Target] = cached_by_url(lambda url: self.check_target(_split(url)))

    @classmethod
    def for_url(cls, url: str) -> "Netguard":
        """Return the policy for one URL that the operator has chosen: that is allowed, unless it is a cloud's metadata.

        Raises AddressNotAllowed where it is no URL, or one that nothing may allow.
        """
        target = _split(url)
        guard = cls([AllowEntry(host=read_host(target.host)[1], port=target.port)])
        guard.check_url(url)
        return guard

    def check_url(self, url: str) -> Target:
        """Check a callback URL as far as it can be without the network; its host comes out as it is written one way.

        Raises AddressNotAllowed. Where an entry names a network, a name may still resolve into it: what only that
        can decide is left to ``check_address``.
        """
        return self._checked(url)

    def check_target(self, target: Target) -> Target:
        """As ``check_url``, of what the URL's parser has found."""
        address, name = read_host(target.host)
        port, target = target.port, target._replace(host=name)
        if not 0 < port < 65536:
            raise _refusal("port", f"{port} is not a port: it must lie between 1 and 65535.")
        if address is not None:
            self._check(target, address)
        elif name in METADATA_NAMES:
            raise _metadata_refusal(name)
        elif not any(entry.host in (None, name) and entry.covers_port(port) for entry in self._allow):
            _check_public(target)  # and no network is allowed, which the name might resolve into
        return target

    def check_proxied(self, target: Target) -> Target:
        """As ``check_target``, where a proxy is asked to connect: the address of a name is never seen here.

        So an entry that names a network opens no name; one that names the name does.
        """
        target = self.check_target(target)
        opens = any(entry.covers_name(target.host, target.port) for entry in self._allow)
        if not opens and read_host(target.host)[0] is None:
            _check_public(target)
        return target

    def check_address(self, target: Target, address: str) -> None:
        """Check an address that is about to be dialled for a target; raises AddressNotAllowed."""
        self._check(target._replace(host=read_host(target.host)[1]), ip_address(address))

    async def check_addresses(self, target: Target, addresses: Sequence[str]) -> None:
        """Check every address of a name; raises AddressNotAllowed where even one is forbidden.

        A name may have thousands of them: others have their turn in between.
        """
        for place, address in enumerate(addresses, 1):
            self.check_address(target, address)
            if place % _CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def check_registration(self, url: str, resolve: Resolve) -> Target:
        """Check a URL and, where its host is a name that resolves, every address behind it.

        One forbidden address among public ones is enough to refuse. A name that does not resolve within 3 s is
        accepted: it may do so by the time of the delivery, when the address is checked again.
        """
        target = self.check_url(url)
        if read_host(target.host)[0] is not None:
            return target
        try:
            async with asyncio.timeout(_RESOLVE_S):
                addresses = await resolve(target.host, target.port)
        except OSError:  # a TimeoutError is one as well
            return target
        await self.check_addresses(target, addresses)
        return target

    def _check(self, target: Target, address: Address) -> None:
        if target.host in METADATA_NAMES or is_metadata(address):
            raise _metadata_refusal(target.host)
        for entry in self._allow:
            if entry.covers_name(target.host, target.port) or entry.covers_address(address, target.port):
                return
        if (rule := special_range(address)) is not None:
            text = address_text(address)
            shown = target.host if target.host == text else f"{target.host} resolves to {text}, which"
            raise _refusal(rule, f"{shown} is in a range that callbacks may not reach ({rule}).", target)
        _check_public(target)


def _split(url: str) -> Target:
    """Return the target of a URL that is written without tricks."""
    if len(url) > _MAX_URL:
        raise _refusal("length", f"The URL has {len(url)} characters; at most {_MAX_URL} are allowed.")
    if " " in url or not url.isprintable():
        raise _refusal("characters", "The URL holds a space or a control character: percent-encode it.")
    if "\\" in url:
        raise _refusal("characters", "The URL holds a backslash: write slashes.")
    match = _AUTHORITY.match(url)
    if match is None:
        raise _refusal("syntax", "The URL must be absolute, for example https://app.example.com/hooks.")
    scheme, authority = match["scheme"].lower(), match["authority"]
    if scheme not in DEFAULT_PORTS:
        raise _refusal("scheme", "Callbacks go to https URLs only.")
    if "@" in authority:
        raise _refusal("userinfo", "The URL must not hold a user name or password before its host.")
    if "#" in url:
        raise _refusal("fragment", "The URL must not have a fragment (#…): it would never be sent.")
    host_end = authority.rfind("]") + 1
    if not _PORT.fullmatch(authority[host_end:].partition(":")[2]):
        raise _refusal("port", "The URL's port must be a number between 1 and 65535.")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise _refusal("host", "The URL's host is not a valid name or address.") from None
    port = DEFAULT_PORTS[scheme] if parsed.port is None else parsed.port
    return Target(scheme, parsed.raw_host.decode("ascii"), port)


def _check_public(target: Target) -> None:
    """Refuse what only an entry opens, the address itself aside."""
    if is_local(target.host):
        raise _refusal("local_name", f"{target.host} is a name of a local network.", target)
    if target.scheme != "https":
        raise _refusal("scheme", "Callbacks go to https URLs only.", target)
    if target.port != 443:
        raise _refusal("port", "Callbacks go to port 443 only.", target)


def _refusal(rule: str, message: str, target: Target | None = None) -> AddressNotAllowed:
    if target is not None:
        message = f"{message} GATEWAY_CALLBACK_ALLOW={target} would allow it."
    return AddressNotAllowed(rule, message)


def _metadata_refusal(host: str) -> AddressNotAllowed:
    return _refusal("metadata", f"{host} is a cloud metadata service; no setting allows it.")


def parse_allow(text: str) -> tuple[AllowEntry, ...]:
    """Parse a comma list of ``host``, ``host:port``, ``address``, ``[v6]:port``, ``CIDR``, ``v4-CIDR:port``.

    Raises ValueError that names the entry and what is wrong with it.
    """
    entries = []
    for entry in filter(None, map(str.strip, text.split(","))):
        try:
            entries.append(_parse_entry(entry))
        except ValueError as exc:
            raise ValueError(f"{entry!r}: {exc}") from None
    return tuple(entries)


def _parse_entry(entry: str) -> AllowEntry:
    host, port_text = entry, ""
    if "://" in entry or re.match(r"[^\[/][^/]*/(?!\d)", entry):
        raise ValueError("write the host alone, without a scheme or a path")
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("write a v6 address with a port as [fd00::1]:8443")
        port_text = rest
    elif entry.count(":") == 1:
        host, colon, digits = entry.partition(":")
        port_text = colon + digits
    port = _entry_port(port_text) if port_text else None
    if "/" in host or ":" in host or is_numeric(host):
        network = _entry_network(host)
        if network.num_addresses == 1 and is_metadata(network.network_address):
            raise ValueError("cloud metadata addresses are never allowed")
        return AllowEntry(network=network, port=port)
    with suppress(idna.IDNAError):  # it may be a container's name: those have underscores, which IDNA does not know
        host = idna.encode(host, uts46=True).decode("ascii")
    try:
        address, name = read_host(host)
    except AddressNotAllowed:
        address, name = None, ""
    if address is not None or not name:
        raise ValueError("write host, host:port, [v6]:port or a network such as 10.0.0.0/8")
    if name in METADATA_NAMES:
        raise ValueError("cloud metadata names are never allowed")
    return AllowEntry(host=name, port=port)


def _entry_network(text: str) -> IPv4Network | IPv6Network:
    with suppress(ValueError):
        return ip_network(text)
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError("write an address such as 10.1.2.3, or a network such as 10.0.0.0/8") from None
    raise ValueError("write a network with its first address, such as 10.0.0.0/8")


def _entry_port(text: str) -> int:
    if not re.fullmatch(r":[0-9]{1,5}", text, re.ASCII) or not 0 < int(text[1:]) < 65536:
        raise ValueError("the port must be a number between 1 and 65535")
    return int(text[1:])
