"""What ``make reference`` writes into ``config/prometheus/`` and ``config/grafana/``, of ``table`` and ``panels``."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.core.telemetry import Metrics
from tests.alarms.panels import ROWS, Panel
from tests.alarms.table import ALERTS, GONE, JOB, RECORDS, Alert
from tests.manual import ROOT

__all__ = ["DASHBOARD", "FILES", "RULES", "alert_expr", "exported", "metrics_of", "queries", "write"]

RULES = ROOT / "config" / "prometheus" / "gateway.rules.yaml"
DASHBOARD = ROOT / "config" / "grafana" / "gateway.json"
_WIDE, _NARROW = 8, 4
_HEIGHT, _LOW = 8, 4
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def exported() -> dict[str, frozenset[str]]:
    """Return each sample's name that the gateway exports, with its labels."""
    metrics = Metrics()
    labels = {one._name: frozenset(one._labelnames) for one in vars(metrics).values() if hasattr(one, "_labelnames")}
    found = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", b"".join(metrics.render()).decode(), re.MULTILINE):
        of = labels.get(name.removesuffix("_total"), frozenset())
        if kind == "histogram":
            found |= {f"{name}_bucket": of | {"le"}, f"{name}_count": of, f"{name}_sum": of}
        else:
            found[name] = of
    return found | {"gateway_build_info": frozenset({"version", "python"})}


def metrics_of(expr: str) -> list[str]:
    """Return which of the gateway's metrics an expression asks for, in their order; recorded series are none."""
    return list(dict.fromkeys(re.findall(r"(?<![\w:])(?:gateway|process)_\w+", expr)))


def alert_expr(alert: Alert) -> str:
    """Return an alert's expression."""
    if alert is not GONE:
        return alert.expr
    exprs = [one.expr for one in RECORDS] + [one.expr for one in ALERTS]
    names = sorted({name for expr in exprs for name in metrics_of(expr)})
    gone = "\n".join(f"  or absent({name}{{{JOB}}})" for name in names)
    return f"(\n  absent(up{{{JOB}}})\n{gone}\n)\nunless on (job) up{{{JOB}}} == 0"


# Prometheus


def _block(text: str, indent: int) -> str:
    return "|-\n" + "\n".join(" " * indent + line for line in text.splitlines())


def _rules() -> Iterator[str]:
    yield """\
# Alerts and recorded series of the gateway, for Prometheus 2.42 and newer. Made of tests/alarms/ by `make reference`.
#
# The job that scrapes it is called gateway. What each alert means and asks for: gateway/manual/alerts.md, which every
# gateway shows at the path that stands in runbook_url.

groups:
  - name: gateway.records
    rules:
"""
    for record in RECORDS:
        yield f"      - record: {record.name}\n        expr: {_block(record.expr, 10)}\n"
    yield "  - name: gateway.alerts\n    rules:\n"
    for alert in ALERTS:
        yield f"      - alert: {alert.name}\n        expr: {_block(alert_expr(alert), 10)}\n"
        yield f"        for: {alert.lasts}\n"
        yield f"        labels: {{severity: {alert.severity}}}\n        annotations:\n"
        yield f"          summary: {json.dumps(alert.summary)}\n"
        yield f"          runbook_url: {json.dumps(f'/manual/alerts#{alert.name.lower()}')}\n"


# Grafana


def queries() -> Iterator[tuple[Panel, str]]:
    """Yield each expression of the dashboard."""
    for panels in ROWS.values():
        for panel in panels:
            for expr, _ in panel.queries:
                yield panel, expr


def _panel(panel: Panel, number: int, at: Mapping[str, int]) -> dict[str, Any]:
    at_once = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _SOURCE,
            "expr": expr,
            "legendFormat": legend or "__auto",
            **({"instant": True, "range": False} if at_once else {}),
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for i, (expr, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": _SOURCE,
        "gridPos": dict(at),
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0} if not at_once else {"unit": panel.unit},
            "overrides": [],
        },
        "options": {},
        "targets": targets,
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        }
        y, x, height = y + 1, 0, 0
        for panel in panels:
            number += 1
            low = panel.kind == "stat" or title == "Now"
            width, tall = (_NARROW, _LOW) if low else (_WIDE, _HEIGHT)
            if x + width > 24:
                x, y = 0, y + height
            yield _panel(panel, number, {"h": tall, "w": width, "x": x, "y": y})
            x, height = x + width, tall
        y += height


def _dashboard() -> dict[str, Any]:
    return {
        "uid": "webhook-bridging-gateway",
        "title": "webhook-bridging-gateway",
        "description": "Made of tests/alarms/ by `make reference`; it reads series that gateway.rules.yaml records.",
        "tags": ["gateway", "webhooks"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "job",
                    "type": "query",
                    "label": "Job",
                    "datasource": _SOURCE,
                    "query": {"query": "label_values(gateway_build_info, job)", "refId": "job"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                },
            ]
        },
        "panels": list(_panels()),
    }


FILES: Mapping[str, tuple[Any, Callable[[], str]]] = {
    "rules": (RULES, lambda: "".join(_rules())),
    "dashboard": (DASHBOARD, lambda: json.dumps(_dashboard(), indent=2) + "\n"),
}
"""Where each stands, and how it is made."""


def write() -> None:
    for path, made in FILES.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made(), "utf-8")


if __name__ == "__main__":
    write()
