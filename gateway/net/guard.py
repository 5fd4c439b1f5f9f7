"""Which addresses a callback may reach: https to public addresses on port 443, the rest only where an entry names it.

Owns the whole policy: the shape of a callback URL, the ranges of addresses that are refused and why, and what
GATEWAY_CALLBACK_ALLOW opens. Opens no connection. The API asks when a callback is registered; the transport asks
again for each address it is about to dial, because a name's answer may have changed since.

A URL is read by ``httpx.URL``, the type that the transport dials from, so that both see the same host.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx
import idna
import msgspec

from gateway.core.addresses import Address, address_text
from gateway.core.errors import AddressNotAllowed
from gateway.core.urls import cached_by_url

__all__ = ["AllowEntry", "Netguard", "Resolve", "Target", "parse_allow"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → every address of the host, as text. Raises OSError where there is none."""

_MAX_URL = 2048
_RESOLVE_S = 3.0
_CHECKED_AT_ONCE = 64  # addresses: less than a millisecond
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Rule, range, source. The first that matches names the refusal, so narrower ranges stand first.
# "v4": IANA IPv4 Special-Purpose Address Registry; "v6": IANA IPv6 Special-Purpose Address Registry.
# ipaddress.is_global is no substitute: Python 3.11 calls NAT64, 6to4, v4-compatible, site-local and multicast global.
_RANGES = (
    ("this_network", "0.0.0.0/8", "v4, RFC 791: reaches the machine itself on Linux"),
    ("private", "10.0.0.0/8", "v4, RFC 1918"),
    ("shared", "100.64.0.0/10", "v4, RFC 6598: carrier-grade NAT"),
    ("loopback", "127.0.0.0/8", "v4, RFC 1122"),
    ("link_local", "169.254.0.0/16", "v4, RFC 3927"),
    ("private", "172.16.0.0/12", "v4, RFC 1918"),
    ("ietf_protocol", "192.0.0.0/24", "v4, RFC 6890"),
    ("documentation", "192.0.2.0/24", "v4, RFC 5737"),
    ("as112", "192.31.196.0/24", "v4, RFC 7535"),
    ("amt", "192.52.193.0/24", "v4, RFC 7450"),
    ("6to4_relay", "192.88.99.0/24", "v4, RFC 7526"),
    ("private", "192.168.0.0/16", "v4, RFC 1918"),
    ("as112", "192.175.48.0/24", "v4, RFC 7534"),
    ("benchmarking", "198.18.0.0/15", "v4, RFC 2544"),
    ("documentation", "198.51.100.0/24", "v4, RFC 5737"),
    ("documentation", "203.0.113.0/24", "v4, RFC 5737"),
    ("multicast", "224.0.0.0/4", "RFC 5771"),
    ("broadcast", "255.255.255.255/32", "v4, RFC 8190"),
    ("reserved", "240.0.0.0/4", "v4, RFC 1112"),
    ("unspecified", "::/128", "v6, RFC 4291: reaches the machine itself on Linux"),
    ("loopback", "::1/128", "v6, RFC 4291"),
    ("v4_mapped", "::ffff:0:0/96", "v6, RFC 4291"),
    ("v4_translated", "::ffff:0:0:0/96", "RFC 2765"),
    ("v4_compatible", "::/96", "RFC 4291 §2.5.5.1, deprecated"),
    ("nat64", "64:ff9b::/96", "v6, RFC 6052"),
    ("nat64", "64:ff9b:1::/48", "v6, RFC 8215"),
    ("discard", "100::/64", "v6, RFC 6666"),
    ("teredo", "2001::/32", "v6, RFC 4380"),
    ("benchmarking", "2001:2::/48", "v6, RFC 5180"),
    ("orchid", "2001:10::/28", "v6, RFC 4843"),
    ("orchid", "2001:20::/28", "v6, RFC 7343"),
    ("ietf_protocol", "2001::/23", "v6, RFC 2928"),
    ("documentation", "2001:db8::/32", "v6, RFC 3849"),
    ("6to4", "2002::/16", "v6, RFC 3056"),
    ("documentation", "3fff::/20", "v6, RFC 9637"),
    ("as112", "2620:4f:8000::/48", "v6, RFC 7534"),
    ("segment_routing", "5f00::/16", "v6, RFC 9602"),
    ("unique_local", "fc00::/7", "v6, RFC 4193"),
    ("link_local", "fe80::/10", "v6, RFC 4291"),
    ("site_local", "fec0::/10", "RFC 3879, deprecated"),
    ("multicast", "ff00::/8", "RFC 4291"),
)
_V4_RANGES = tuple((rule, IPv4Network(text)) for rule, text, _ in _RANGES if ":" not in text)
_V6_RANGES = tuple((rule, IPv6Network(text)) for rule, text, _ in _RANGES if ":" in text)
# Only this part of the v6 space has ever been given out (IANA IPv6 Global Unicast Address Assignments).
_GLOBAL_UNICAST = IPv6Network("2000::/3")

