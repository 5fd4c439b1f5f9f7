"""The package's one rule of direction, and what only some modules may touch, read from the source itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = "tests/unit/test_architecture.py"

FLOORS = (
    # A folder is a floor: it may know what is below, and itself. Those on one floor do not know one another.
    ("core",),
    ("signature",),
    ("client", "receiver"),
    ("config",),
    ("net", "otel"),
    ("store", "upstream", "webhook"),
    ("loops", "api", "dashboard"),
    ("app",),
    ("serve",),
    ("simulator",),
    ("cli",),
    ("__main__",),
)

# The machine's clock, chance and environment are handed in everywhere else, so that tests can own them.
# Other programs import client and receiver, and hand them nothing.
AMBIENT = ("core.clock", "core.terminal", "config.load", "client", "receiver", "app", "simulator", "cli")
# What Python's versions tell differently: see gateway.core.addresses.
KNOWS_IPADDRESS = ("core.addresses", "net.guard", "net.hosts")
MOST_LINES, MOST_OF_A_FUNCTION = 400, 60
AMBIENT_NAMES = {"os.environ", "os.getenv", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def folder(module: str) -> str:
    """Return where a dotted module stands: the first part of its name below the package."""
    return [*module.split("."), ""][1]


def floor(module: str) -> int | None:
    """Return on which floor a module stands, from below; None where there is none."""
    return next((number for number, folders in enumerate(FLOORS) if folder(module) in folders), None)


def stands_in(module: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in one of these folders."""
    return any(f"{module}.".startswith(f"gateway.{place}.") for place in places)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each import of this package, those in functions and type checks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # "from gateway import model" names a module, "from gateway.model import Task" does not.
            whole = node.module == "gateway"
            names = [f"gateway.{alias.name}" for alias in node.names] if whole else [node.module or ""]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "gateway")


def breaches(module: str, source: str) -> list[str]:
    """Return every breach of this file's rules in a module's source."""
    place = floor(module)
    if place is None and module != "gateway":
        return [f"{module} stands on no floor: put it into a folder, or the folder into FLOORS in {HERE}"]
    tree = ast.parse(source)
    found = []
    if not ast.get_docstring(tree):
        found.append(f"{module}: needs a docstring: what it owns, what it must not do, who calls it")
    for line, name in imports(tree):
        if folder(name).startswith("__"):
            continue  # a dunder of the package itself, such as __version__
        imported = floor(name)
        if imported is None:
            found.append(f"{module}:{line} imports {name}, which stands on no floor in {HERE}")
        elif folder(name) != folder(module) and (place is None or imported >= place):
            found.append(f"{module}:{line} imports {name}: {folder(module)} must not know {folder(name)}")
    if (lines := source.count("\n")) > MOST_LINES:
        found.append(f"{module} has {lines} lines: {MOST_LINES} are enough, so divide it by what it owns")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := length(node)) > MOST_OF_A_FUNCTION:
            found.append(f"{module}:{node.lineno} {node.name} has {lines} lines: {MOST_OF_A_FUNCTION} are enough")
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(f"{module}:{node.lineno} imports relatively: write the whole name, its direction shows")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
            and folder(module) != "cli"
        ):
            found.append(f"{module}:{node.lineno} prints: log it, or leave it to cli")
        if not stands_in(module, KNOWS_IPADDRESS) and "ipaddress" in imported_modules(node):
            found.append(f"{module}:{node.lineno} imports ipaddress: ask gateway.core.addresses")
        if not stands_in(module, AMBIENT) and (taken := ambient(node)):
            found.append(f"{module} uses {taken}: have it handed in")
    return found


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imported_modules(node: ast.AST) -> list[str]:
    """Return what a node imports from outside of the package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else []


def ambient(node: ast.AST) -> str | None:
    """Return what a node takes from the machine's clock, chance or environment, None where that is nothing."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Attribute):
        names = [two_names(node)]
    elif isinstance(node, ast.Call):
        names = [f"{two_names(node.func)}()"]
    # The type of a source of chance that is handed in may be named; one may not be made, nor the shared one asked.
    return next(
        (
            name
            for name in names
            if name in AMBIENT_NAMES | {"time", "random.Random()"}
            or (name.startswith("random.") and not name.startswith("random.Random") and not name.endswith("()"))
        ),
        None,
    )


