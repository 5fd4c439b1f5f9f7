# ruff: noqa: RUF001, SIM905 - look-alike characters are the point, and tables read better as words
"""The callback policy: which URLs and addresses are refused, by which rule, and what an entry opens."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.addresses import address_text
from gateway.core.errors import AddressNotAllowed
from gateway.net.guard import AllowEntry, Netguard, Target, parse_allow
from tests.hostile_urls import FORBIDDEN_PAIRS, HOSTILE_PAIRS, METADATA, embeddings, in_url

GUARD = Netguard()
OPEN = Netguard(parse_allow("0.0.0.0/0, ::/0"))


def refused(guard: Netguard, url: str) -> AddressNotAllowed:
    with pytest.raises(AddressNotAllowed) as caught:
        guard.check_url(url)
    return caught.value


def rule_of(address: str, guard: Netguard = GUARD, host: str = "hooks.example.com") -> str | None:
    """The rule that refuses an address a name resolves to, None where it is allowed."""
    try:
        guard.check_address(Target("https", host, 443), address)
    except AddressNotAllowed as exc:
        return exc.rule
    return None


def brief(value: str) -> str:
    return ascii(value)[1:60]


# --- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "address"), FORBIDDEN_PAIRS)
def test_forbidden_address_is_refused_by_its_rule(rule: str, address: str) -> None:
    """An address of a special range is refused behind a name, and as a literal, and the message says so."""
    assert rule_of(address) == rule
    if "%" not in address:
        refusal = refused(GUARD, f"https://{in_url(address)}/hook")
        assert refusal.rule == rule
        assert rule in refusal.message


@pytest.mark.parametrize(
    "address",
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 128.0.0.1 169.253.255.255 172.15.255.255 "
    "172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 "
    "2606:4700::1111 2001:200::1 2001:4860:4860::8888 2a00:1450:4001::200e 2003::1 3ffe:ffff::1".split(),
)
def test_public_address_is_allowed(address: str) -> None:
    """The neighbours of the special ranges are open: the list refuses no more than it says."""
    assert rule_of(address) is None
    assert GUARD.check_url(f"https://{in_url(address)}/").host == address


@pytest.mark.parametrize("address", METADATA)
def test_metadata_address_is_never_allowed(address: str) -> None:
    """No entry opens a metadata address: none that covers it, none for the host, in no form that embeds it."""
    assert rule_of(address) == "metadata"
    assert rule_of(address, OPEN) == "metadata"
    assert rule_of(address, Netguard([AllowEntry(host="hooks.example.com")])) == "metadata"
    if "%" not in address:
        refusal = refused(OPEN, f"http://{in_url(address)}/latest/meta-data")
        assert refusal.rule == "metadata"
        assert "no setting allows it" in refusal.message


@pytest.mark.parametrize(
    "name",
    [
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
    ],
)
def test_metadata_name_is_never_allowed(name: str) -> None:
    """A metadata service's name is refused even where everything else is open."""
    guard = Netguard([AllowEntry(host=name.lower().rstrip(".")), *parse_allow("0.0.0.0/0")])
    assert refused(guard, f"http://{name}/").rule == "metadata"
    with pytest.raises(AddressNotAllowed, match="metadata"):
        guard.check_address(Target("https", name, 443), "8.8.8.8")


@given(st.ip_addresses(v=4))
def test_each_v4_address_is_judged_by_the_ranges(address: IPv4Address) -> None:
    """What ipaddress calls not global is never allowed: our own list is the stricter one."""
    if not address.is_global:
        assert rule_of(str(address)) is not None


@given(st.ip_addresses(v=6))
def test_each_v6_address_is_judged_by_the_ranges(address: IPv6Address) -> None:
    """Nothing outside of 2000::/3 is allowed, and nothing inside that ipaddress calls not global."""
    if int(address) >> 125 != 1 or not address.is_global:
        assert rule_of(str(address)) is not None


@given(st.ip_addresses(v=4))
def test_embedded_v4_is_refused_whatever_it_is(address: IPv4Address) -> None:
    """A v6 form that carries a v4 address is refused also where the v4 address is public."""
    for form in embeddings(str(address))[:8]:
        assert rule_of(form) is not None


