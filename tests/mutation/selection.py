"""Which tests a mutant has to meet: those that run its statement, the quickest first.

Owns the way from lines to tests. A statement that runs at the import only, such as a constant or the text of an SQL
statement, is met by the tests that run whatever names it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutation.python_guards import Mutant, header

__all__ = ["Selection"]

_Place = tuple[str, range]


class Selection:
    """The tests of a measured run, by the lines that they ran."""

    def __init__(self, measured: dict[str, Any], paths: tuple[str, ...]) -> None:
        self._lines: dict[str, dict[str, list[str]]] = measured["lines"]
        self._seconds: dict[str, float] = measured["seconds"]
        self._trees = {path: ast.parse(Path(path).read_text("utf-8")) for path in paths}
        self._noticed: dict[str, set[str]] = {}

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests for a mutant: first those that noticed another one of its module, then the quickest."""
        noticed = self._noticed.get(mutant.path, set())
        found = self._run_by((mutant.path, mutant.lines), set())
        return sorted(found, key=lambda test: (test not in noticed, self._seconds[test]))

    def seconds(self, tests: list[str]) -> list[float]:
        """Return how long each of them took where nothing was changed."""
        return [self._seconds[test] for test in tests]

    def noticed(self, mutant: Mutant, by: str) -> None:
        """Hear which test noticed a mutant."""
        self._noticed.setdefault(mutant.path, set()).add(by)

    def _run_by(self, place: _Place, seen: set[str]) -> set[str]:
        path, lines = place
        found = {test for line in lines for test in self._lines[path].get(str(line), ()) if test}
        for name in self._defines(place) - seen:
            seen.add(name)
            for user in self._users(path, name):
                found |= self._run_by(user, seen)
        return found

    def _defines(self, place: _Place) -> set[str]:
        path, lines = place
        return {
            target.id
            for statement in self._trees[path].body
            if isinstance(statement, ast.Assign) and statement.lineno in lines
            for target in statement.targets
            if isinstance(target, ast.Name)
        }

    def _users(self, path: str, name: str) -> Iterator[_Place]:
        """Yield the statements that name it, in its own module or as a member of it."""
        module = Path(path).stem
        for other, tree in self._trees.items():
            for statement in (node for node in ast.walk(tree) if isinstance(node, ast.stmt)):
                own = header(statement)
                if any(
                    getattr(node, "lineno", 0) in own
                    and (
                        (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load))
                        if other == path
                        else (isinstance(node, ast.Attribute) and _member(node) == f"{module}.{name}")
                    )
                    for node in ast.walk(statement)
                ):
                    yield other, own


def _member(node: ast.Attribute) -> str:
    """Return which module's member it is; a port has its engine's modules in attributes of their names."""
    return ast.unparse(node).removeprefix("self._")
