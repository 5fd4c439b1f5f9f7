"""The frame of every page: which links may be followed, what a browser is told, and which files are whose."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gateway.dashboard import frame
from gateway.dashboard.frame import SECURITY_HEADERS, web_link
from tests.manual import ROOT

HERE = ROOT / "gateway" / "dashboard"
TEMPLATES = sorted((HERE / "templates").rglob("*.html"))
# Of the npm package htmx.org 2.0.11: dist/htmx.min.js and LICENSE.
HTMX = {
    "htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "htmx.LICENSE": "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
}


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.com/result.png",
        "http://127.0.0.1:9000/hooks?x=1&y=%22",
        "HTTPS://cdn.example.com/",
        "https://[2001:db8::1]:8443/a#b",
    ],
)
def test_links_to_the_web_may_be_followed(url: str) -> None:
    """What a receiver or an upstream wrote, as it wrote it."""
    assert web_link(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\tscript:alert(1)",
        " javascript:alert(1)",
        "\x01javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "file:/secrets",
        "//evil.example.com/",
        "/dashboard",
        "https:evil.example.com",
        "https:///evil.example.com",
        "https:/\\evil.example.com",
        "https://",
        "https://[half/",
        'https://a.example.com/"onmouseover="alert(1)',
        "https://a.example.com/<b>",
        "https://a.example.com/\r\nx",
        "https://exämple.com/",
        "https://a.example.com/" + "x" * 10_000,
        "",
        None,
        7,
        ["https://a.example.com/"],
    ],
)
def test_whatever_else_it_is_is_no_link(url: object) -> None:
    """Another scheme, half a URL, what would end an attribute, and what is no text."""
    assert web_link(url) is None


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline() -> None:
    """No host, no wildcard, no scheme and nothing unsafe: a page's own files alone."""
    policy = dict(part.strip().split(" ", 1) for part in SECURITY_HEADERS["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert {"base-uri", "form-action", "frame-ancestors"} <= policy.keys()  # default-src does not cover these
    assert (policy["base-uri"], policy["frame-ancestors"]) == ("'none'", "'none'")


class Attributes(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_escape_all_and_bring_no_script_of_their_own(path: Path) -> None:
    """No text is marked as safe, no handler and no style stands in a tag, and no attribute is without quotes."""
    text = path.read_text("utf-8")
    assert "|safe" not in text.replace(" ", "")
    assert "autoescape" not in text
    assert "Markup" not in text
    assert not re.search(r"=\{\{", text), "an attribute without quotes"
    parser = Attributes()
    parser.feed(re.sub(r"\{%.*?%\}|\{#.*?#\}", "", text, flags=re.DOTALL))
    for tag, attributes in parser.tags:
        assert tag not in ("style", "iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith(("on", "hx-on")) or name == "style"]
        if tag == "script":
            assert (attributes.get("src") or "").startswith("{{ static(")
    assert text.count('method="post"') == text.count('name="csrf"'), "each form proves its page"


def test_pages_of_htmx_are_the_released_ones() -> None:
    """The vendored file is the one of the release that its name and licence tell, byte for byte."""
    there = {name: hashlib.sha256((HERE / "static" / name).read_bytes()).hexdigest() for name in HTMX}
    assert there == HTMX


def test_every_own_file_is_served_by_a_digest() -> None:
    """A page of a newer gateway never runs with an older one's files."""
    made = frame.Frame("/prefix")
    path = made.static("style.css")
    digest = hashlib.sha256((HERE / "static" / "style.css").read_bytes()).hexdigest()
    assert path.startswith("/prefix/dashboard/static/style.css?")
    assert digest.startswith(path.partition("?")[2])
