"""Which receivers somebody means: by how callbacks' URLs begin, or by a part of the receivers' names."""

import pytest

from gateway.core.search import Sought, host_of, sought


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://APP.example.com:443", Sought("https://app.example.com/")),
        ("Http://app.example.com:8080//", Sought("http://app.example.com:8080/")),
        ("https://app.example.com/%68ooks/./x/?order=7#top", Sought("https://app.example.com/", ("hooks", "x"))),
        ("app.example.com/", Sought("app.example.com/")),
        ("app.example.com:8443", Sought("app.example.com:8443")),
        ("//app.example.com/", Sought("//app.example.com/")),
        ("https://", Sought("https://")),
        ("http:", Sought("http:")),
        ("App", Sought("App")),
    ],
)
def test_a_url_is_read_and_another_text_is_left(text: str, meant: Sought) -> None:
    """However a URL is written it means the same; without a scheme a text is a part of a name."""
    assert sought(text) == meant


@pytest.mark.parametrize("text", ["https://[::1/hooks", "http://\ud800/"])
def test_a_url_that_cannot_be_read(text: str) -> None:
    """It is refused: as a part of a name it would mean nobody."""
    with pytest.raises(ValueError, match=r"^is no URL that can be read$"):
        sought(text)


@pytest.mark.parametrize(
    "text",
    [
        "app.example.com/hooks",
        "app.example.com:8443/hooks",
        "//app.example.com/hooks",
        "/hooks",
        "localhost//hooks/",
        "[::1]:9/hooks",
        "app.example.com?order=7",
        "app.example.com/#top",
        "https:///hooks",
        "app/h",
    ],
)
def test_a_path_without_a_scheme_is_refused(text: str) -> None:
    """No receiver's name has it, so that it would mean nobody, in silence; what to write instead is said."""
    with pytest.raises(ValueError, match=r"^has a path and no scheme: write .* https://app\.example\.com/hooks"):
        sought(text)


@pytest.mark.parametrize("text", ["ftp://app.example.com", "htps://app.example.com/hooks", "postgresql://app"])
def test_another_scheme_is_refused(text: str) -> None:
    """No callback goes there."""
    with pytest.raises(ValueError, match=r"^begins with neither http:// nor https://: write "):
        sought(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://app.example.com/hooks/7", "app.example.com"),
        ("app.example.com:8443/hooks", "app.example.com:8443"),
        ("HTTP://localhost:9/hooks", "localhost:9"),
        ("https://[::1]:9/hooks", "[::1]:9"),
        ("https://App.Example.com/hooks", "app.example.com"),
        ("https://app.example.com:443/hooks", "app.example.com"),
        ("app.example.com:443/hooks", "app.example.com"),
        ("http://app.example.com:443/hooks", "app.example.com:443"),
        ("https://bücher.example/x", "xn--bcher-kva.example"),
        ("app.example.com./hooks", "app.example.com"),
        ("https://user:pw@app.example.com/hooks", "app.example.com"),
        ("https://app.example.com:x/hooks", None),
        ("app.example.com/", None),
        ("https://app.example.com", None),
        ("orderId=7", None),
        ("a/b", None),
        ("", None),
    ],
)
def test_the_host_of_a_url_is_what_its_callbacks_are_found_by(text: str, host: str | None) -> None:
    """A list looks for a text in receivers' names, each host of which is written in one way; other texts are left."""
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("https://app.example.com/hooks", True),
        ("HTTPS://app.example.com:443/%68ooks/7?x=/y", True),
        ("https://app.example.com/hooksextra", False),
        ("https://app.example.com/other/../hooks", True),
        ("https://app.example.com/hooks/../other", False),
        ("https://app.example.com/", False),
        ("https://app.example.com:8443/hooks", False),
        ("http://app.example.com/hooks", False),
        ("https://[::1/hooks", False),
    ],
)
def test_a_path_is_compared_by_whole_segments(url: str, has: bool) -> None:
    """As a table's ``match`` is; without a path every callback of the receiver is meant."""
    assert sought("https://app.example.com/hooks/").has(url) is has
    assert sought("https://app.example.com/").has(url)
