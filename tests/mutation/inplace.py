"""Mutants put in the place of what they are of, in a process that has imported it: for who need not import anew.

Owns how a function's code, or a constant and what is made of it, is replaced; and says no where it is neither.
"""

import ast
import gc
import inspect
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.mutation.python_guards import Mutant

__all__ = ["Imported"]

_SIMPLE = (str, bytes, int, float, slice, types.NoneType)


class Imported:
    """What is imported of some packages in the working directory."""

    def __init__(self, *packages: str) -> None:
        here = str(Path.cwd())
        self._modules: dict[str, types.ModuleType] = {}
        self._takers: defaultdict[tuple[str, str], list[tuple[types.ModuleType, str]]] = defaultdict(list)
        self._users: defaultdict[tuple[str, str], list[ast.stmt]] = defaultdict(list)
        self._members: set[str] = set()
        for name, module in list(sys.modules.items()):
            path = Path(getattr(module, "__file__", None) or "/")
            if name.split(".")[0] in packages and path.is_relative_to(here) and path.suffix == ".py":
                self._modules[str(path.relative_to(here))] = module
                self._read(module, ast.parse(path.read_text("utf-8")))
        self._functions: defaultdict[types.CodeType, list[types.FunctionType]] = defaultdict(list)
        gc.unfreeze()
        for one in gc.get_objects():
            if isinstance(one, types.FunctionType) and one.__code__.co_filename.startswith(here):
                self._functions[one.__code__].append(one)
        gc.freeze()  # what is forked shares it

    def _read(self, module: types.ModuleType, tree: ast.Module) -> None:
        """Take in what a module takes from others, and which statements ask for which names when it is imported."""
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for one in node.names:
                    self._takers[node.module, one.name].append((module, one.asname or one.name))
        for statement in tree.body:
            for name in _at_import(statement):
                if isinstance(name, ast.Attribute):
                    self._members.add(name.attr)
                else:
                    self._users[module.__name__, name.id].append(statement)

    def put(self, mutant: Mutant, *, runs_at_import: bool) -> bool:
        """Put a mutant in its place; False: only an import can, and this process is spoilt.

        ``runs_at_import``: whether its statement does.
        """
        was, now = ast.parse(mutant.original), ast.parse(mutant.source)
        differ = [pair for pair in zip(was.body, now.body, strict=True) if ast.dump(pair[0]) != ast.dump(pair[1])]
        module = self._modules.get(mutant.path)
        if module is None or len(differ) != 1:
            return False
        ((_, statement),) = differ
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            return self._assign(module, statement)
        file = module.__file__ or ""
        return not runs_at_import and self._replace(compile(was, file, "exec"), compile(now, file, "exec"))

    def _replace(self, was: types.CodeType, now: types.CodeType) -> bool:
        for before, after in _functions_of(was, now):
            if before == after:
                continue
            functions = self._functions[before]
            if not functions or len(before.co_freevars) != len(after.co_freevars):
                return False
            for function in functions:
                function.__code__ = after
        return _same_at_import(was, now)

    def _assign(self, module: types.ModuleType, statement: ast.stmt) -> bool:
        """Run a module's assignment, and those that what it has assigned is a part of, in any module."""
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            return False
        (target,) = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if not isinstance(target, ast.Name):
            return False
        exec(compile(ast.Module([statement], []), module.__file__ or "", "exec"), module.__dict__)
        value = module.__dict__[target.id]
        return _is_simple(value) and self._taken(module, target.id, value, own=statement.lineno)

    def _taken(self, module: types.ModuleType, name: str, value: object, own: int = 0) -> bool:
        """Have a module, and all that take a name from there, know its new value; ``own``: where it was assigned."""
        if name in self._members:
            return False  # perhaps one that is asked for it at an import
        takers = self._takers[module.__name__, name]
        for other, alias in takers:
            setattr(other, alias, value)
        users = (one for one in self._users[module.__name__, name] if one.lineno != own)
        return all(self._assign(module, user) for user in users) and all(
            self._taken(other, alias, value) for other, alias in takers
        )


def _functions_of(was: types.CodeType, now: types.CodeType) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    """Yield the functions of a module and its classes, as they were and are."""
    for before, after in zip(_codes(was), _codes(now), strict=True):
        if before.co_flags & inspect.CO_OPTIMIZED:
            yield before, after
        else:
            yield from _functions_of(before, after)


def _same_at_import(was: types.CodeType, now: types.CodeType) -> bool:
    """Whether a module does the same when it is imported, but for the code of its functions."""
    classes = zip(_codes(was), _codes(now), strict=True)
    return (
        (was.co_code, was.co_names) == (now.co_code, now.co_names)
        and _constants(was) == _constants(now)
        and all(pair[0].co_flags & inspect.CO_OPTIMIZED or _same_at_import(*pair) for pair in classes)
    )


def _constants(code: types.CodeType) -> list[str]:
    """Return what a module or class does with; no matter its own first line, which a class has from Python 3.13 on."""
    values = [one for one in code.co_consts if not isinstance(one, types.CodeType)]
    return ["its first line" if one == code.co_firstlineno else repr(one) for one in values]


def _codes(code: types.CodeType) -> list[types.CodeType]:
    return [one for one in code.co_consts if isinstance(one, types.CodeType)]


def _at_import(statement: ast.stmt) -> Iterator[ast.Name | ast.Attribute]:
    """Yield what a statement asks for when its module is imported: not in functions, which ask when they are called."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node
        called = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for name, value in ast.iter_fields(node):
            if not (called and name == "body"):
                waiting += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, ast.AST)]


def _is_simple(value: object) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_simple, value))
    return isinstance(value, _SIMPLE)
