"""The package's one rule of direction, and what only some modules may touch, read from the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = "tests/unit/test_architecture.py"

LAYERS = {
    # A name covers the module and, where it is a package, every module inside it.
    "entry": (
        "cli",
        "__main__",
        "demo",
        "client",
        "tables",
        "receiver",
        "listen",
        "health",
        "options",
        "commandline",
        "simulator",
    ),
    "wiring": ("app", "preflight", "reload", "process"),
    "http": ("api", "dashboard", "inbound"),
    "loops": ("supervisor", "inflight", "poller", "deliverer", "janitor", "clocksteps", "backup"),
    "edges": (
        "upstream",
        "sender",
        "netguard",
        "transport",
        "http1",
        "oddhead",
        "oddchunks",
        "resolver",
        "store",
        "asgi_server",
        "serverprotocol",
        "closing",
        "places",
        "secretfile",
        "budget",
        "key",
        "clientheaders",
        "profilefile",
    ),
    "pure": (
        "model",
        "outcome",
        "answervalues",
        "lenientjson",
        "envelope",
        "payload",
        "schedule",
        "retry",
        "ratelimit",
        "signature",
        "ed25519",
        "profile",
        "profiletext",
        "durations",
        "timetable",
        "troubled",
        "masking",
        "bulkhead",
        "turns",
    ),
    "base": (
        "config",
        "configsource",
        "configtables",
        "settings",
        "settingtexts",
        "tablesettings",
        "addresses",
        "private",
        "textfile",
        "errors",
        "telemetry",
        "logsink",
        "standardfiles",
        "clock",
        "memory",
        "tokens",
        "extraheaders",
        "terminal",
        "__init__",
    ),
}

MAY_IMPORT = {
    # HTTP and loops meet only in the store, so neither stands in the other's row.
    "entry": {"entry", "wiring", "http", "loops", "edges", "pure", "base"},
    "wiring": {"wiring", "http", "loops", "edges", "pure", "base"},
    "http": {"edges", "pure", "base"},
    "loops": {"edges", "pure", "base"},
    "edges": {"pure", "base"},
    "pure": {"pure", "base"},
    "base": {"base"},
}

SIBLINGS = {
    # Where a layer's modules do not know one another, these do.
    ("inbound", "api"),  # the error format
    ("asgi_server", "serverprotocol"),
    ("closing", "serverprotocol"),
    ("transport", "http1"),  # its connections
    ("http1", "oddhead"),  # what its parser refuses
    ("http1", "oddchunks"),
    ("transport", "netguard"),  # checks the address that is dialled
    ("key", "budget"),  # what it pauses
    ("sender", "transport"),  # its types
    ("poller", "supervisor"),  # how often a loop gives a sign of life
    ("deliverer", "supervisor"),
    ("janitor", "supervisor"),
    ("poller", "inflight"),  # what it has running
    ("deliverer", "inflight"),
}

# The machine's clock, chance and environment are handed in everywhere else, so that tests can own them.
AMBIENT = {"clock", "schedule", "retry", "ratelimit", "config", "cli", "app", "simulator", "demo", "terminal"}
# What Python's versions tell differently: see gateway.addresses.
KNOWS_IPADDRESS = {"addresses", "netguard"}
AMBIENT_NAMES = {"os.environ", "os.getenv", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def unit(module: str) -> str:
    """Return the name in LAYERS that covers a dotted module: its first part below the package."""
    return [*module.split("."), "__init__"][1]


def layer(module: str) -> str | None:
    """Return a module's layer, None where nobody has placed it."""
    return next((name for name, units in LAYERS.items() if unit(module) in units), None)


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


def allowed(importer: str, imported: str) -> bool:
    """Whether the rule of direction lets one module import the other."""
    if unit(importer) == unit(imported) or (unit(importer), unit(imported)) in SIBLINGS:
        return True
    return layer(imported) in MAY_IMPORT[layer(importer) or ""]


