"""README and the manual: short enough to be read, linked to one another, and naming only what there is."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manual import MANUAL, README, ROOT

PAGES = sorted(MANUAL.glob("*.md"))
TEXTS = {path.name: path for path in (README, *PAGES)}
EVERY = pytest.mark.parametrize("path", TEXTS.values(), ids=TEXTS)
CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """Return a text without its code, in which brackets and hashes mean something else."""
    return CODE.sub(lambda code: "" if "\n" in code[0] else code[0].strip("`"), path.read_text("utf-8"))


def anchors(path: Path) -> set[str]:
    """Return what a forge makes of the headings: lower case, punctuation gone, blanks as hyphens."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert max(Counter(slugs).values()) == 1, f"{path.name}: two headings have one anchor"
    return set(slugs)


def links(path: Path) -> list[str]:
    """Return where the links and pictures lead that are not of the web."""
    return [to for to in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if not to.startswith("https://")]


def test_readme_is_short() -> None:
    """Whoever wants to use it reads it to the end; the manual has the rest."""
    assert len(README.read_text("utf-8").splitlines()) <= 250


@EVERY
def test_every_link_leads_somewhere(path: Path) -> None:
    """To a file that there is, and to a heading in it."""
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{path.name}: {link}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_manual_stands_alone(path: Path) -> None:
    """Its links stay in it, as an installed gateway has nothing else."""
    outside = [link for link in links(path) if "/" in link.partition("#")[0].removeprefix("receivers/")]
    assert outside == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_begins_with_what_it_is_for(path: Path) -> None:
    """A title, then for whom it is."""
    title, blank, first, *_ = path.read_text("utf-8").splitlines()
    assert title.startswith("# ")
    assert blank == ""
    assert first.startswith("For who ")


def test_the_index_leads_to_every_page() -> None:
    """README leads there, each page has its row in it, and what is no page is a file that one links to or shows."""
    assert "gateway/manual/index.md" in links(README)
    assert {path.name for path in PAGES} - set(links(MANUAL / "index.md")) == {"index.md"}
    shown = {link for path in PAGES for link in links(path)}
    shown |= set(re.findall(r'srcset="gateway/manual/([^"]+)"', README.read_text("utf-8")))  # in the dark
    others = {str(path.relative_to(MANUAL)) for path in MANUAL.rglob("*.*") if path.suffix not in (".md", ".pyc")}
    assert others - shown == set()


@EVERY
def test_each_row_of_a_table_has_a_cell_for_each_heading(path: Path) -> None:
    """A row that two changes have put into one shows what belongs to neither."""
    for table in re.findall(r"(?:^\|.*\n)+", path.read_text("utf-8"), re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", row) for row in table.splitlines()]
        assert [row for row in rows if len(row) != len(rows[0])] == [], path.name


@EVERY
def test_named_files_are_there(path: Path) -> None:
    """What is told of the source leads to it, also after a module was renamed."""
    named = set(re.findall(r"(?<![\w/.-])(?:gateway|config|tests)/[a-z0-9_/.-]*[a-z0-9_/]", path.read_text("utf-8")))
    installed = {"gateway/_config"}
    assert [name for name in sorted(named - installed) if not (ROOT / name).exists()] == []


def rows() -> dict[str, str]:
    """Return the rows of where a change goes: what it is, and the way there."""
    table = README.read_text("utf-8").partition("\n## Where a change goes\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (`.+) \|$", table, re.MULTILINE))


def ways() -> Iterator[tuple[list[str], list[str]]]:
    """Yield what each row names: paths, which lead from the top, and names, which stand below the first of these."""
    for way in rows().values():
        paths, names = [], []
        for name in re.findall(r"`([\w/.]+)`", way):
            (paths if "/" in name.rstrip("/") or "." in name else names).append(name.rstrip("/"))
        yield paths, names


def test_every_folder_has_a_row() -> None:
    """Where a change goes is found from README alone."""
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "gateway").glob("*/__init__.py")}
    assert [str(folder) for folder in sorted(folders) if f"`{folder}/`" not in " ".join(rows().values())] == []


def test_every_row_names_what_there_is() -> None:
    """Paths lead from the top, and other names stand somewhere below the row's first path."""
    missing = []
    for paths, names in ways():
        missing += [path for path in paths if not (ROOT / path).exists()]
        there = {path.stem for path in (ROOT / paths[0]).rglob("*")}
        missing += [f"{name} in {paths[0]}" for name in names if name not in there]
    assert missing == []


def test_every_module_is_named() -> None:
    """One that is new, or was made of another, has its place in the table."""
    modules = {path.relative_to(ROOT) for path in (ROOT / "gateway").rglob("*.py") if not path.stem.startswith("__")}
    modules -= {path for path in modules if path.is_relative_to("gateway/manual")}  # other people's programs
    named = {
        module
        for paths, names in ways()
        for module in modules
        if str(module) in paths or (module.stem in names and module.is_relative_to(paths[0]))
    }
    assert sorted(modules - named) == []
