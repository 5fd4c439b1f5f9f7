"""All pages of the manual, in the order in which ``index.md`` leads to them; read when they are first asked for.

Owns which pages and other files there are, and what comes before and after each. Called by ``routes``, in a thread.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gateway.dashboard.manual.markdown import ManualPage, read_page

_FOLDER = Path(__file__).parents[2] / "manual"
_FIRST = "index"
_TYPES = {".svg": "image/svg+xml", ".webp": "image/webp"}
_TEXT = "text/plain; charset=utf-8"


class ManualFile(NamedTuple):
    """A picture, or an example that a page leads to."""

    content: bytes
    media_type: str


class Neighbours(NamedTuple):
    """The pages before and after one."""

    before: ManualPage | None
    after: ManualPage | None


class Book:
    """The manual, whose pages stand below ``base``, as a browser asks for them."""

    def __init__(self, base: str) -> None:
        self._base = base

    @cached_property
    def pages(self) -> Mapping[str, ManualPage]:
        """By name; the index comes first, and what it leads to after it."""
        found = {path.stem: read_page(path.stem, path.read_text("utf-8"), self.where) for path in _FOLDER.glob("*.md")}
        order = dict.fromkeys([_FIRST, *found[_FIRST].links, *sorted(found)])
        return {name: found[name] for name in order}

    @cached_property
    def files(self) -> Mapping[str, ManualFile]:
        """By path below the folder."""
        paths = (path for path in _FOLDER.rglob("*.*") if path.suffix not in (".md", ".pyc") and path.is_file())
        return {
            path.relative_to(_FOLDER).as_posix(): ManualFile(path.read_bytes(), _TYPES.get(path.suffix, _TEXT))
            for path in paths
        }

    def neighbours(self, name: str) -> Neighbours:
        names = list(self.pages)
        at = names.index(name)
        around = [self.pages[names[one]] if 0 <= one < len(names) else None for one in (at - 1, at + 1)]
        return Neighbours(*around)

    def where(self, name: str) -> str:
        """Return where a file of the folder stands: a page without its suffix, the index at the top."""
        name = name.removesuffix(".md")
        return self._base if name == _FIRST else f"{self._base}/{name}"