# --- URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://app.example.com/hooks", "app.example.com", 443),
        ("https://app.example.com", "app.example.com", 443),
        ("https://app.example.com:443/hooks?x=1&y=%20", "app.example.com", 443),
        ("https://app.example.com:/hooks", "app.example.com", 443),
        ("HTTPS://App.Example.COM/", "app.example.com", 443),
        ("https://app.example.com./", "app.example.com", 443),
        ("https://app.example.com?next=http://127.0.0.1/", "app.example.com", 443),
        ("https://app.example.com/a@b", "app.example.com", 443),
        ("https://app.example.com/größe", "app.example.com", 443),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("https://BÜCHER.example/", "xn--bcher-kva.example", 443),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("https://my_service.example.com/", "my_service.example.com", 443),
        ("https://3com.com/", "3com.com", 443),
        ("https://1.2.3.4.example/", "1.2.3.4.example", 443),
        ("https://8.8.8.8/", "8.8.8.8", 443),
        ("https://[2606:4700:0:0::1111]/", "2606:4700::1111", 443),
    ],
)
def test_ordinary_url_is_allowed(url: str, host: str, port: int) -> None:
    """Public https URLs pass, and the host comes out in its one normal form."""
    assert GUARD.check_url(url) == Target(scheme="https", host=host, port=port)


@pytest.mark.parametrize(("rule", "url"), HOSTILE_PAIRS, ids=brief)
def test_hostile_url_is_refused_by_its_rule(rule: str, url: str) -> None:
    """Each trick of writing a URL is refused, and by the rule that explains it."""
    assert refused(GUARD, url).rule == rule


@pytest.mark.parametrize(
    ("rule", "url"), [pair for pair in HOSTILE_PAIRS if pair[0] not in ("scheme", "port", "local_name")], ids=brief
)
def test_hostile_url_is_refused_whatever_is_allowed(rule: str, url: str) -> None:
    """Entries open hosts, networks and ports, never another way to write a URL."""
    assert refused(OPEN, url).rule == rule


def test_ideographic_dots_are_dots() -> None:
    """A host that IDNA turns into an address is judged, and dialled, as that address."""
    assert refused(GUARD, "https://127。0。0。1/").rule == "loopback"
    assert GUARD.check_url("https://8。8．8｡8/").host == httpx.URL("https://8。8．8｡8/").host == "8.8.8.8"


def test_longest_url_is_allowed() -> None:
    """2048 characters are within the limit."""
    url = "https://app.example.com/"
    assert GUARD.check_url(url + "x" * (2048 - len(url)))


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        ("http://app.example.com/hook", "GATEWAY_CALLBACK_ALLOW=app.example.com:80"),
        ("https://app.example.com:8443/hook", "GATEWAY_CALLBACK_ALLOW=app.example.com:8443"),
        ("http://localhost:9000/", "GATEWAY_CALLBACK_ALLOW=localhost:9000"),
        ("https://10.1.2.3/", "GATEWAY_CALLBACK_ALLOW=10.1.2.3:443"),
        ("http://[fd00::1]:8080/", "GATEWAY_CALLBACK_ALLOW=[fd00::1]:8080"),
        ("https://[::ffff:8.8.8.8]/", "GATEWAY_CALLBACK_ALLOW=[::ffff:8.8.8.8]:443"),
        ("https://[::FFFF:808:808]/", "GATEWAY_CALLBACK_ALLOW=[::ffff:8.8.8.8]:443"),
    ],
)
def test_refusal_names_the_setting_that_would_allow_it(url: str, way_out: str) -> None:
    """The message's own suggestion, put into the setting, opens the URL; the URL's query is not repeated."""
    refusal = refused(GUARD, url + "?token=canary")
    assert way_out in refusal.message
    assert "canary" not in refusal.message
    entry = refusal.message.partition("GATEWAY_CALLBACK_ALLOW=")[2].split(" ")[0]
    target = Netguard(parse_allow(entry)).check_url(url)
    assert str(target) == entry


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    """No text makes the check fail in another way than by refusing."""
    for url in (
        text,
        f"https://{text}",
        f"https://{text}.example.com/",
        f"https://[{text}]/",
        f"https://a.example:{text}",
    ):
        try:
            target = GUARD.check_url(url)
        except AddressNotAllowed:
            continue
        assert target.scheme == "https"
        assert target.port == 443


