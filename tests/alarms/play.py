"""Plays a fault, or a day, and has promtool say what fired. Called by ``make alarms``, and by tests in a short form."""

import asyncio
import re
from pathlib import Path

from tests.alarms import promtool
from tests.alarms.faults import DAY, FAULTS, NORMAL_S, Planted, day, trickle
from tests.alarms.files import alert_expr, metrics_of
from tests.alarms.promtool import Firing
from tests.alarms.stage import Stage, staged
from tests.alarms.table import ALERTS, RECORDS

__all__ = ["play_day", "play_fault"]

KEPT = frozenset(
    re.sub(r"_(bucket|count|sum)$", "", name)
    for expr in [*(one.expr for one in RECORDS), *map(alert_expr, ALERTS)]
    for name in metrics_of(expr)
)


def play_day(folder: Path, *, until_s: float = DAY, seed: int = 1) -> str:
    """Return what fired in a day of normal life, or the beginning of one; empty: nothing did."""
    stage = staged(Stage(folder, KEPT, seed), lambda stage: day(stage, until_s))
    assert stage.upstream.stats.requests["recordInfo"] > 100
    return promtool.asserted(folder, stage, [Firing(until_s - stage.scrape_s, ())])


def play_fault(folder: Path, name: str, *, seed: int = 2) -> str:
    """Return what fired that should not, or did not in time that should; empty: all is well."""
    fault = FAULTS[name]
    stage = staged(Stage(folder, KEPT, seed, fault.scrape_s, fault.environ), lambda stage: _course(stage, fault))
    firing = [Firing(NORMAL_S, ())]
    for alert, minutes in fault.fires.items():
        firing.append(Firing(NORMAL_S + minutes * 60, (alert,), others=True))
    firing.append(Firing(NORMAL_S + fault.lasts_s - stage.scrape_s, fault.fires.keys()))
    return promtool.asserted(folder, stage, firing)


async def _course(stage: Stage, fault: Planted) -> None:
    stage.begin(trickle(stage))
    await asyncio.sleep(NORMAL_S + stage.scrape_s / 4)  # between two scrapes
    stage.begin(fault.plant(stage))
    await asyncio.sleep(fault.lasts_s - stage.scrape_s / 4)