# Where a cloud hands out credentials to whoever asks from inside. No entry opens these.
_METADATA_ADDRESSES = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, Oracle, DigitalOcean, OpenStack, Hetzner
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle Classic
        "168.63.129.16",  # Azure's wire server
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
    )
)
_METADATA_NAMES = frozenset(
    {
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    }
)

# Names that no public authority gives out: RFC 6761, 6762, 8375, ICANN's .internal, and what home routers hand out.
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa", ".lan")

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_AUTHORITY = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"(?:|[0-9]{1,5})", re.ASCII)


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


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a callback goes: the host in lower case, in its ASCII form, without brackets or a final dot."""

    scheme: str
    host: str
    port: int

    @property
    def entry(self) -> str:
        """The entry of GATEWAY_CALLBACK_ALLOW that names just this."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_allow(text: str) -> tuple[AllowEntry, ...]:
    """Parse a comma list of ``host``, ``host:port``, ``address``, ``[v6]:port``, ``CIDR``, ``v4-CIDR:port``.

    Raises ValueError that names the entry and what is wrong with it.
    """
    return tuple(_parse_entry(entry) for part in text.split(",") if (entry := part.strip()))


class Netguard:
    """The callback policy with the entries that this gateway's operator added."""

    def __init__(self, allow: Sequence[AllowEntry] = ()) -> None:
        self._allow = tuple(allow)
        # The same few URLs are registered again and again, and reading one takes a third of a registration.
        self._checked: Callable[[str], Target] = cached_by_url(lambda url: self.check_target(*_split(url)))

    def check_url(self, url: str) -> Target:
        """Check a callback URL as far as it can be without the network.

        Raises AddressNotAllowed. Where an entry names a network, a name may still resolve into it: what only that
        can decide is left to ``check_address``.
        """
        return self._checked(url)

    def check_target(self, scheme: str, host: str, port: int) -> Target:
        """Check scheme, host (as the URL's parser left it, without brackets) and port; as ``check_url``."""
        address, name = _read_host(host)
        target = Target(scheme=scheme, host=name, port=port)
        if not 0 < port < 65536:
            raise _refusal("port", f"{port} is not a port: it must lie between 1 and 65535.")
        if address is not None:
            self._check(target, address)
            return target
        if name in _METADATA_NAMES:
            raise _metadata_refusal(name)
        if any(entry.covers_name(name, port) for entry in self._allow):
            return target
        if any(entry.network is not None and entry.covers_port(port) for entry in self._allow):
            return target
        _check_public(target)
        return target

    def check_address(self, target_host: str, port: int, ip: str, scheme: str) -> None:
        """Check an address that is about to be dialled for ``target_host``; raises AddressNotAllowed."""
        _, name = _read_host(target_host)
        self._check(Target(scheme=scheme, host=name, port=port), ip_address(ip))

    async def check_addresses(self, target_host: str, port: int, addresses: Sequence[str], scheme: str) -> None:
        """Check every address of a name; raises AddressNotAllowed where even one is forbidden.

        A name may have thousands of them: others have their turn in between.
        """
        _, name = _read_host(target_host)
        target = Target(scheme=scheme, host=name, port=port)
        for place, address in enumerate(addresses, 1):
            self._check(target, ip_address(address))
            if place % _CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def check_registration(self, url: str, resolve: Resolve) -> Target:
        """Check a URL and, where its host is a name that resolves, every address behind it.

        One forbidden address among public ones is enough to refuse. A name that does not resolve within 3 s is
        accepted: it may do so by the time of the delivery, when the address is checked again.
        """
        target = self.check_url(url)
        if _read_host(target.host)[0] is not None:
            return target
        try:
            async with asyncio.timeout(_RESOLVE_S):
                addresses = await resolve(target.host, target.port)
        except OSError:  # a TimeoutError is one as well
            return target
        await self.check_addresses(target.host, target.port, addresses, target.scheme)
        return target

    def _check(self, target: Target, address: Address) -> None:
        if target.host in _METADATA_NAMES or _is_metadata(address):
            raise _metadata_refusal(target.host)
        for entry in self._allow:
            if entry.covers_name(target.host, target.port) or entry.covers_address(address, target.port):
                return
        if (rule := _forbidden_range(address)) is not None:
            text = address_text(address)
            shown = target.host if target.host == text else f"{target.host} resolves to {text}, which"
            raise _refusal(rule, f"{shown} is in a range that callbacks may not reach ({rule}).", target)
        _check_public(target)


