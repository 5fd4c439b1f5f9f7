"""The expression for callback URLs against the policy that judges them: the same ones are taken."""

import re
from itertools import product

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import AddressNotAllowed
from gateway.net.guard import Netguard, parse_allow
from gateway.net.urlshape import CALLBACK_URL
from tests.hostile_urls import FORBIDDEN_PAIRS

SHAPE = re.compile(CALLBACK_URL)
EVERYWHERE = Netguard(parse_allow("0.0.0.0/0,::/0"))  # it refuses what is badly written, and clouds' metadata
SCHEMA = jsonschema_rs.validator_for({"type": "string", "pattern": CALLBACK_URL})
LABELS = ["a", "A-b", "_x", "9", "0x", "0xfF", "a" * 63, "a" * 64, "-a", "a-", "", "1a", "xn--bcher-kva", "a%41", "a b"]
GROUPS = ["1", "fffF", "0", "12345", "", "g"]
PORTS = ["", ":", ":1", ":0", ":00", ":00080", ":443", ":65535", ":65536", ":70000", ":99999", ":123456", ":x", ":-1"]
RESTS = [
    "",
    "/",
    "?",
    "/a?b=c",
    "/a#b",
    "/a b",
    "/a\\b",
    "/%zz",
    "//",
    "/[]{}|^`\"'<>",
    "/a\n",
    "\n",
    "@b",
    "/é",
    "/\x7f",
]


def taken(url: str) -> bool:
    try:
        EVERYWHERE.check_url(url)
    except AddressNotAllowed as error:
        return error.rule == "metadata"
    return True


def holds(url: str) -> None:
    assert (SHAPE.search(url) is not None) == (taken(url) and url.isascii()), url


v4 = st.lists(st.sampled_from(["0", "7", "10", "010", "199", "255", "256", "1e3", ""]), min_size=3, max_size=5).map(
    ".".join
)
v6 = st.lists(st.sampled_from(GROUPS) | st.just(""), min_size=1, max_size=10).map(":".join)
hosts = st.one_of(
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join),
    v4,
    v6.map("[{}]".format),
    st.tuples(v6, v4).map(lambda pair: f"[{pair[0]}:{pair[1]}]"),
)
urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["https://", "http://", "HTTPS://", "hTTp://"]),
    hosts,
    st.sampled_from(["", "", "", "."]),
    st.sampled_from(PORTS),
    st.sampled_from(RESTS),
)


@given(urls)
@settings(max_examples=1500)
def test_both_take_the_same_of_what_is_nearly_right(url: str) -> None:
    """Hosts, ports and paths that are at the edge of being a URL's."""
    holds(url)


@given(st.text(alphabet="hHtTpPsS:/?#@[]%.-_0129afxX \\\té", max_size=40))
@settings(max_examples=1000)
def test_both_take_the_same_of_anything(text: str) -> None:
    """Also of what begins as no URL does."""
    holds(text)
    holds(f"https://{text}")


@given(st.from_regex(CALLBACK_URL))
@settings(max_examples=200)
def test_whatever_the_expression_makes_is_taken(url: str) -> None:
    """As those do who make examples of a schema."""
    assert taken(url)


@pytest.mark.parametrize(
    ("length", "dot", "fits"), [(253, "", True), (253, ".", True), (254, "", False), (254, ".", False)]
)
def test_the_length_of_a_name(length: int, dot: str, fits: bool) -> None:
    """253 characters and a dot at its end."""
    name = ("a" * 62 + ".") * 4
    name += "b" * (length - len(name))
    assert len(name) == length
    for rest in RESTS[:3]:
        holds(f"https://{name}{dot}{rest}")
    assert taken(f"https://{name}{dot}") is fits


def test_every_number_of_groups() -> None:
    """With and without ::, wherever that stands, and with a v4 address at the end."""
    for before, after, tail in product(range(9), range(9), ("", "8.8.8.8")):
        for middle in ("::", ":"):
            right = ":".join(["2"] * after + ([tail] if tail else []))
            holds(f"https://[{':'.join(['2'] * before)}{middle}{right}]/")


@pytest.mark.parametrize(("rule", "address"), FORBIDDEN_PAIRS)
def test_addresses_are_well_formed_wherever_they_lead(rule: str, address: str) -> None:
    """What a policy refuses is no matter of writing, a zone aside."""
    host = f"[{address}]" if ":" in address else address
    holds(f"https://{host}/hooks")


def test_schemas_read_it_as_python_does() -> None:
    """The engine of a validator in another language."""
    for host, port, rest in product((*LABELS, "8.8.8.8", "[2600::1]", "[::ffff:8.8.8.8]", "[1::2::3]"), PORTS, RESTS):
        url = f"https://{host}{port}{rest}"
        assert SCHEMA.is_valid(url) == (SHAPE.search(url) is not None), url
