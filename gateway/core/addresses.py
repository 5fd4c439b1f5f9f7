"""IP addresses: the one way each is written, and which are this machine's own.

Python's versions differ where an IPv6 address carries an IPv4 one: 3.13 writes ``::ffff:8.8.8.8`` for what was
``::ffff:808:808``, and calls ``::ffff:127.0.0.1`` loopback. So nothing else turns an address into text. Pure. Which
addresses a callback may reach is for ``gateway.net``.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


def parse_address(text: str) -> Address | None:
    """Return the address, without brackets around it; None for what is none."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def address_text(address: Address) -> str:
    """Return the address as RFC 5952 writes it, §5 included: ``::ffff:8.8.8.8``."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(address) if mapped is None else f"::ffff:{mapped}"


def is_loopback(address: Address) -> bool:
    """Whether only this machine reaches the address, also where it is an IPv4 one within an IPv6 one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def is_loopback_host(host: str) -> bool:
    """Whether only this machine reaches the host; a name other than localhost never counts."""
    address = parse_address(host)
    return host.lower() == "localhost" if address is None else is_loopback(address)