def two_names(node: ast.expr) -> str:
    """Return a node's last two names, joined by a dot as in the source."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
        of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
        return f"{of}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "gateway").rglob("*.py"))
    if path.relative_to(ROOT).parts[1] != "manual"  # its examples are other people's programs
}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_rules(module: str) -> None:
    """Every module stands on a floor, imports only downwards, is short, and asks no clock and no chance."""
    found = breaches(module, MODULES[module].read_text("utf-8"))
    assert not found, "\n".join(found)


def test_every_module_is_seen() -> None:
    """The modules are found at all, so that the test above cannot pass by reading nothing."""
    assert {"gateway", "gateway.config.load", "gateway.core.errors", "gateway.core.model"} <= MODULES.keys()


def test_each_folder_has_one_floor() -> None:
    """None is placed twice, and none is placed that there is not, but for what comes next."""
    placed = [name for names in FLOORS for name in names]
    assert sorted(placed) == sorted(set(placed))
    assert set(placed) - {folder(module) for module in MODULES} <= {"dashboard"}


@pytest.mark.parametrize("module", [module for module in MODULES if module.count(".") > 1])
def test_tests_lie_in_folders_of_the_same_names(module: str) -> None:
    """Whoever looks for the tests of a folder finds some under its name."""
    assert [*(ROOT / "tests").glob(f"*/{folder(module)}/test_*.py")], f"no tests of {folder(module)}"


def test_one_name_means_one_class() -> None:
    """No two classes share a name, with or without an underscore; those of /openapi.json are named by it.

    What other programs import is called as they call it: there a callback is a ``Callback``.
    """
    classes: dict[str, list[str]] = {}
    for module in MODULES.keys() - {"gateway.api.openwebhooks"}:
        if stands_in(module, ("client", "receiver")):
            continue
        for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name.lstrip("_"), []).append(f"{module}.{node.name}")
    assert [sorted(places) for places in classes.values() if len(places) > 1] == []


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_is_said_to_know_is_there(module: str) -> None:
    """Where a docstring or a comment names a module as ``gateway.folder.module``, there is one."""
    names = r"``(gateway(?:\.(?!db\b|secret\b)[a-z_0-9]+)+)"  # but for the files of these names
    named = re.findall(names, MODULES[module].read_text("utf-8"))
    assert not (missing := {*named} - MODULES.keys()), f"{module} names {', '.join(sorted(missing))}"


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("gateway.core.errors", "from gateway.config.settings import Settings", "core must not know config"),
        ("gateway.core.errors", "def f():\n    import gateway.store.sqlite", "core must not know store"),
        ("gateway.core.errors", "from gateway import config", "core must not know config"),
        ("gateway.signature", "from gateway.net import guard", "signature must not know net"),
        ("gateway.client.calls", "from gateway.api.schema import MAX_BATCH", "client must not know api"),
        ("gateway.receiver.events", "from gateway.client import Task", "receiver must not know client"),
        ("gateway.store.sqlite.store", "from .sql import X", "imports relatively"),
        ("gateway.config.load", "from gateway.net.guard import check", "config must not know net"),
        ("gateway.upstream.api", "from gateway.webhook.sender import Sender", "upstream must not know webhook"),
        ("gateway.store.sqlite.store", "from gateway.loops.poller import Poller", "store must not know loops"),
        ("gateway.loops.poller", "from gateway.api.tasks import routes", "loops must not know api"),
        ("gateway.api.tasks", "from gateway.loops.poller import Poller", "api must not know loops"),
        ("gateway.api.tasks", "from gateway.app.build import build", "api must not know app"),
        ("gateway.app.gateway", "from gateway.cli.commands import main", "app must not know cli"),
        ("gateway.app.gateway", "import gateway.novelty", "stands on no floor in tests/unit/"),
        ("gateway.novelty", "", "stands on no floor: put it into a folder, or the folder into FLOORS in tests/unit/"),
        ("gateway.core.model", "import time", "uses time"),
        ("gateway.core.model", "from time import monotonic", "uses time"),
        ("gateway.core.model", "from random import random", "uses random.random"),
        ("gateway.core.model", "import random\nrandom.uniform(0, 1)", "uses random.uniform"),
        ("gateway.core.model", "import random\nrandom.Random()", "uses random.Random()"),
        ("gateway.core.model", "import os\nos.environ['X']", "uses os.environ"),
        ("gateway.core.model", "from os import environ", "uses os.environ"),
        ("gateway.loops.poller", "import datetime\ndatetime.datetime.now()", "uses datetime.now"),
        ("gateway.loops.poller", "print('polled')", "prints"),
        ("gateway.webhook.sender", "from ipaddress import ip_address", "ask gateway.core.addresses"),
        ("gateway.config.settings", "import ipaddress", "ask gateway.core.addresses"),
        ("gateway.config.settings", "\n" * 400, "has 401 lines: 400 are enough"),
        ("gateway.config.settings", "def f():\n" + " x\n" * 60, "f has 61 lines: 60 are enough"),
    ],
)
def test_breach_is_found(module: str, source: str, breach: str) -> None:
    """Each rule is one that a module can break: the failure names the module and what is wrong."""
    (found,) = breaches(module, f'"""Docstring."""\n{source}')
    assert found.startswith(module)
    assert breach in found


def test_missing_docstring_is_found() -> None:
    """A module must say what it owns."""
    (found,) = breaches("gateway.core.model", "x = 1")
    assert "needs a docstring" in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gateway.config.load", "from gateway.core.errors import ConfigError\nimport os\nos.environ"),
        ("gateway.webhook.body", "from gateway.core.model import Outcome"),
        ("gateway.webhook.sender", "from gateway.net.transport import PooledTransport"),
        ("gateway.store.sqlite.store", "from gateway.store import Store\nfrom gateway.store.sqlite import sql"),
        ("gateway.net.transport", "from gateway.net.guard import check"),
        (
            "gateway.loops.poller",
            "from gateway.store import TaskQueue\nimport random\ndef f(rng: random.Random): rng.random()",
        ),
        ("gateway.api.tasks", "from gateway.api.problems import answer\nfrom gateway import __version__"),
        ("gateway.app.gateway", "from gateway.api import routes\nfrom gateway.loops.poller import Poller"),
        (
            "gateway.cli.demo",
            "from gateway.app.build import build\nfrom gateway.cli.client import call\nprint('ready')",
        ),
        ("gateway.core.model", "import timeit\nfrom datetime import datetime\nself.clock.now()"),
    ],
)
def test_what_the_rules_allow(module: str, source: str) -> None:
    """The way down and a folder's own modules are free."""
    assert breaches(module, f'"""Docstring."""\n{source}') == []
