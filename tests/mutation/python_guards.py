"""Mutants of Python source: each has one condition, comparison, early exit, state or number changed.

Owns what is a guard in Python, and by the choice of operators what is not: annotations, decorators, docstrings,
messages, log lines and metrics are never touched.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutant", "mutants_of", "splice"]

_STATES = {
    "TaskState": ("WAITING", "SUCCESS", "FAIL", "ABANDONED"),
    "CallbackState": ("WAITING", "PENDING", "DELIVERED", "DEAD", "CANCELLED"),
    "AttemptResult": ("DELIVERED", "RETRY", "DEAD", "INTERRUPTED"),
    "PollKind": ("TERMINAL", "RUNNING", "NOT_KNOWN"),
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_METRICS = {"inc", "observe", "labels"}
_BIG = 100  # numbers from here on are units: one more or less means nothing there, twice as much does
_UNITS = ("_S", "_MS")


@dataclass(frozen=True)
class Mutant:
    """A module's source with one change; ``lines`` are those of the changed statement, in the source as it was."""

    path: str
    lines: range
    what: str
    original: str
    source: str

    @property
    def changed(self) -> tuple[list[str], list[str]]:
        """The lines that were, and those in their place."""
        was, now = self.original.splitlines(), self.source.splitlines()
        while was and now and was[0] == now[0]:
            del was[0], now[0]
        while was and now and was[-1] == now[-1]:
            del was[-1], now[-1]
        return was, now

    @property
    def line(self) -> int:
        """Where it is, from 1."""
        pairs = zip(self.original.splitlines(), self.source.splitlines(), strict=False)
        return next((number for number, (was, now) in enumerate(pairs, 1) if was != now), 1)


def splice(source: str, start: int, end: int, text: str) -> str:
    """Put text in the place of the characters from start to end."""
    return source[:start] + text + source[end:]


def mutants_of(path: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, from its first line to its last."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    lines = source.splitlines(keepends=True)

    def at(line: int, column: int) -> int:
        # Columns count bytes.
        return offsets[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node, statement, condition in _guards(ast.parse(source)):
        for what, new in _changes(node, statement, condition=condition):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
            simple = isinstance(new, ast.stmt | ast.Constant | ast.Attribute | ast.Call)
            text = ast.unparse(new) if simple else f"({ast.unparse(new)})"
            yield Mutant(path, header(statement), what, source, splice(source, start, end, text))


def header(statement: ast.stmt) -> range:
    """Return a statement's own lines, without those of the statements inside it."""
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if body else statement.end_lineno
    assert end is not None
    return range(statement.lineno, max(end, statement.lineno) + 1)


_Guard = tuple[ast.expr | ast.stmt, ast.stmt, bool]
"""A node that may be changed, the statement that it stands in, and whether it is what an if or a while asks."""


def _guards(tree: ast.Module) -> Iterator[_Guard]:
    def walk(node: ast.AST, statement: ast.stmt | None, inside: bool, condition: bool) -> Iterator[_Guard]:
        if isinstance(node, ast.stmt):
            statement = node
            if _is_talk(node) or _is_size(node):
                return
            if inside and isinstance(node, ast.Return | ast.Continue | ast.Break | ast.Raise):
                yield node, node, False
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = False
            elif isinstance(node, ast.If | ast.For | ast.While):
                inside = True
        elif isinstance(node, ast.ExceptHandler):
            inside = True
        elif isinstance(node, ast.expr) and statement is not None:
            yield node, statement, condition
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr) and not _is_formal(node, child):
                    yield from walk(child, statement, inside, name in ("test", "ifs"))

    return walk(tree, None, inside=False, condition=False)


def _is_talk(statement: ast.stmt) -> bool:
    """Whether it only logs or counts, or decides about nothing else."""
    match statement:
        case ast.If(body=body, orelse=[]):
            return all(_is_talk(inner) for inner in body)
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=called, attr=attr))):
            return attr in _METRICS or (isinstance(called, ast.Name) and called.id == "_log")
    return False


def _is_size(statement: ast.stmt) -> bool:
    """Whether it names how many of something are taken at a time, which is measured and not tested."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper() and not name.endswith(_UNITS):
            numbers = [node.value for node in ast.walk(value) if isinstance(node, ast.Constant)]
            return any(isinstance(number, int) and number >= _BIG for number in numbers)
    return False


def _is_formal(parent: ast.AST, child: ast.AST) -> bool:
    """Whether it is an index, which names a place, an assertion of the standard library's, or how a class is made."""
    if isinstance(parent, ast.Subscript):
        return child is parent.slice and isinstance(child, ast.Constant | ast.UnaryOp)
    return isinstance(child, ast.keyword) and (child.arg == "strict" or isinstance(parent, ast.ClassDef))


_Change = tuple[str, ast.expr | ast.stmt]
"""What is changed, and the new node."""


def _changes(node: ast.expr | ast.stmt, statement: ast.stmt, *, condition: bool) -> Iterator[_Change]:
    if condition:
        yield from _decided(statement)
    if not condition or not _is_yes_or_no(node):
        yield from _others(node)


def _others(node: ast.expr | ast.stmt) -> Iterator[_Change]:
    match node:
        case ast.Return() | ast.Continue() | ast.Break() | ast.Raise():
            yield "no early exit", ast.Pass()
        case ast.Compare(ops=ops):
            for number, op in enumerate(ops):
                if (other := _COMPARISONS.get(type(op))) is not None:
                    yield "another comparison", _with(node, ops=[*ops[:number], other(), *ops[number + 1 :]])
        case ast.BoolOp(op=op, values=values):
            yield "and for or, or for and", _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for number in range(len(values)):
                rest = [*values[:number], *values[number + 1 :]]
                yield "one operand less", rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "no not", operand
        case ast.Constant(value=bool() as value):
            yield "the other truth", ast.Constant(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield from (("another number", ast.Constant(value=number)) for number in _numbers(value))
        case ast.Attribute(value=ast.Name(id=enum), attr=attr) if attr in _STATES.get(enum, ()):
            names = _STATES[enum]
            yield "another state", _with(node, attr=names[(names.index(attr) + 1) % len(names)])
        case ast.Call(func=ast.Name(id="min" | "max" as name) as func):
            yield "the other end", _with(node, func=_with(func, id="max" if name == "min" else "min"))
        case _:
            pass


def _decided(statement: ast.stmt) -> Iterator[_Change]:
    yield "never", ast.Constant(value=False)
    if not isinstance(statement, ast.While):  # it would not end
        yield "always", ast.Constant(value=True)


def _is_yes_or_no(condition: ast.expr | ast.stmt) -> bool:
    """Whether "always" and "never" say all that its opposite would."""
    if isinstance(condition, ast.Compare):
        return len(condition.ops) == 1 and not isinstance(condition.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    return isinstance(condition, ast.Constant) or (
        isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not)
    )


def _numbers(value: float) -> list[float]:
    if isinstance(value, int) and value < _BIG:
        return [value + 1, value - 1] if value > 0 else [value + 1]
    return [value * 2 or 1.0]


def _with(node: ast.AST, **fields: object) -> ast.expr:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    assert isinstance(changed, ast.expr)
    return changed
