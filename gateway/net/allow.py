"""The entries of GATEWAY_CALLBACK_ALLOW: how each is written, and what it opens.

Opens nothing that hands out a cloud's credentials. Called by ``guard``, by the check of the settings and by the wiring.
"""

import re
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network

import idna
import msgspec

from gateway.core.addresses import Address
from gateway.core.errors import AddressNotAllowed
from gateway.net.hosts import METADATA_NAMES, is_metadata, is_numeric, read_host

__all__ = ["AllowEntry", "parse_allow"]


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
    if "://" in entry:
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
