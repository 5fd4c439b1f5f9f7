"""The one way each address is written, and which are this machine's, whatever Python runs."""

from ipaddress import ip_address

import pytest

from gateway.core.addresses import address_text, is_loopback, parse_address


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::ffff:8.8.8.8", "::ffff:8.8.8.8"),
        ("::ffff:808:808", "::ffff:8.8.8.8"),
        ("0:0:0:0:0:FFFF:7f00:1", "::ffff:127.0.0.1"),
        ("::8.8.8.8", "::808:808"),
        ("64:ff9b::8.8.8.8", "64:ff9b::808:808"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::", "::"),
    ],
)
def test_an_address_is_written_in_one_way(written: str, text: str) -> None:
    """As RFC 5952 says: small letters, the longest run of zeros, and dots where it is an IPv4 address in disguise."""
    assert address_text(ip_address(written)) == text
    assert address_text(ip_address(text)) == text


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "[::1]", "127.0.0.1:80", "1.2.3.04"])
def test_what_is_no_address(text: str) -> None:
    """A name, a number of another form and what has a port or brackets are none."""
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("::127.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
    ],
)
def test_which_are_this_machines(address: str, own: bool) -> None:
    """Loopback, also where it is an IPv4 address in disguise; never all addresses at once."""
    assert is_loopback(ip_address(address)) is own
