"""Markdown → a page: its markup, its headings with their anchors, and its sections as plain text.

Owns what Markdown may become: markup in it stays text, links lead to pages of the manual, its pictures or the web, and
what may be too wide can be scrolled by keyboard. Pure. Called by ``book``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup

_ROW = 7
_ENDS: Mapping[tuple[str, ...], str] = {("td_close", "td_open"): " ·", ("td_close", "tr_close"): ";"}
"""What stands between the cells of a row, and after it, where it is read as text."""
_OWN_PATH = re.compile(r"/manual/[a-z-]+")


class Section(NamedTuple):
    """A heading, and what stands below it up to the next one; or a row of a table that begins with one name."""

    title: str
    anchor: str
    level: int
    """1 is the page, 2 to 6 are headings, 7 is a row."""
    text: str


class ManualPage(NamedTuple):
    """One page."""

    name: str
    title: str
    html: Markup
    """All of it but its title."""
    sections: Sequence[Section]
    """The first is the page itself, up to its first heading."""
    links: Sequence[str]
    """The pages that it leads to, in their order."""


Where = Callable[[str], str]
"""The address of a file of the manual, by its name, as a browser asks for it."""


def slug(title: str) -> str:
    """Return the anchor of a heading, as code hosts make it: the same links lead there and here."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def read_page(name: str, text: str, where: Where) -> ManualPage:
    """Return the page of a Markdown text that begins with its title."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("fence", _fence)
    reader.add_render_rule("table_open", _table_open)
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    reader.add_render_rule("code_inline", lambda _, tokens, at, *__: _code(tokens[at].content, where))
    tokens = reader.parse(text)
    title, tokens = _plain(tokens[1]), tokens[3:]
    links: list[str] = []
    for token in _all(tokens):
        _lead(token, where, links)
    _name_headings(tokens)
    _name_rows(tokens)
    _name_tables(tokens, title)
    html = Markup(reader.renderer.render(_without_empty_heads(tokens), reader.options, {}))  # noqa: S704 - made here
    return ManualPage(name, title, html, list(_sections(title, tokens)), links)


def _all(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _all(token.children or ())


def _lead(token: Token, where: Where, links: list[str]) -> None:
    """Have a link or a picture lead to where the manual's files stand, and note which page it is."""
    attribute = {"link_open": "href", "image": "src"}.get(token.type)
    if attribute is None:
        return
    to = str(token.attrs[attribute])
    path, _, anchor = to.partition("#")
    if to.startswith(("https://", "http://")):
        token.attrs["rel"] = "noreferrer"
    elif path:
        if path.endswith(".md"):
            links.append(path.removesuffix(".md"))
        token.attrs[attribute] = where(path) + (f"#{anchor}" if anchor else "")


def _name_headings(tokens: Sequence[Token]) -> None:
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            token.attrs["id"] = slug(_plain(following))


def _name_rows(tokens: Sequence[Token]) -> None:
    """Give a row that begins with one name in the type of code its anchor, where that is nobody else's."""
    taken = {token.attrs.get("id") for token in tokens}
    for at, token in enumerate(tokens):
        if token.type != "tr_open" or tokens[at + 1].type != "td_open":
            continue
        first = tokens[at + 2].children or []
        if len(first) == 1 and first[0].type == "code_inline" and (name := slug(first[0].content)) not in taken:
            token.attrs["id"] = name
            taken.add(name)


def _name_tables(tokens: Sequence[Token], title: str) -> None:
    """Have each table, and each block of code, say whose it is: either may be scrolled by itself."""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            title = _plain(following)
        elif token.type in ("table_open", "fence"):
            token.meta = {"of": title}


def _without_empty_heads(tokens: Sequence[Token]) -> list[Token]:
    """Leave out heads of tables without a word, and make single empty cells of them no headings."""
    kept: list[Token] = []
    head = 0
    for at, token in enumerate(tokens):
        if token.type == "thead_open":
            head = len(kept)
        elif token.type in ("th_open", "th_close"):
            inline = tokens[at + 1 if token.type == "th_open" else at - 1]
            if not inline.content:
                token.tag = "td"
        kept.append(token)
        if token.type == "thead_close" and not any(one.content for one in kept[head:]):
            del kept[head:]
    return kept


def _sections(title: str, tokens: Sequence[Token]) -> Iterator[Section]:
    anchor, level, words = "", 1, list[str]()
    for at, token in enumerate(tokens):
        if token.type == "tr_open" and "id" in token.attrs:
            cells = _cells(tokens, at)
            yield Section(cells[0], str(token.attrs["id"]), _ROW, " ".join(cells[1:]))
        if token.type == "heading_open":
            yield Section(title, anchor, level, " ".join(words))
            title, anchor, level, words = _plain(tokens[at + 1]), str(token.attrs["id"]), int(token.tag[1:]), []
        elif token.type in ("fence", "code_block"):
            words.append(" ".join(token.content.split()))
        elif token.type == "inline" and tokens[at - 1].type != "heading_open":
            words.append(_plain(token) + _ENDS.get(tuple(one.type for one in tokens[at + 1 : at + 3]), ""))
    yield Section(title, anchor, level, " ".join(words))


def _cells(tokens: Sequence[Token], at: int) -> list[str]:
    """Return the words of each cell of the row that begins there."""
    end = next(one for one in range(at, len(tokens)) if tokens[one].type == "tr_close")
    return [_plain(token) for token in tokens[at:end] if token.type == "inline"]


def _plain(inline: Token) -> str:
    """Return the words of a line without its markup; of pictures what is said in their place."""
    pieces = []
    for token in inline.children or ():
        if token.type in ("softbreak", "hardbreak"):
            pieces.append(" ")
        elif token.type in ("text", "code_inline", "image"):
            pieces.append(token.content)
    return "".join(pieces)


def _code(text: str, where: Where) -> str:
    """Return a piece of code; where it is the path of a page that no file has, a link there."""
    code = f"<code>{escapeHtml(text)}</code>"
    return f'<a href="{where(text.rpartition("/")[2])}">{code}</a>' if _OWN_PATH.fullmatch(text) else code


def _fence(renderer: Any, tokens: Sequence[Token], at: int, *_: Any) -> str:
    return f'<pre tabindex="0"><code>{escapeHtml(tokens[at].content)}</code></pre>\n'


def _table_open(renderer: Any, tokens: Sequence[Token], at: int, *_: Any) -> str:
    of = escapeHtml(tokens[at].meta["of"])
    return f'<div class="scroll" tabindex="0" role="group" aria-label="Table: {of}"><table>\n'
