"""Which requests count as a foreign web page's, where no token proves who asks."""

import pytest

from gateway.api.webpages import refuse_web_pages
from gateway.core.errors import Forbidden, UnsupportedMediaType

Headers = list[tuple[bytes, bytes]]
HOST = (b"host", b"localhost:8080")
JSON = (b"content-type", b"application/json")
BODY = (b"content-length", b"2")


def takes(*headers: tuple[bytes, bytes], method: str = "GET") -> bool:
    """Whether a request with these headers is taken."""
    try:
        refuse_web_pages(method, headers)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        *(b"localhost", b"localhost:8080", b"LocalHost:80", b"localhost.", b"localhost.:8080", b"127.0.0.1"),
        *(b"127.0.0.1:65535", b"127.255.255.254:1", b"[::1]", b"[::1]:8080", b"[::ffff:127.0.0.1]:80", b" localhost "),
        *(b"localhost:", b"[0:0:0:0:0:0:0:1]"),
    ],
)
def test_loopback_names_are_taken(host: bytes) -> None:
    """By whatever name of this machine alone, on whatever port."""
    assert takes((b"host", host))


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b".", b":8080", b"evil.test", b"evil.test:8080", b"localhost.evil.test", b"127.0.0.1.evil.test"),
        *(b"a.localhost", b"localhost..", b"127.0.0.1.evil.test.", b"evil.test#localhost", b"localhost@evil.test"),
        *(b"evil.test@localhost", b"localhost:8080:80", b"localhost:x", b"localhost:123456", b"localhost/", b"::1"),
        *(b"localhost, evil.test", b"[::1", b"::1]", b"[::1]x", b"[::1]]", b"[localhost]", b"[127.0.0.1]", b"[::]"),
        *(b"0.0.0.0", b"0", b"127.1", b"2130706433", b"0x7f000001", b"0177.0.0.1", b"10.0.0.1", b"128.0.0.1"),
        *(b"[fe80::1]", b"[::2]", b"gateway", b"localhost\x00", b"loca\xe4lhost", b"[::1%lo]", b"169.254.169.254"),
        "\uff11\uff12\uff17.0.0.1".encode(),
    ],
)
def test_other_names_are_refused(host: bytes) -> None:
    """Somebody may have them resolve to this machine, or a browser take them for it."""
    assert not takes((b"host", host))


def test_exactly_one_host_is_taken() -> None:
    """Who sends none, or two of which somebody else may read the other, is no client that is known to be harmless."""
    assert not takes()
    assert not takes(HOST, HOST)
    assert not takes(HOST, (b"host", b"evil.test"))


@pytest.mark.parametrize(
    ("origin", "taken"),
    [
        (b"http://localhost:8080", True),
        (b"https://localhost:8080", True),  # TLS ends before the gateway
        (b"HTTP://LOCALHOST:8080", True),
        (b"null", False),
        (b"", False),
        (b"http://evil.test", False),
        (b"http://localhost:3000", False),
        (b"http://localhost", False),
        (b"http://127.0.0.1:8080", False),
        (b"file://", False),
        (b"chrome-extension://localhost:8080", False),
        (b"http://localhost:8080.evil.test", False),
        (b"http://evil.test http://localhost:8080", False),
    ],
)
def test_only_its_own_pages_are_no_strangers(origin: bytes, taken: bool) -> None:
    """A page of another port of this machine is another program's."""
    assert takes(HOST, (b"origin", origin)) is taken
    assert takes(HOST, (b"origin", origin), BODY, JSON, method="POST") is taken


@pytest.mark.parametrize(
    ("site", "taken"),
    [
        (b"none", True),
        (b"same-origin", True),
        (b"Same-Origin", True),
        (b"cross-site", False),
        (b"same-site", False),
        (b"", False),
        (b"same-origin, cross-site", False),
    ],
)
def test_browsers_say_for_whom_they_ask(site: bytes, taken: bool) -> None:
    """What somebody typed or the gateway's own page asks is taken, for images and scripts too, which have no origin."""
    assert takes(HOST, (b"sec-fetch-site", site)) is taken


@pytest.mark.parametrize(
    "content_type",
    [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b"", b"application/jsonx", None],
)
@pytest.mark.parametrize(
    "body", [BODY, (b"content-length", b"007"), (b"transfer-encoding", b"chunked")], ids=["length", "zeros", "chunked"]
)
def test_a_body_has_to_call_itself_json(body: tuple[bytes, bytes], content_type: bytes | None) -> None:
    """What a form or a text may be, a page can send without leave."""
    headers: Headers = [HOST, body] + ([] if content_type is None else [(b"content-type", content_type)])
    with pytest.raises(UnsupportedMediaType):
        refuse_web_pages("POST", headers)


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"0")], [BODY, (b"content-type", b"Application/JSON;x")]])
def test_json_and_nothing_may_be_posted(headers: Headers) -> None:
    """A redelivery has no body, and no type."""
    refuse_web_pages("POST", [HOST, *headers])


@pytest.mark.parametrize(
    ("authorization", "taken"),
    [
        (b"Bearer x", True),
        (b"bearer x", True),
        (b"Token x", True),
        (b"Basic eA==", False),
        (b"Bearer", False),
        (b"", False),
    ],
)
def test_whoever_sends_a_token_may_post_a_form(authorization: bytes, taken: bool) -> None:
    """A program uploads a file with whatever it has for a key; of the schemes a browser knows none counts."""
    headers: Headers = [HOST, BODY, (b"content-type", b"multipart/form-data"), (b"authorization", authorization)]
    if taken:
        refuse_web_pages("POST", headers)
        return
    with pytest.raises(UnsupportedMediaType):
        refuse_web_pages("POST", headers)
