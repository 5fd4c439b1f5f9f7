"""promtool: what Prometheus makes of rules, and of series that a ``Stage`` has scraped.

It comes with Debian's package ``prometheus``; tests that ask for it are skipped where it is not.
"""

import json
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.alarms.files import RULES
from tests.alarms.stage import INSTANCE, JOB, Key, Stage

__all__ = ["Firing", "asserted", "check_config", "check_rules", "found"]


LIMIT_S = 900
"""A day takes it a quarter of a minute, and on a machine that does much else many times as long."""


def found() -> str:
    """Return where it is; skips the test where it is not."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    return path


def _run(*arguments: object) -> str:
    """Return what it says against it; empty where all is well."""
    done = subprocess.run([found(), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def check_rules(path: Path) -> str:
    """Return what is wrong with a file of rules; empty where nothing is."""
    return _run("check", "rules", path)


def check_config(path: Path) -> str:
    """Return what is wrong with Prometheus' own file of settings, and the rules that it names."""
    return _run("check", "config", path)


class Firing(NamedTuple):
    """What has fired by some time."""

    by_s: float
    alerts: Collection[str]
    others: bool = False
    """Whether others may have fired as well."""


def asserted(folder: Path, stage: Stage, firing: Iterable[Firing]) -> str:
    """Return what is not as it should be of what fired, by the rules, on what a stage has scraped; empty: all is."""
    tests = []
    for one in firing:
        which = f',alertname=~"{"|".join(one.alerts)}"' if one.others else ""
        fired = f'last_over_time(ALERTS{{alertstate="firing"{which}}}[{one.by_s:.0f}s])'
        tests.append(
            {
                "expr": f"count by (alertname) ({fired}) * 0",  # how many series of each there are is nobody's business
                "eval_time": f"{one.by_s:.0f}s",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 0} for name in sorted(one.alerts)],
            }
        )
    group = {
        "interval": f"{stage.scrape_s}s",
        "input_series": [
            {"series": _series(key), "values": " ".join(_runs(values))} for key, values in sorted(stage.series.items())
        ],
        "promql_expr_test": tests,
    }
    path = folder / "promtool.yaml"
    path.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": f"{stage.scrape_s}s", "tests": [group]})
    )
    return _run("test", "rules", path)


def _series(key: Key) -> str:
    name, labels = key
    every: Mapping[str, Any] = {"job": JOB, "instance": INSTANCE, **dict(labels)}
    return f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in every.items())}}}"


def _runs(values: Iterable[float | None]) -> Iterator[str]:
    """Yield what promtool reads: ``1+0x2`` for three that are 1, ``stale _x2`` for three that are missing."""
    for value, same in groupby(values):
        times = len(list(same))
        if value is None:  # what Prometheus writes where a series is gone: else the last value would count for 5 min
            yield "stale" if times == 1 else f"stale _x{times - 1}"
        elif times == 1:
            yield f"{value:.17g}"
        else:
            yield f"{value:.17g}+0x{times - 1}"
