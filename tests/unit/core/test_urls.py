"""What is made of a URL: its receiver, what may be logged of it, and how much is remembered."""

import tracemalloc
from collections.abc import Callable

import pytest

from gateway.core.urls import begins_with, cached_by_url, prefix_of, receiver_of
from gateway.net.guard import Netguard
from gateway.webhook.explaining import parsed, where


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://app.example.com/hooks", "https://app.example.com"),
        ("https://app.example.com/hooks?token=secret#part", "https://app.example.com"),
        ("https://user:secret@app.example.com/hooks", "https://app.example.com"),
        ("https://APP.example.com.:0443/", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("https://bücher.example/", "https://xn--bcher-kva.example"),
        ("http://127.0.0.1:9000/secret", "http://127.0.0.1:9000"),
        ("https://[2001:db8::1]:8443/secret", "https://[2001:db8::1]:8443"),
        ("https://app.example.com?secret", "https://app.example.com"),
    ],
)
def test_only_scheme_host_and_port_are_logged(url: str, receiver: str) -> None:
    """Path, query, fragment and credentials of a callback URL never reach the log."""
    assert receiver_of(url) == receiver


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://app.example.com/hooks?token=secret", "https://app.example.com"),
        ("https://app.example.com:443/", "https://app.example.com"),
        ("HTTPS://app.example.com:443/", "https://app.example.com"),
        ("Http://APP.example.com:80/", "http://app.example.com"),
        ("http://app.example.com:443/", "http://app.example.com:443"),
        ("http://app.example.com:8080/", "http://app.example.com:8080"),
        ("https://user:word@APP.example.com./x", "https://app.example.com"),
        ("https://bücher.example/", "https://xn--bcher-kva.example"),
        ("http://[2001:db8::1]/", "http://[2001:db8::1]"),
        ("http://[2001:db8::1]:8080/", "http://[2001:db8::1]:8080"),
        ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080"),
        ("https://[::ffff:808:808]/", "https://[::ffff:8.8.8.8]"),
        ("https://[::ffff:8.8.8.8]/", "https://[::ffff:8.8.8.8]"),
    ],
)
def test_a_receiver_has_one_name(url: str, receiver: str) -> None:
    """Scheme, host and port, however the URL is written, and nothing of it that is secret."""
    assert receiver_of(url) == receiver


@pytest.mark.parametrize(
    ("url", "segments"),
    [
        ("https://APP.example.com.:443/a/b", ("a", "b")),
        ("https://user:word@app.example.com/a/b?c=/d#e", ("a", "b")),
        ("https://app.example.com", ("",)),
        ("https://app.example.com/a/", ("a", "")),
        ("https://app.example.com/a//b", ("a", "", "b")),
        ("https://app.example.com/A", ("A",)),
        ("https://app.example.com/%61%2D%7e", ("a-~",)),
        ("https://app.example.com/a%2fb", ("a%2Fb",)),
        ("https://app.example.com/%c3%a4/%AA", ("%C3%A4", "%AA")),
        ("https://app.example.com/a/./b/../c", ("a", "c")),
        ("https://app.example.com/a/%2e/b/%2E%2e/c", ("a", "c")),
        ("https://app.example.com/%2e%2e/%2e%2e/a", ("a",)),
        ("https://app.example.com/a/...", ("a", "...")),
    ],
)
def test_a_path_has_one_spelling(url: str, segments: tuple[str, ...]) -> None:
    """No escape where none is needed, else in capitals; dots resolved after that; a path's letters keep their case."""
    assert prefix_of(url) == ("https://app.example.com", segments)


@pytest.mark.parametrize(
    ("path", "prefix", "begins"),
    [
        ("/hooks", "/hooks", True),
        ("/hooks/a", "/hooks", True),
        ("/hooks/a", "/hooks/", True),
        ("/hooks", "/hooks//", True),
        ("/hooksextra", "/hooks", False),
        ("/hooks", "/hooks/a", False),
        ("/Hooks/a", "/hooks", False),
        ("/a/hooks", "/hooks", False),
        ("/%68ooks/a", "/hooks", True),
        ("/hooks%2fa", "/hooks", False),
        ("/hooks/%2e%2e/a", "/hooks", False),
        ("/a/%2e%2e/hooks/b", "/hooks", True),
        ("/anything", "/", True),
        ("", "", True),
    ],
)
def test_a_path_begins_with_whole_segments(path: str, prefix: str, begins: bool) -> None:
    """However both are written; a slash at the prefix's end makes no difference, and a bare host is above all."""
    (_, segments), (_, first) = prefix_of(f"https://a.example{path}"), prefix_of(f"https://a.example{prefix}")
    assert begins_with(segments, first) is begins


def test_what_is_remembered_of_urls_is_bounded_in_bytes() -> None:
    """Some thousands of ordinary ones are read once each; long ones would take 40 MB, and are seldom the same."""
    read: list[str] = []

    @cached_by_url
    def cached(url: str) -> bytes:
        read.append(url)
        return url.encode()

    start = "https://app.example.com/hooks?"
    ordinary = [start + f"{number:0226}" for number in range(4096)]
    for url in [*ordinary, *ordinary]:
        assert cached(url) == url.encode()
    assert read == ordinary
    read.clear()
    long = start + "0" * 227
    assert cached(long) == cached(long) == long.encode()
    assert read == [long, long]


@pytest.mark.parametrize("read", [receiver_of, parsed, where, Netguard().check_url])
def test_no_long_url_is_kept(read: Callable[[str], object]) -> None:
    """By none of those that read one and the same URL."""
    for short in range(10):
        read(f"https://app.example.com/hooks?{short}")
    tracemalloc.start()
    try:
        for number in range(100):
            read(f"https://app.example.com/hooks?{number:02000}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000
