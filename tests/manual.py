"""README and the pages of the manual as text, for tests that hold their words against the code."""

from pathlib import Path

__all__ = ["MANUAL", "README", "ROOT", "TYPES", "page"]

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MANUAL = ROOT / "gateway" / "manual"
TYPES = ROOT / ".mypy_cache" / "tests"
"""Where tests keep what mypy knows of libraries, which takes it seconds to read: each in a folder of its own."""


def page(name: str) -> str:
    """Return a page's text: ``page("api")`` is that of ``gateway/manual/api.md``."""
    return (MANUAL / f"{name}.md").read_text("utf-8")
