"""Mutants of the statements in a Python module: each has one guard of one statement changed.

Owns what is a guard in SQL: the conditions of WHERE, ON and iif, the states, what SET sets, and what of NULL, IN and
EXISTS is asked. Reads SQL by its words and brackets; what is interpolated is left as it is.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.mutation.python_guards import Mutant, splice

__all__ = ["mutants_of"]

_WORDS = re.compile(
    r"""\{[^}]*\} | '[^']*' | ->> | <= | >= | <> | \|\| | [:\w]+ | [-+*/<>=(),.?] | \S""",
    re.VERBOSE,
)
_STATES = {
    "'waiting'": ("'pending'", "'abandoned'"),
    "'pending'": ("'waiting'",),
    "'delivered'": ("'dead'",),
    "'dead'": ("'delivered'",),
    "'cancelled'": ("'delivered'",),
    "'abandoned'": ("'fail'",),
}
_COMPARISONS = {"=": "<>", "<>": "=", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_ENDS = {"FROM", "CROSS", "ORDER", "GROUP", "LIMIT", "RETURNING", "SELECT", "DO", "UPDATE", "WHERE", "ON", "SET"}
"""What ends a list of conditions or assignments; WHERE, ON and SET begin another one."""
_ARGUMENTS = {"iif", "coalesce"}


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class _Part:
    start: int
    end: int


@dataclass
class _List:
    """Conditions, assignments or arguments that stand beside one another."""

    kind: str
    """WHERE for conditions, SET for assignments, else the function that the arguments are of."""
    begins: int
    """Where the part that is being read begins."""
    parts: list[_Part] = field(default_factory=list)
    alternatives: bool = False
    """Whether OR joins them."""


def mutants_of(path: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of the statements in a module's texts, from the first to the last."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    for statement, text in _texts(ast.parse(source)):
        assert text.end_lineno is not None
        assert text.end_col_offset is not None
        start = offsets[text.lineno - 1] + text.col_offset
        end = offsets[text.end_lineno - 1] + text.end_col_offset
        literal = re.fullmatch(r'(f?(?:"""|"))(.*?)("""|")', source[start:end], re.DOTALL)
        assert literal is not None, source[start:end]
        begin = start + literal.end(1)
        for what, from_, to, new in _changes(literal[2]):
            changed = splice(source, begin + from_, begin + to, new)
            assert statement.end_lineno is not None
            yield Mutant(path, range(statement.lineno, statement.end_lineno + 1), what, source, changed)


def _texts(tree: ast.Module) -> Iterator[tuple[ast.stmt, ast.expr]]:
    """Yield each text with the statement that it stands in; not those within what is interpolated, nor docstrings."""

    def within(node: ast.AST) -> Iterator[ast.expr]:
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield node
        else:
            for child in ast.iter_child_nodes(node):
                yield from within(child)

    for statement in ast.walk(tree):
        documents = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.Assign | ast.Expr | ast.Return) and not documents:
            yield from ((statement, text) for text in within(statement))


def _changes(text: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield what is changed, from where to where, and the new text."""
    words = [_Word(match[0], match.start(), match.end()) for match in _WORDS.finditer(text)]
    said = {word.text for word in words}
    if said & {"SELECT", "UPDATE", "INSERT", "DELETE", "WHERE"}:
        levels: list[_List | None] = [None]
    elif said & _COMPARISONS.keys():
        levels = [_List("WHERE", 0)]  # a condition alone
    else:
        return
    for number, word in enumerate(words):
        before = words[number - 1] if number else _Word("", 0, 0)
        after = words[number + 1] if number + 1 < len(words) else _Word("", len(text), len(text))
        here = levels[-1]
        kind = here.kind if here is not None else ""
        yield from _word_changes(before, word, after, kind)
        if word.text == "(":
            inside = _kind_inside(before.text, kind, after.text)
            levels.append(_List(inside, after.start) if inside else None)
        elif here is not None and word.text in ("AND", "OR", ",") and (word.text == ",") == (kind != "WHERE"):
            here.parts.append(_Part(here.begins, before.end))
            here.begins = after.start
            here.alternatives |= word.text == "OR"
        elif word.text in _ENDS or word.text == ")":
            levels.pop()
            if here is not None:
                here.parts.append(_Part(here.begins, before.end))
                yield from _part_changes(text, here)
            if word.text != ")":
                begins = word.text in ("WHERE", "ON", "SET") and after.text != "CONFLICT"
                levels.append(_List("SET" if word.text == "SET" else "WHERE", after.start) if begins else None)
            elif not levels:
                levels.append(None)  # what it closes was opened in another text
    if (here := levels[-1]) is not None:
        here.parts.append(_Part(here.begins, words[-1].end))
        yield from _part_changes(text, here)


def _kind_inside(before: str, kind: str, after: str) -> str:
    """Return what a bracket holds, "" for what is no list of guards."""
    if before in _ARGUMENTS:
        return before
    grouped = kind == "WHERE" and before in ("WHERE", "ON", "AND", "OR", "NOT", "(")
    return "WHERE" if grouped and after != "SELECT" else ""


def _word_changes(before: _Word, word: _Word, after: _Word, kind: str) -> Iterator[tuple[str, int, int, str]]:
    for state in _STATES.get(word.text, ()):
        yield "another state", word.start, word.end, state
    if word.text in _STATES and before.text == ",":
        yield "one state less", before.start, word.end, ""
    if word.text in _STATES and before.text == "(" and after.text == ",":
        yield "one state less", word.start, after.end, ""
    if word.text in _COMPARISONS and kind in ("WHERE", "iif"):
        yield "another comparison", word.start, word.end, _COMPARISONS[word.text]
    if word.text == "NULL" and before.text == "IS":
        yield "not null for null", word.start, word.end, "NOT NULL"
    if word.text == "NOT" and (before.text == "IS" or after.text in ("IN", "EXISTS")):
        yield "no not", word.start, word.end, ""
    if word.text == "IN" and before.text != "NOT":
        yield "not in for in", word.start, word.end, "NOT IN"
    if word.text in ("min", "max") and after.text == "(":
        yield "the other end", word.start, word.end, "max" if word.text == "min" else "min"
    if word.text.isdigit() and before.text != "->>" and kind:
        yield "another number", word.start, word.end, str(int(word.text) + 1)


def _part_changes(text: str, parts: _List) -> Iterator[tuple[str, int, int, str]]:
    first, last = parts.parts[0], parts.parts[-1]
    if parts.kind == "iif":
        yield "always", first.start, first.end, "true"
        yield "never", first.start, first.end, "false"
    elif parts.kind == "coalesce":
        yield from (("one choice less", first.start, last.end, text[part.start : part.end]) for part in parts.parts)
    elif parts.kind == "SET" and first is not last:
        yield "not set", first.start, parts.parts[1].start, ""
        yield from (("not set", was.end, part.end, "") for was, part in pairwise(parts.parts))
    elif parts.kind == "WHERE":
        for part in parts.parts:
            if text[part.start : part.end] != "true":
                yield "one condition less", part.start, part.end, "false" if parts.alternatives else "true"
