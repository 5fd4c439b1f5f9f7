"""What a URL's host is: an address or a name, the one way it is written, and what is special about it.

Owns the special ranges of addresses, each with its source, where clouds hand out credentials, and the names that only
local networks know. Decides nothing: what a callback may reach, and what an entry may open, is for ``guard``.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gateway.core.addresses import Address, address_text
from gateway.core.errors import AddressNotAllowed

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
METADATA_NAMES = frozenset(
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


@lru_cache(maxsize=4096)
def read_host(host: str) -> tuple[Address | None, str]:
    """Return a host's address, None where it is a name, and the one way to write it."""
    name = host.lower().removesuffix(".")
    if not name:
        raise AddressNotAllowed("host", "The URL has no host.")
    if ":" in name and "%" not in name:
        try:
            return (address := IPv6Address(name)), address_text(address)
        except ValueError:
            raise AddressNotAllowed("host", f"{name} is not an IPv6 address.") from None
    labels = name.split(".")
    if is_numeric(name):
        # Resolvers read 2130706433, 0x7f000001, 127.1 and 0177.0.0.1 as addresses: only the plain form is certain
        # to be read the same by everyone.
        try:
            if not host.endswith("."):
                return (quad := IPv4Address(name)), str(quad)
        except ValueError:
            pass
        raise AddressNotAllowed("numeric_host", f"{host} is not an address in its plain form, such as 192.0.2.1.")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        told = "The URL's host is not a valid name: letters, digits and hyphens, with dots between."
        raise AddressNotAllowed("host", told)
    return None, name


def special_range(address: Address) -> str | None:
    """Return the rule of the range that keeps an address from being a public one, None where it is public."""
    if isinstance(address, IPv4Address):
        return next((rule for rule, network in _V4_RANGES if address in network), None)
    rule = next((rule for rule, network in _V6_RANGES if address in network), None)
    return rule or (None if address in _GLOBAL_UNICAST else "reserved")


def is_numeric(host: str) -> bool:
    """Whether a host's last label is a number: no name's is, and resolvers take all of it for an address."""
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def is_local(host: str) -> bool:
    """Whether this is a name, and one that only a local network knows."""
    return ":" not in host and ("." not in host or host.endswith(_LOCAL_SUFFIXES))


def is_metadata(address: Address) -> bool:
    """Whether a cloud hands out credentials there, also where a v6 address only leads to the v4 one."""
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
