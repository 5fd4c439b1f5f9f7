"""``make audit``: what it makes of each answer. Nobody asked is not nobody at fault."""

from typing import Any

import pytest

from tests.release.audit import verdict

CLEAN = {"name": "a", "version": "1", "vulns": []}
OTHER = {"name": "b", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "aliases": []}]}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
GONE = None


@pytest.mark.parametrize(
    ("first", "second", "code", "word"),
    [
        ([CLEAN, OTHER], [], 0, "2 packages were asked about"),
        ([CLEAN, FAULTY], [], 1, "b: PYSEC-1, fixed in: 2"),
        ([CLEAN, SKIPPED], [CLEAN, OTHER], 0, "2 packages were asked about"),
        ([CLEAN, SKIPPED], [SKIPPED, FAULTY], 1, "1 packages have known"),
        ([CLEAN, SKIPPED], GONE, 3, "No service told of: b"),
        ([SKIPPED], [SKIPPED], 3, "No service told of: b"),
        (GONE, [CLEAN], 0, "first could not be asked about lock: no route"),
        (GONE, GONE, 3, "No service told of: all of lock"),
        ([], [], 3, "Not all could be asked"),
    ],
)
def test_what_comes_of_it(first: list[Any] | None, second: list[Any] | None, code: int, word: str) -> None:
    """Of two services, the second asked only about what the first does not tell."""
    asked: list[str] = []

    def ask(service: str, lock: str) -> tuple[list[Any] | None, str]:
        asked.append(service)
        return {"first": first, "second": second}[service], "no route"

    found = verdict(["lock"], ["first", "second"], ask)
    assert found.code == code
    assert word in "\n".join(found.lines)
    assert asked == ["first"] or first is None or not first or SKIPPED in first


def test_one_lock_clears_no_other() -> None:
    """Where a service fails for the second lock the first one's answer does not stand for both."""
    answers = {"one": [CLEAN], "two": GONE}
    found = verdict(["one", "two"], ["first"], lambda _, lock: (answers[lock], "timed out"))
    assert found.code == 3
    assert "No service told of: all of two" in found.lines
