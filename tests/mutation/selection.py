"""Which tests a mutant has to meet: those that run its statement, the quickest first.

Owns the way from lines to tests. A statement that runs at the import only, such as a constant or the text of an SQL
statement, is met by the tests that run whatever names it; where nothing of the gateway does, by those in files that do.
"""

import ast
import math
import re
from collections import defaultdict
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
        self._noticed: defaultdict[tuple[str, str], list[int]] = defaultdict(list)  # by path and test: in which lines

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests for a mutant: first those that noticed another one, the nearest first, then the quickest."""
        place = mutant.path, mutant.lines
        found = self._run_by(place, set()) or self._in_files_with(self._stands_in(place))

        def rank(test: str) -> tuple[float, float]:
            lines = self._noticed.get((mutant.path, test), ())
            return min((abs(line - mutant.lines.start) for line in lines), default=math.inf), self._seconds[test]

        return sorted(found, key=rank)

    def at_import(self, mutant: Mutant) -> bool:
        """Return whether a mutant's lines ran while no test did."""
        return any("" in self._lines[mutant.path].get(str(line), ()) for line in mutant.lines)

    def seconds(self, tests: list[str]) -> list[float]:
        """Return how long each of them took where nothing was changed."""
        return [self._seconds[test] for test in tests]

    def noticed(self, mutant: Mutant, by: str) -> None:
        """Hear which test noticed a mutant."""
        self._noticed[mutant.path, by].append(mutant.lines.start)

    def _run_by(self, place: _Place, seen: set[str]) -> set[str]:
        path, lines = place
        found = {test for line in lines for test in self._lines[path].get(str(line), ()) if test}
        for name in self._defines(place) - seen:
            seen.add(name)
            for user in self._users(path, name):
                found |= self._run_by(user, seen)
        return found

    def _in_files_with(self, name: str | None) -> set[str]:
        """Return the tests in files that name it: for what the gateway has and they alone look at, such as a table."""
        files = {test.split("::")[0] for test in self._seconds}
        named = {file for file in files if name and re.search(rf"\b{name}\b", Path(file).read_text("utf-8"))}
        return {test for test in self._seconds if test.split("::")[0] in named}

    def _stands_in(self, place: _Place) -> str | None:
        """Return the name of the module's statement that a place is in, such as a class; None: it has none."""
        path, lines = place
        for statement in self._trees[path].body:
            if statement.lineno <= lines.start <= (statement.end_lineno or statement.lineno):
                return next(iter(self._defines(place)), getattr(statement, "name", None))
        return None

    def _defines(self, place: _Place) -> set[str]:
        path, lines = place
        return {
            target.id
            for statement in self._trees[path].body
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.lineno in lines
            for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
            if isinstance(target, ast.Name)
        }

    def _users(self, path: str, name: str) -> Iterator[_Place]:
        """Yield the statements that name it: in its module, as a member of it, or of a module that takes it in."""
        known = {other: _taken_in(tree, path, name) for other, tree in self._trees.items()} | {path: {name}}
        members = {f"{Path(other).stem}.{its}" for other, names in known.items() for its in names}
        for other, tree in self._trees.items():
            for statement in (node for node in ast.walk(tree) if isinstance(node, ast.stmt)):
                own = header(statement)
                if any(
                    getattr(node, "lineno", 0) in own
                    and (
                        (isinstance(node, ast.Name) and node.id in known[other] and isinstance(node.ctx, ast.Load))
                        or (isinstance(node, ast.Attribute) and _member(node) in members)
                    )
                    for node in ast.walk(statement)
                ):
                    yield other, own


def _taken_in(tree: ast.Module, path: str, name: str) -> set[str]:
    """Return as what a module imports a name of another one: it may be asked for it in its place."""
    module = path.removesuffix(".py").replace("/", ".")
    return {
        one.asname or one.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == module
        for one in node.names
        if one.name == name
    }


def _member(node: ast.Attribute) -> str:
    """Return which module's member it is; a port has its engine's modules in attributes of their names."""
    return ast.unparse(node).removeprefix("self._")