URLISH = st.lists(
    st.sampled_from(
        [
            "http",
            "https",
            ":",
            "/",
            "//",
            "@",
            "#",
            "?",
            "\\",
            ".",
            "[",
            "]",
            "%",
            "%2e",
            "127.0.0.1",
            "::1",
            "0x7f",
            "1",
            "localhost",
            "example.com",
            "a",
            "xn--",
            "\t",
            " ",
            "ü",
            "。",
            ":443",
            ":80",
            "169.254.169.254",
        ]
    ),
    max_size=8,
).map("".join)


@given(URLISH)
def test_what_is_allowed_is_what_is_dialled(text: str) -> None:
    """The host and port that were checked are those that the HTTP client's own URL type dials."""
    try:
        target = GUARD.check_url(f"https://{text}")
    except AddressNotAllowed:
        return
    dialled = httpx.URL(f"https://{text}")
    assert dialled.scheme == "https"
    assert not dialled.userinfo
    assert dialled.port in (None, 443)
    host = dialled.raw_host.decode().removesuffix(".")
    assert target.host == (address_text(IPv6Address(host)) if ":" in host else host)


# --- entries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("app.example.com", "http://app.example.com/"),
        ("app.example.com", "http://app.example.com:8080/"),
        ("app.example.com", "https://APP.example.com.:8443/"),
        ("APP.Example.COM.", "http://app.example.com/"),
        ("app.example.com:8080", "http://app.example.com:8080/"),
        ("localhost", "http://localhost:9000/"),
        ("receiver", "http://receiver:8000/"),
        ("my_receiver:8000", "http://my_receiver:8000/"),
        ("bücher.example", "http://xn--bcher-kva.example/"),
        ("ＢÜCHER.example", "http://bücher.example/"),
        ("10.0.0.0/8", "http://10.1.2.3:8080/"),
        ("10.0.0.0/8:8080", "http://10.1.2.3:8080/"),
        ("10.1.2.3", "http://10.1.2.3/"),
        ("10.1.2.3:8080", "http://10.1.2.3:8080/"),
        ("fd00::/8", "http://[fd00::1]:8080/"),
        ("fd00::1", "https://[fd00:0::1]/"),
        ("[fd00::1]", "https://[fd00::1]:8443/"),
        ("[fd00::1]:8080", "http://[fd00::1]:8080/"),
        ("[fd00::/8]:8080", "http://[fd00::1]:8080/"),
        ("::ffff:0:0/96", "https://[::ffff:10.0.0.1]/"),
        ("127.0.0.0/8", "http://127.0.0.1:8080/"),
        (" , one.example , two.example:81,, ", "http://two.example:81/"),
        # a name may still resolve into an allowed network: decided once its address is known
        ("10.0.0.0/8", "http://receiver:8080/"),
    ],
)
def test_entry_opens(entries: str, url: str) -> None:
    """An entry opens its host or network, over http as well, on its port or on every port."""
    refused(GUARD, url)
    assert Netguard(parse_allow(entries)).check_url(url)


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("app.example.com", "http://www.app.example.com/"),
        ("app.example.com", "http://example.com/"),
        ("app.example.com:8080", "http://app.example.com:8081/"),
        ("app.example.com:8080", "http://app.example.com/"),
        ("10.0.0.0/8", "http://11.0.0.1/"),
        ("10.0.0.0/8:8080", "http://10.0.0.1:8081/"),
        ("10.0.0.0/8:8080", "http://receiver:8081/"),
        ("10.0.0.0/8", "https://[::ffff:10.0.0.1]/"),
        ("8.8.8.8", "https://[64:ff9b::8.8.8.8]/"),
        ("127.0.0.1", "http://127.0.0.2/"),
        ("127.0.0.1", "http://2130706433/"),
        ("localhost", "http://127.0.0.1/"),
        ("[fd00::1]:8080", "http://[fd00::1]:8081/"),
    ],
)
def test_entry_opens_no_more_than_it_says(entries: str, url: str) -> None:
    """Other hosts, ports, networks, and other forms of an allowed address stay closed."""
    assert refused(Netguard(parse_allow(entries)), url)