def _split(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL that is written without tricks."""
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
    if scheme not in _DEFAULT_PORTS:
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
    port = parsed.port
    return scheme, parsed.raw_host.decode("ascii"), _DEFAULT_PORTS[scheme] if port is None else port


@lru_cache(maxsize=4096)
def _read_host(host: str) -> tuple[Address | None, str]:
    """Return a host's address, None where it is a name, and the one way to write it."""
    name = host.lower().removesuffix(".")
    if not name:
        raise _refusal("host", "The URL has no host.")
    if ":" in name and "%" not in name:
        try:
            return (address := IPv6Address(name)), address_text(address)
        except ValueError:
            raise _refusal("host", f"{name} is not an IPv6 address.") from None
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Resolvers read 2130706433, 0x7f000001, 127.1 and 0177.0.0.1 as addresses: only the plain form is certain
        # to be read the same by everyone.
        try:
            if not host.endswith("."):
                return (quad := IPv4Address(name)), str(quad)
        except ValueError:
            pass
        raise _refusal("numeric_host", f"{host} is not an address in its plain form, such as 192.0.2.1.")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refusal("host", "The URL's host is not a valid name: letters, digits and hyphens, with dots between.")
    return None, name


def _check_public(target: Target) -> None:
    """Refuse what only an entry opens, the address itself aside."""
    if ":" not in target.host and ("." not in target.host or target.host.endswith(_LOCAL_SUFFIXES)):
        raise _refusal("local_name", f"{target.host} is a name of a local network.", target)
    if target.scheme != "https":
        raise _refusal("scheme", "Callbacks go to https URLs only.", target)
    if target.port != 443:
        raise _refusal("port", "Callbacks go to port 443 only.", target)


def _forbidden_range(address: Address) -> str | None:
    if isinstance(address, IPv4Address):
        return next((rule for rule, network in _V4_RANGES if address in network), None)
    rule = next((rule for rule, network in _V6_RANGES if address in network), None)
    return rule or (None if address in _GLOBAL_UNICAST else "reserved")


def _is_metadata(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        # Without its zone (fe80::1%eth0): the zone says over which interface, not where to.
        plain = IPv6Address(int(address))
        return plain in _METADATA_ADDRESSES or any(v4 in _METADATA_ADDRESSES for v4 in _embedded(int(address)))
    return address in _METADATA_ADDRESSES


def _embedded(number: int) -> Iterator[IPv4Address]:
    """Yield each v4 address that some translator may read out of a v6 address.

    Every place is looked at whatever the prefix: an operator's own NAT64 prefix (RFC 6052 §2.2) can be any, and a
    public address that holds one of a dozen numbers by chance is one in hundreds of millions.
    """
    low = number & (1 << 64) - 1
    for value in (
        number,  # mapped, compatible, translated, NAT64 /96, ISATAP; OpenStack's fe80::a9fe:a9fe
        ~number,  # Teredo's client, RFC 4380 §4
        number >> 64,  # Teredo's server; NAT64 /32
        number >> 80,  # 6to4, RFC 3056 §2
        (number >> 64 & 0xFFFFFF) << 8 | low >> 48 & 0xFF,  # NAT64 /40
        (number >> 64 & 0xFFFF) << 16 | low >> 40 & 0xFFFF,  # NAT64 /48
        (number >> 64 & 0xFF) << 24 | low >> 32 & 0xFFFFFF,  # NAT64 /56
        low >> 24,  # NAT64 /64
    ):
        yield IPv4Address(value & 0xFFFFFFFF)


def _parse_entry(entry: str) -> AllowEntry:
    host, port_text = entry, ""
    if "://" in entry:
        raise _entry_error(entry, "write the host alone, without a scheme or a path")
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _entry_error(entry, "write a v6 address with a port as [fd00::1]:8443")
        port_text = rest
    elif entry.count(":") == 1:
        host, colon, digits = entry.partition(":")
        port_text = colon + digits
    port = _entry_port(entry, port_text) if port_text else None
    if "/" in host or ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        network = _entry_network(entry, host)
        if network.num_addresses == 1 and _is_metadata(network.network_address):
            raise _entry_error(entry, "cloud metadata addresses are never allowed")
        return AllowEntry(network=network, port=port)
    with suppress(idna.IDNAError):  # it may be a container's name: those have underscores, which IDNA does not know
        host = idna.encode(host, uts46=True).decode("ascii")
    try:
        address, name = _read_host(host)
    except AddressNotAllowed:
        address, name = None, ""
    if address is not None or not name:
        raise _entry_error(entry, "write host, host:port, [v6]:port or a network such as 10.0.0.0/8")
    if name in _METADATA_NAMES:
        raise _entry_error(entry, "cloud metadata names are never allowed")
    return AllowEntry(host=name, port=port)


def _entry_network(entry: str, text: str) -> IPv4Network | IPv6Network:
    with suppress(ValueError):
        return ip_network(text)
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise _entry_error(entry, "write an address such as 10.1.2.3, or a network such as 10.0.0.0/8") from None
    raise _entry_error(entry, "write a network with its first address, such as 10.0.0.0/8")


def _entry_port(entry: str, text: str) -> int:
    if not re.fullmatch(r":[0-9]{1,5}", text, re.ASCII) or not 0 < int(text[1:]) < 65536:
        raise _entry_error(entry, "the port must be a number between 1 and 65535")
    return int(text[1:])


def _entry_error(entry: str, problem: str) -> ValueError:
    return ValueError(f"{entry!r}: {problem}")


def _refusal(rule: str, message: str, target: Target | None = None) -> AddressNotAllowed:
    if target is not None:
        message = f"{message} GATEWAY_CALLBACK_ALLOW={target.entry} would allow it."
    return AddressNotAllowed(rule, message)


def _metadata_refusal(host: str) -> AddressNotAllowed:
    return _refusal("metadata", f"{host} is a cloud metadata service; no setting allows it.")