def breaches(module: str, source: str) -> list[str]:
    """Return every breach of this file's rules in a module's source."""
    place = layer(module)
    if place is None:
        return [f"{module} has no layer: add {unit(module)!r} to LAYERS in {HERE}"]
    tree = ast.parse(source)
    found = []
    if not ast.get_docstring(tree):
        found.append(f"{module}: needs a docstring: what it owns, what it must not do, who calls it")
    for line, name in imports(tree):
        if layer(name) is None and unit(name).startswith("__"):
            continue  # a dunder of the package itself, such as __version__
        if layer(name) is None:
            found.append(f"{module}:{line} imports {name}, which has no layer: add it to LAYERS in {HERE}")
        elif not allowed(module, name):
            found.append(f"{module}:{line} imports {name}: {place} must not know {layer(name)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(f"{module}:{node.lineno} imports relatively: write the whole name, its direction shows")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and place != "entry":
            found.append(f"{module}:{node.lineno} prints: log it, or leave it to an entry module")
        if unit(module) not in KNOWS_IPADDRESS and "ipaddress" in imported_modules(node):
            found.append(f"{module}:{node.lineno} imports ipaddress: ask gateway.addresses")
        if unit(module) not in AMBIENT and (taken := ambient(node)):
            found.append(f"{module} uses {taken}: have it handed in")
    return found


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
        names = [".".join(ast.unparse(node).split(".")[-2:])]
    elif isinstance(node, ast.Call):
        names = [f"{ast.unparse(node.func)}()"]
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


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "gateway").rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_rules(module: str) -> None:
    """Every module stands in a layer, imports only downwards, and leaves clock, chance and environment alone."""
    found = breaches(module, MODULES[module].read_text("utf-8"))
    assert not found, "\n".join(found)


def test_every_module_is_seen() -> None:
    """The modules are found at all, so that the test above cannot pass by reading nothing."""
    assert {"gateway", "gateway.config.load", "gateway.core.errors", "gateway.core.model"} <= MODULES.keys()


def test_each_name_has_one_layer() -> None:
    """No module is placed twice."""
    units = [name for names in LAYERS.values() for name in names]
    assert sorted(units) == sorted(set(units))


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("gateway.core.errors", "from gateway.model import Task", "base must not know pure"),
        ("gateway.core.errors", "def f():\n    import gateway.store.sqlite", "base must not know edges"),
        ("gateway.core.errors", "from gateway import model", "base must not know pure"),
        ("gateway.store", "from .sqlite import SqliteStore", "imports relatively"),
        ("gateway.core.model", "from gateway.sender import Sender", "pure must not know edges"),
        ("gateway.upstream.api", "from gateway.sender import Sender", "edges must not know edges"),
        ("gateway.net.guard", "from gateway.transport import Transport", "edges must not know edges"),
        ("gateway.store.sqlite.store", "from gateway.poller import Poller", "edges must not know loops"),
        ("gateway.loops.poller", "from gateway.deliverer import Deliverer", "loops must not know loops"),
        ("gateway.loops.poller", "from gateway.api.tasks import routes", "loops must not know http"),
        ("gateway.api.tasks", "from gateway.poller import Poller", "http must not know loops"),
        ("gateway.api.tasks", "from gateway.app import build", "http must not know wiring"),
        ("gateway.app.gateway", "from gateway.cli import main", "wiring must not know entry"),
        ("gateway.app.gateway", "import gateway.novelty", "which has no layer: add it to LAYERS in tests/unit/"),
        ("gateway.novelty", "", "add 'novelty' to LAYERS in tests/unit/test_architecture.py"),
        ("gateway.core.model", "import time", "uses time"),
        ("gateway.core.model", "from time import monotonic", "uses time"),
        ("gateway.core.model", "from random import random", "uses random.random"),
        ("gateway.core.model", "import random\nrandom.uniform(0, 1)", "uses random.uniform"),
        ("gateway.core.model", "import random\nrandom.Random()", "uses random.Random()"),
        ("gateway.core.model", "import os\nos.environ['X']", "uses os.environ"),
        ("gateway.core.model", "from os import environ", "uses os.environ"),
        ("gateway.loops.poller", "import datetime\ndatetime.datetime.now()", "uses datetime.now"),
        ("gateway.loops.poller", "print('polled')", "prints"),
        ("gateway.webhook.sender", "from ipaddress import ip_address", "ask gateway.addresses"),
        ("gateway.config.settings", "import ipaddress", "ask gateway.addresses"),
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
        ("gateway.config.load", "from gateway.errors import ConfigError\nimport os\nos.environ"),
        ("gateway.webhook.body", "from gateway.model import Outcome"),
        ("gateway.store.sqlite.store", "from gateway.store import Store, sql\nfrom gateway.store.writer import Writer"),
        ("gateway.net.transport", "from gateway.netguard import check"),
        (
            "gateway.loops.poller",
            "from gateway.store import Store\nimport random\ndef f(rng: random.Random): rng.random()",
        ),
        ("gateway.api.tasks", "from gateway.api.problems import answer\nfrom gateway import __version__"),
        ("gateway.app.gateway", "from gateway.api import routes\nfrom gateway.poller import Poller"),
        ("gateway.cli.commands", "from gateway.app import build\nfrom gateway.client import call\nprint('ready')"),
        ("gateway.core.model", "import timeit\nfrom datetime import datetime\nself.clock.now()"),
    ],
)
def test_what_the_rules_allow(module: str, source: str) -> None:
    """The way down, a package's own modules and the named siblings are free."""
    assert breaches(module, f'"""Docstring."""\n{source}') == []
