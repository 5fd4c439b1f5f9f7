"""What holds for every test: it draws no luck, and its failure takes no other down.

Property tests play the same examples in every run, whichever tests run beside them, and keep none that failed for the
next one. Fresh luck is for ``make simulate`` and ``make crash``.
"""

import functools
import gc
import importlib.util
import signal
import sys
import warnings
from collections.abc import Generator, MutableMapping
from typing import Any

import pytest
import structlog
from httpx._transports import default
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from gateway.config import profilefile
from tests import forked
from tests.postgres import (
    _ready,
    _shared_debian_server,
    _shared_server,
    forget,
    postgres,
    postgres_debian,
    postgres_ready,
    postgres_server,
)
from tests.sqliteready import ready_files

__all__ = [
    "_ready",
    "_shared_debian_server",
    "_shared_server",
    "postgres",
    "postgres_debian",
    "postgres_ready",
    "postgres_server",
    "ready_files",
]

# Hypothesis also draws the constants in the source of whatever is imported by then: a test would see other examples
# alone than in company. There is no setting for it.
providers._get_local_constants = lambda: providers._local_constants
# How long an example takes, or making one, is the machine's luck: the time limit of each test is enough.
settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")

# For each client httpx reads all root certificates, which takes longer than most tests: here once for all of them.
default.create_ssl_context = functools.cache(default.create_ssl_context)  # type: ignore[assignment]

# For each lock and connection httpcore looks for it in vain, through the whole path.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

# Each gateway reads all shipped profiles: here each of them once.
profilefile.parse_profile = functools.cache(profilefile.parse_profile)

# The lines that pytest shows with a failure: structlog's own, in columns and colours, cost three times as much.
_in_a_line = structlog.processors.KeyValueRenderer(key_order=["level", "event"])


def _plain(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    lines = [event.pop("exception", ""), _in_a_line(logger, method, event)]
    return "\n".join(filter(None, lines))


structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _plain,
    ]
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of a test would inherit it


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is collected to no collector: with ten thousand tests each of its full turns takes half a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_configure() -> None:
    forked.allow()


def pytest_unconfigure() -> None:
    """Leave nothing behind, in a process that was forked for its tests too, which has no other end."""
    forget()
    forked.end()


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Throw away what a failed test left open: its ResourceWarning, an error here, would be told of a later test."""
    result = yield
    if item.stash.get(_failed, False):
        for name in ("last_exc", "last_value", "last_traceback"):  # pytest keeps the failure's frames there
            sys.__dict__.pop(name, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return result