@pytest.mark.parametrize(
    "entry",
    [
        "http://app.example.com",
        "https://app.example.com/hooks",
        "app.example.com/hooks",
        "*.example.com",
        "app example.com",
        "app.example.com:",
        "app.example.com:0",
        "app.example.com:65536",
        "app.example.com:http",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/8:x",
        "127.1",
        "2130706433",
        "0x7f000001",
        "１２７.0.0.1",
        "300.1.1.1",
        "[fd00::1",
        "[fd00::1]8080",
        "fd00::1::2",
        "[]",
        ":8080",
        "a..b",
        "-a.example",
        "user@app.example.com",
        "169.254.169.254",
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]:80",
        "fd00:ec2::254",
        "metadata.google.internal",
        "Metadata.Google.Internal.:80",
    ],
)
def test_bad_entry_is_named(entry: str) -> None:
    """A mistake in the setting is refused with the entry in the message, not silently read as something else."""
    with pytest.raises(ValueError, match=r"^'") as caught:
        parse_allow(f"good.example, {entry}, 10.0.0.0/8")
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("10.0.0.1/8", "write a network with its first address, such as 10.0.0.0/8"),
        ("[::ffff:10.0.0.1/96]:443", "write a network with its first address, such as 10.0.0.0/8"),
        ("10.0.0.0/33", "write an address such as 10.1.2.3, or a network such as 10.0.0.0/8"),
        ("fd00::1::2", "write an address such as 10.1.2.3, or a network such as 10.0.0.0/8"),
        ("app.example.com/hooks", "write the host alone, without a scheme or a path"),
        ("app.example.com:8443/", "write the host alone, without a scheme or a path"),
        ("cafe.be/f00", "write the host alone, without a scheme or a path"),
    ],
)
def test_bad_entry_gets_advice(entry: str, advice: str) -> None:
    """What to write instead, in words that no version of Python changes."""
    with pytest.raises(ValueError, match="write") as caught:
        parse_allow(entry)
    assert str(caught.value) == f"{entry!r}: {advice}"


def test_a_name_that_resolves_to_an_address_in_disguise() -> None:
    """The refusal writes it the one way, whichever way the resolver and this Python write it."""
    with pytest.raises(AddressNotAllowed) as caught:
        GUARD.check_address(Target("https", "hooks.example.com", 443), "::ffff:a00:1")
    assert caught.value.message.startswith("hooks.example.com resolves to ::ffff:10.0.0.1, which is in a range")


def test_no_entries() -> None:
    """An empty setting allows nothing extra."""
    assert parse_allow("") == parse_allow(" , ") == ()


@given(st.text())
def test_any_entry_is_read_or_named(text: str) -> None:
    """No text makes the setting's parser fail in another way than by ValueError."""
    try:
        parse_allow(text)
    except ValueError as exc:
        assert type(exc) is ValueError  # noqa: PT017


def test_address_check_decides_what_the_url_left_open() -> None:
    """With a network allowed, a name over http passes the URL check, and the address then decides."""
    guard = Netguard(parse_allow("10.0.0.0/8:8080"))
    assert guard.check_url("http://receiver:8080/")
    guard.check_address(Target("http", "receiver", 8080), "10.1.2.3")
    for address, rule in (("192.168.0.1", "private"), ("8.8.8.8", "local_name")):
        with pytest.raises(AddressNotAllowed) as caught:
            guard.check_address(Target("http", "receiver", 8080), address)
        assert caught.value.rule == rule
    for scheme, port, rule in (("http", 8080, "scheme"), ("https", 8080, "port"), ("http", 80, "scheme")):
        with pytest.raises(AddressNotAllowed) as caught:
            guard.check_address(Target(scheme, "hooks.example.com", port), "8.8.8.8")
        assert caught.value.rule == rule


