"""The rules and the dashboard: what the code says, of metrics that there are, with links that lead somewhere."""

import json
import re
from typing import Any

import pytest

from gateway.core.model import AttemptResult
from gateway.upstream.answer import PollKind
from tests.alarms.files import DASHBOARD, FILES, RULES, alert_expr, exported, metrics_of, queries
from tests.alarms.table import ALERTS, GONE, RECORDS
from tests.manifests import documents
from tests.manual import page

EXPRS = {one.name: one.expr for one in RECORDS} | {one.name: alert_expr(one) for one in ALERTS}
EVERY = EXPRS | {f"{panel.title}, {i}": expr for i, (panel, expr) in enumerate(queries())}
SCRAPED = {"job", "instance"}
"""Labels that Prometheus gives each series."""
ITS_OWN = {"up": SCRAPED, "ALERTS": SCRAPED | {"alertname", "alertstate"}}
"""What Prometheus makes itself."""
WORDS = {"and", "or", "unless", "by", "on", "offset"}
FUNCTIONS = {
    "absent", "avg_over_time", "changes", "histogram_quantile", "increase", "max", "min", "rate", "sum", "time",
}  # fmt: skip
VALUES = {"kind": {*PollKind, "unreadable", "query", "create"}, "result": {*AttemptResult, "not_made"}}


def known() -> dict[str, set[str]]:
    """Return every series that an expression may ask for, with its labels."""
    found = ITS_OWN | {name: labels | SCRAPED for name, labels in exported().items()}
    for record in RECORDS:
        (labels,) = set(re.findall(r"by \((.*?)\)", record.expr))
        found[record.name] = set(labels.split(", ")) - {"le"}
    return found


def faults(expr: str) -> list[str]:
    """Return what an expression names that there is not."""
    series = known()
    wrong = []
    for name, matchers in re.findall(r"([A-Za-z_][\w:]*)(?:{(.*?)})?", re.sub(r"\b(?:by|on) \(.*?\)", "", expr)):
        if re.fullmatch(r"\d*[smhd]", name) or name in WORDS | FUNCTIONS:
            continue
        if name not in series:
            wrong.append(name)
            continue
        for label, value in re.findall(r'(\w+)=~?"(.*?)"', matchers):
            values = VALUES.get(label)
            if label not in series[name] or (values and not set(value.split("|")) <= values):
                wrong.append(f"{name}{{{label}={value}}}")
    grouped = {label for names in re.findall(r"\b(?:by|on) \((.*?)\)", expr) for label in names.split(", ")}
    asked = [series[name] for name in re.findall(r"[A-Za-z_][\w:]*", expr) if name in series]
    return wrong + [label for label in sorted(grouped) if not any(label in labels for labels in asked)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_as_the_code_has_it(name: str) -> None:
    """What was changed in the code has to be changed in the file too."""
    path, made = FILES[name]
    assert path.read_text("utf-8") == made(), f"{path.name} is not what the code says: make reference"


@pytest.mark.parametrize("name", EVERY)
def test_an_expression_asks_for_what_there_is(name: str) -> None:
    """Metrics, labels and their values are those that the gateway exports."""
    assert faults(EVERY[name]) == []


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ("gateway_reddy == 0", ["gateway_reddy"]),
        ('rate(gateway_polls_total{sort="running"}[5m])', ["gateway_polls_total{sort=running}"]),
        ('rate(gateway_polls_total{kind=~"running|walking"}[5m])', ["gateway_polls_total{kind=running|walking}"]),
        ("sum by (job, receiver) (gateway_receivers_failing)", ["receiver"]),
        ("job:gateway_polls:rate10m > 0", ["job:gateway_polls:rate10m"]),
        ("most(gateway_ready)", ["most"]),
    ],
)
def test_a_mistake_is_noticed(expr: str, wrong: list[str]) -> None:
    """A metric, a label, a label's value, a group or a recorded series that there is not."""
    assert faults(expr) == wrong


def test_no_alert_is_silent_without_its_metrics() -> None:
    """Of each metric that an alert is made of, over recorded series too, one fires where it is gone."""
    asked = {name for name, expr in EXPRS.items() if name != GONE.name for name in metrics_of(expr)}
    absent = set(re.findall(r"absent\((\w+)", alert_expr(GONE)))
    assert absent == asked | {"up"}
    assert len(asked) > 15


def test_every_alert_says_what_to_do() -> None:
    """Its link is the path of a heading in the manual; its words name labels that its expression leaves."""
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", page("alerts"), re.MULTILINE)}
    labels = {label for of in known().values() for label in of}
    found = rules()
    assert len(found) == len(ALERTS)
    for rule in found:
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == "/manual/alerts"
        assert anchor in anchors
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels
        assert rule["labels"]["severity"] in ("critical", "warning")


def rules() -> list[Any]:
    (document,) = documents(RULES.read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]


def test_the_dashboard_s_panels() -> None:
    """Each has a number and a place of its own, and what it shows in words."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not place & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= place
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
