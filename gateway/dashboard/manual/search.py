"""Search over the manual: sections that have every word that is looked for, the best first, with an excerpt of each.

Owns what counts how much. Pure. Called by ``routes``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.dashboard.manual.markdown import ManualPage, Section

_MOST_WORDS = 8
_MOST_HITS = 30
_EXCERPT = 220
"""Characters around the first word that is found."""
_OF_PAGE_TITLE, _OF_HEADING, _WHOLE_WORD, _MOST_TIMES = 4, 10, 2, 5


class Piece(NamedTuple):
    """A part of a text, and whether it is what was looked for."""

    text: str
    found: bool


class ManualHit(NamedTuple):
    """A section that has what was looked for."""

    page: str
    """Its name."""
    page_title: str
    anchor: str
    title: Sequence[Piece]
    excerpt: Sequence[Piece]


class _Indexed(NamedTuple):
    page: ManualPage
    section: Section
    of_page: str
    title: str
    text: str


class ManualSearch:
    """What is looked through: all sections of some pages."""

    def __init__(self, pages: Mapping[str, ManualPage]) -> None:
        self._sections = [
            _Indexed(page, section, page.title.lower(), section.title.lower(), section.text.lower())
            for page in pages.values()
            for section in page.sections
        ]

    def find(self, text: str) -> list[ManualHit]:
        """Return the best sections, at most 30; none where nothing is looked for."""
        words = list(dict.fromkeys(re.findall(r"[\w/_.-]*\w[\w/_-]*", text.lower())))[:_MOST_WORDS]
        if not words:
            return []
        rated = [(score, one) for one in self._sections if (score := _score(one, words))]
        rated.sort(key=lambda found: -found[0])  # of equal ones the first in the manual
        marks = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))), re.IGNORECASE)
        return [_hit(one, marks) for _, one in rated[:_MOST_HITS]]


def _score(one: _Indexed, words: Sequence[str]) -> float:
    """Return how well a section fits; 0 where it lacks a word."""
    score = 0.0
    for word in words:
        whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        of_word = 0
        for text, counts in (
            (one.title, _OF_HEADING * (word in one.title)),
            (one.text, _OF_PAGE_TITLE * (word in one.of_page) + min(one.text.count(word), _MOST_TIMES)),
        ):
            of_word += counts * (_WHOLE_WORD if whole.search(text) else 1)
        if not of_word:
            return 0.0
        score += of_word
    return score


def _hit(one: _Indexed, marks: re.Pattern[str]) -> ManualHit:
    section = one.section
    excerpt = list(_pieces(_around(section.text, marks), marks))
    return ManualHit(one.page.name, one.page.title, section.anchor, list(_pieces(section.title, marks)), excerpt)


def _around(text: str, marks: re.Pattern[str]) -> str:
    """Return the part of a text where what is looked for stands first, in whole words."""
    first = marks.search(text)
    start = max(0, (first.start() if first else 0) - _EXCERPT // 3)
    end = start + _EXCERPT
    if start:
        start = text.find(" ", start, end) + 1 or start
    if end < len(text):
        end = text.rfind(" ", start, end) + 1 or end
    return ("… " if start else "") + text[start:end].strip() + (" …" if end < len(text) else "")


def _pieces(text: str, marks: re.Pattern[str]) -> Iterator[Piece]:
    at = 0
    for match in marks.finditer(text):
        if match.start() > at:
            yield Piece(text[at : match.start()], found=False)
        yield Piece(match[0], found=True)
        at = match.end()
    if at < len(text):
        yield Piece(text[at:], found=False)