def test_host_entry_opens_the_addresses_behind_it() -> None:
    """A host that is allowed by name may live at a private address, under that name only."""
    guard = Netguard(parse_allow("receiver:8080"))
    guard.check_address(Target("http", "Receiver.", 8080), "172.18.0.5")
    for host, port in (("receiver", 8081), ("other", 8080)):
        with pytest.raises(AddressNotAllowed):
            guard.check_address(Target("http", host, port), "172.18.0.5")


# --- registration ------------------------------------------------------------------------------------------------


def answers(*addresses: str):
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return list(addresses)

    resolve.asked = asked  # type: ignore[attr-defined]
    return resolve


async def test_registration_resolves_the_name() -> None:
    """A name whose every address is public is accepted; it is the normalised host that is looked up."""
    resolve = answers("8.8.8.8", "2606:4700::1111")
    target = await GUARD.check_registration("https://Hooks.Example.com./x", resolve)
    assert target.host == "hooks.example.com"
    assert resolve.asked == [("hooks.example.com", 443)]


@pytest.mark.parametrize(
    ("addresses", "rule"),
    [
        (["127.0.0.1"], "loopback"),
        (["8.8.8.8", "10.0.0.1"], "private"),
        (["10.0.0.1", "8.8.8.8"], "private"),
        (["8.8.8.8", "::ffff:8.8.8.8"], "v4_mapped"),
        (["8.8.8.8", "fd00:ec2::254"], "metadata"),
    ],
)
async def test_registration_refuses_a_name_with_any_forbidden_address(addresses: list[str], rule: str) -> None:
    """Answers that mix public and private addresses are refused, in either order."""
    with pytest.raises(AddressNotAllowed) as caught:
        await GUARD.check_registration("https://hooks.example.com/", answers(*addresses))
    assert caught.value.rule == rule


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "unknown"), TimeoutError(), OSError("x")])
async def test_registration_accepts_a_name_that_does_not_resolve(failure: OSError) -> None:
    """A DNS failure now says nothing of the delivery, where the address is checked anyway."""

    async def resolve(host: str, port: int) -> list[str]:
        raise failure

    assert await GUARD.check_registration("https://hooks.example.com/", resolve)


async def test_registration_does_not_wait_for_a_slow_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up is bounded in time, so that a dead name server cannot hold a registration."""
    monkeypatch.setattr("gateway.net.guard._RESOLVE_S", 0.01)
    cancelled = asyncio.Event()

    async def resolve(host: str, port: int) -> list[str]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return []

    assert await GUARD.check_registration("https://hooks.example.com/", resolve)
    assert cancelled.is_set()


async def test_registration_looks_up_no_literal() -> None:
    """A literal was judged by the URL check and a bad URL never reaches the resolver."""
    resolve = answers("8.8.8.8")
    assert await GUARD.check_registration("https://8.8.8.8/", resolve)
    with pytest.raises(AddressNotAllowed):
        await GUARD.check_registration("https://localhost/", resolve)
    assert resolve.asked == []


# --- one URL of the operator's own -------------------------------------------------------------------------------


def test_the_policy_for_one_url_opens_that_host_and_port_and_no_metadata() -> None:
    """Whatever the name resolves to by then, but for what hands out a cloud's credentials."""
    guard = Netguard.for_url("http://Bridge.internal:9000/events")
    target = guard.check_url("http://bridge.internal:9000/other")
    for address in ("10.0.0.7", "127.0.0.1", "1.1.1.1"):
        guard.check_address(target, address)
    with pytest.raises(AddressNotAllowed) as caught:
        guard.check_address(target, "169.254.169.254")
    assert caught.value.rule == "metadata"
    assert refused(guard, "http://bridge.internal:9001/events").rule == "local_name"
    assert refused(guard, "http://10.0.0.7:9000/events").rule == "private"
    for url in ("http://127.0.0.1:9000/", "http://[::1]/", "https://hooks.example.com/"):
        Netguard.for_url(url).check_url(url)
