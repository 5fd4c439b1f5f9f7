"""What Markdown becomes on the manual's pages, and what its search finds."""

import re

import pytest

from gateway.dashboard.manual.book import Book
from gateway.dashboard.manual.markdown import ManualPage, read_page
from gateway.dashboard.manual.search import ManualSearch


def made(text: str) -> ManualPage:
    return read_page("page", f"# Title\n\n{text}", lambda name: f"/base/manual/{name.removesuffix('.md')}")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "x <img src=x onerror=alert(1)> y",
        "[x](javascript:alert(1))",
        "![x](javascript:alert(1))",
        "[x](data:text/html,hello)",
        "<!-- hidden -->",
        "```\n</code></pre><script>alert(1)</script>\n```",
        "```<script>\nx\n```",
        "# <b>bold</b>",
    ],
)
def test_markup_stays_text(text: str) -> None:
    """Whatever a page's text holds: no element of its own, and no link but to the web and the manual."""
    html = made(text).html
    assert not re.search(r"<(script|img|b|!--)", html)
    assert not re.search(r'(href|src)="(javascript|data)', html)


def test_links_lead_to_where_the_pages_stand() -> None:
    """To a page without its suffix, to a heading of it, to a picture; those to the web tell nobody where they stand."""
    page = made("[a](api.md) [b](api.md#calls) [c](#here) ![d](bench.svg) [e](https://example.com/x.md)\n\n## Here\n")
    assert re.findall(r'(?:href|src)="([^"]+)"', page.html) == [
        "/base/manual/api",
        "/base/manual/api#calls",
        "#here",
        "/base/manual/bench.svg",
        "https://example.com/x.md",
    ]
    assert '<h2 id="here">' in page.html
    assert page.links == ["api", "api"]
    assert page.html.count('rel="noreferrer"') == 1


def test_tables_say_whose_they_are() -> None:
    """They can be scrolled by keyboard; a head without words is none, and a row with a name has an anchor."""
    page = made(
        "## Of what\n\n| | |\n|---|---|\n| `one_two` | x |\n| `a` `b` | y |\n\n"
        "| key | |\n|---|---|\n| `one_two` | z |\n"
    )
    assert page.html.count('<div class="scroll" tabindex="0" role="group" aria-label="Table: Of what">') == 2
    assert page.html.count("<thead>") == page.html.count("<th>") == 1
    assert re.findall(r'<tr id="([^"]+)">', page.html) == ["one_two"]
    assert [(one.title, one.anchor, one.level) for one in page.sections] == [
        ("Title", "", 1),
        ("one_two", "one_two", 7),
        ("Of what", "of-what", 2),
    ]


@pytest.fixture(scope="module")
def book() -> Book:
    return Book("/manual")


@pytest.fixture(scope="module")
def search(book: Book) -> ManualSearch:
    return ManualSearch(book.pages)


@pytest.mark.parametrize(
    ("text", "page", "anchor"),
    [
        ("backup", "operating", "backup"),
        ("GATEWAY_DRAIN_S", "settings", "gateway_drain_s"),
        ("gateway_callbacks_dead", "metrics", "gateway_callbacks_dead"),
        ("signature does not verify", "troubleshooting", "the-signature-does-not-verify"),
        ("SEVERAL clients", "configuration", "several-clients"),
        ("disk full", "troubleshooting", "the-disk-is-full"),
    ],
)
def test_what_is_looked_for_comes_first(search: ManualSearch, text: str, page: str, anchor: str) -> None:
    """A heading or a name before what only mentions it, in capitals or not."""
    best = search.find(text)[0]
    assert (best.page, best.anchor) == (page, anchor)


def test_a_hit_shows_where_it_has_what_is_looked_for(search: ManualSearch) -> None:
    """An excerpt of whole words, with each word marked; one that lacks a word is no hit."""
    hits = search.find("disk full")
    assert hits
    for hit in hits:
        text = "".join(piece.text for piece in (*hit.title, *hit.excerpt))
        assert len(text) < 400
        marked = {piece.text.lower() for piece in (*hit.title, *hit.excerpt) if piece.found}
        assert marked <= {"disk", "full"}
    assert "disk" in "".join(piece.text for piece in hits[0].excerpt).lower()
    assert search.find("disk zyzzyva") == search.find("") == search.find("?! ()") == []


def test_every_page_stands_in_its_place(book: Book) -> None:
    """The first is the index, each page follows the one before it in the index, and the last has none after it."""
    names = list(book.pages)
    assert names[0] == "index"
    assert [page.name for name in names if (page := book.neighbours(name).after)] == names[1:]
    assert [page.name for name in names if (page := book.neighbours(name).before)] == names[:-1]
