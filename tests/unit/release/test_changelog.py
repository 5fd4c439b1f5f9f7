"""The changelog: this one has its form, and what would be wrong with another is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from tests.manual import ROOT
from tests.release.changelog import faults, sections

CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
RIGHT = """# Changelog

## [Unreleased]

## [1.0.0] - 2026-12-01

### Added

- A thing.

### Fixed

- Another.

## [0.1.0] - 2026-11-01

### Added

- All of it.
"""


def test_this_one() -> None:
    """By Keep a Changelog, for the version that this is."""
    assert faults(CHANGELOG, __version__, None) == []
    assert next(iter(sections(CHANGELOG))) == "[Unreleased]"


def test_a_release_that_is_right() -> None:
    """Tagged as its version, which has a section; nothing waits beside it."""
    assert faults(RIGHT, "1.0.0", "v1.0.0") == []


@pytest.mark.parametrize(
    ("right", "wrong", "word"),
    [
        ("## [Unreleased]\n\n", "", "The first heading is not [Unreleased]"),
        ("## [Unreleased]\n", "## [Unreleased]\n\n### Added\n\n- More.\n", "it belongs to the version"),
        ("2026-12-01", "1 December", "write [MAJOR.MINOR.PATCH]"),
        ("2026-12-01", "2026-12-41", "write [MAJOR.MINOR.PATCH]"),
        ("[0.1.0]", "[1.1.0]", "do not stand newest first"),
        ("[0.1.0]", "[1.0.0]", "do not stand newest first"),
        ("### Fixed", "### Mended", "its parts are to be some of"),
        ("### Added\n\n- A thing.\n\n### Fixed", "### Fixed\n\n- A thing.\n\n### Added", "in this order"),
        ("- All of it.\n", "", "says nothing"),
        ("## [1.0.0]", "## [1.0.1]", "there is no section [1.0.0]"),
    ],
)
def test_what_is_wrong_is_said(right: str, wrong: str, word: str) -> None:
    """One mistake at a time."""
    assert RIGHT.count(right) >= 1
    assert word in "\n".join(faults(RIGHT.replace(right, wrong, 1), "1.0.0", "v1.0.0"))


def test_a_tag_of_another_version() -> None:
    """Is told with both."""
    assert "HEAD is tagged v1.0.1, and the version is 1.0.0" in faults(RIGHT, "1.0.0", "v1.0.1")[0]


def test_what_is_built_has_all_that_it_needs(tmp_path: Path) -> None:
    """The wheel and the sdist of this tree: each file that travels in them, the licence, metadata that can be read."""
    script = f"""
import sys
from pathlib import Path
from tests.release import package
folder = Path({str(tmp_path)!r})
sdist, wheel = (package.build(package.ROOT, folder / kind, kind) for kind in ("sdist", "wheel"))
names = package.wheel_names(wheel)
for name in ("gateway/py.typed", "gateway/manual/security.md", "gateway/dashboard/templates/base.html",
             "gateway/dashboard/static/pages.js", "gateway/store/sqlite/migrations/0001_initial.sql",
             "gateway/_config/gateway.toml", "gateway/_config/upstreams/kie.toml"):
    assert name in names, name
sys.exit("\\n".join(package.faults(package.ROOT, sdist, wheel)) or None)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
