"""What the page on scaling says that the gateway uses of PostgreSQL, held against its statements."""

import re

from tests.manual import ROOT, page

STATEMENTS = re.sub(
    r"\s+",
    " ",
    "\n".join(
        path.read_text("utf-8")
        for path in sorted((ROOT / "gateway/store/postgres").rglob("*"))
        if path.suffix in (".py", ".sql")
    ),
)
NOT_USED = ("CREATE EXTENSION", "FOREIGN KEY", "REFERENCES [a-z]", "TRUNCATE", "TEMP(ORARY)? TABLE", "lo_[a-z]+\\(")


def used() -> list[str]:
    """Return what stands in the table's first column as code; of one with … each of its parts."""
    table = page("scaling").partition("| what it uses | for |\n")[2].partition("\n\n")[0]
    first = "\n".join(row.split(" | ")[0] for row in table.splitlines()[1:])
    return [part.strip() for code in re.findall(r"`([^`]+)`", first) for part in code.split("…") if part]


def test_all_of_it_is_used() -> None:
    """What the gateway does without is asked of nobody."""
    assert len(used()) > 30
    assert [code for code in used() if code.removesuffix("()").lower() not in STATEMENTS.lower()] == []


def test_what_is_used_is_named() -> None:
    """Locks of rows and PostgreSQL's own functions, which services lack more often than other things."""
    locks = set(re.findall(r"FOR (?:NO KEY UPDATE|KEY SHARE|UPDATE|SHARE)\b", STATEMENTS))
    functions = set(re.findall(r"\b(pg_[a-z_]+|hash[a-z]+|clock_timestamp)\(", STATEMENTS))
    assert locks
    assert functions
    assert sorted((locks | functions) - {code.removesuffix("()") for code in used()}) == []


def test_what_is_not_used() -> None:
    """As the page says."""
    assert [pattern for pattern in NOT_USED if re.search(pattern, STATEMENTS)] == []
