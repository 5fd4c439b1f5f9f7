"""One run of tests in a process of its own, forked from one that has imported everything but the gateway.

Owns that what runs is the mutant: its source is compiled from memory, in the place of the file and of any bytecode.
Most need not even that: in a fork of a process that has collected the tests they are put in their place, and met at
once. What only an import shows, and what nothing notices there, is imported.
"""

import ctypes
import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import coverage
import pytest
from hypothesis import Phase, settings

from tests.mutation.inplace import Imported
from tests.mutation.python_guards import Mutant

__all__ = ["Collected", "Forked", "measured", "tested"]

_PRELOADED = (
    "aiodns",
    "aiosqlite",
    "httptools",
    "httpx",
    "msgspec",
    "prometheus_client",
    "pytest_asyncio.plugin",
    "pytest_timeout",
    "starlette.applications",
    "structlog",
    "uvicorn",
    "uvloop",
)
_MEMORY = 4 << 30  # a mutant may collect things for ever
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG

for _name in _PRELOADED:
    importlib.import_module(_name)


class Forked:
    """A process that runs a function and leaves what it returned, as JSON, for its parent."""

    def __init__(self, work: Callable[[Path], Any], limit_s: float) -> None:
        """Start it; it is killed after ``limit_s`` seconds."""
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-mutation-"))
        self.ends_at = time.monotonic() + limit_s
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work)
        with suppress(ProcessLookupError, PermissionError):  # it was quicker
            os.setpgid(self.pid, self.pid)

    def _run(self, work: Callable[[Path], Any]) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            if sys.platform == "linux":  # whatever ends its parent ends it, too
                ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
            output = os.open(self.folder / "output", os.O_CREAT | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            result = work(self.folder)
            (self.folder / "result").write_text(json.dumps(result), "utf-8")
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as the parent
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def ended(self) -> bool:
        """Whether it has ended, or has been made to. Raises RuntimeError where the function itself failed."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        # A test that takes too long ends its process with 1, too.
        if pid and os.waitstatus_to_exitcode(status) > 0 and "+ Timeout +" not in self.output:
            raise RuntimeError(self.output)
        if not pid and time.monotonic() > self.ends_at:
            self.kill()
            return True
        return bool(pid)

    def kill(self) -> None:
        """End it and all that it started."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    @property
    def output(self) -> str:
        """What it printed."""
        return (self.folder / "output").read_text("utf-8", errors="replace")

    @property
    def result(self) -> Any:
        """What the function returned; None where it did not come to that."""
        file = self.folder / "result"
        return json.loads(file.read_text("utf-8")) if file.exists() else None

    def forget(self) -> None:
        """Remove all that it left."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, path: str, source: str) -> None:
        self.name = path.removesuffix(".py").replace("/", ".")
        self._path = path
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self, origin=self._path) if fullname == self.name else None

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self._source, self._path, "exec"), module.__dict__)


class _Chosen:
    """Runs the chosen tests in their order; notes how many passed and which one failed."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}
        self.passed = 0
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._rank), key=lambda item: self._rank[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid
        elif report.when == "call" and report.passed:
            self.passed += 1


def tested(folder: Path, mutant: Mutant, tests: Sequence[str], limit_s: float) -> tuple[str | None, int]:
    """Return by what a mutant was noticed, None: by nothing, and how many tests it passed.

    A test that takes longer than ``limit_s`` seconds has noticed it.
    """
    assert not any(name.split(".")[0] == "gateway" for name in sys.modules)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    mutated = _Mutated(mutant.path, mutant.source)
    sys.meta_path.insert(0, mutated)
    try:
        module = importlib.import_module(mutated.name)
    except Exception as exc:  # noqa: BLE001 - whatever the mutant makes of itself
        return f"import: {exc!r}", 0
    assert module.__loader__ is mutated
    if not tests:
        return None, 0
    chosen = _Chosen(tests)
    code = _pytest(folder, sorted({test.split("::")[0] for test in tests}), chosen, limit_s)
    if chosen.failed is None and code != pytest.ExitCode.OK:
        return f"collection: exit {code}", 0
    return chosen.failed, chosen.passed


class Collected:
    """The tests, collected in a process that runs none of them itself: mutants meet them in its forks."""

    def __init__(self, at_import: Callable[[Mutant], bool], then: Callable[["Collected"], Any]) -> None:
        """``at_import``: whether a mutant runs at the import. ``then`` is called with this, in place of the tests."""
        self._at_import = at_import
        self._then = then
        self._items: dict[str, pytest.Item] = {}
        self._result: Any = None

    def run(self, folder: Path, tests: Sequence[str], limit_s: float) -> Any:
        """Collect the tests; return what is done then."""
        code = _pytest(folder, tests, self, limit_s, "--capture=no")
        assert code == pytest.ExitCode.OK, f"collection: exit {code}"
        return self._result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        self._imported = Imported("gateway", "tests")
        self._result = self._then(self)
        return True

    def tested(
        self, folder: Path, mutant: Mutant, tests: Sequence[str], limit_s: float
    ) -> tuple[str | None, int] | Literal[False]:
        """As ``tested``, in a fork of this process, which it spoils; False: the mutant has to be imported."""
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        if not self._imported.put(mutant, runs_at_import=self._at_import(mutant)):
            return False
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        chosen = _Chosen(tests)
        items = [self._items[test] for test in tests]
        for item in items[:1]:
            item.config.pluginmanager.register(chosen)
        for item, following in zip_longest(items, items[1:]):
            item.add_marker(pytest.mark.timeout(limit_s, method="thread"))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if chosen.failed is not None:
                break
        return chosen.failed, chosen.passed


class _Watch:
    """Notes how long each test takes, and makes it the context of the lines that run."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._coverage = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        started = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - started
            self._coverage.switch_context("")


def measured(
    folder: Path, tests: Sequence[str], modules: Sequence[str], reported: Sequence[str], limit_s: float
) -> dict[str, Any]:
    """Run the tests on the gateway as it is; return what they cover, how long each takes, and whether all passed."""
    watched = coverage.Coverage(data_file=str(folder / "coverage"), config_file=False, branch=True, include=[*modules])
    watched.start()
    watch = _Watch(watched)
    code = _pytest(folder, tests, watch, limit_s)
    watched.stop()
    data = watched.get_data()
    lines = {module: data.contexts_by_lineno(str(Path(module).absolute())) for module in modules}
    with (folder / "report").open("w", encoding="utf-8") as report:
        share = watched.report(include=[*reported], show_missing=True, file=report)
    return {
        "passed": code == pytest.ExitCode.OK,
        "seconds": watch.seconds,
        "lines": lines,
        "report": (folder / "report").read_text("utf-8"),
        "share": share,
    }


# The same examples every time, kept nowhere, and none made smaller: that one fails is all that is asked.
settings.register_profile(
    "mutation", database=None, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate]
)


def _pytest(folder: Path, tests: Sequence[str], plugin: object, limit_s: float, *more: str) -> int:
    # Plain assertions: nobody reads how one failed, and those that explain take longer to import than to run.
    options = ["-x", "-q", "--assert=plain", "-p", "no:xdist", "-p", "no:cacheprovider"]
    options += ["--hypothesis-profile=mutation"]  # in the place of what the tests load themselves
    options += ["-p", "no:unraisableexception"]
    # What holds on both engines is tried on one: a server takes as long to start as a hundred tests.
    options += ["-k", "not postgres"]
    # An exception in the middle of a test may end up in a task that nobody waits for, and the test would never end.
    options += ["-o", f"timeout={limit_s}", "-o", "timeout_method=thread"]
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
    return pytest.main([*options, *more, *tests], plugins=[plugin])
