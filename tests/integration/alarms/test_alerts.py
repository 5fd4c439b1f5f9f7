"""Each alert fires on its fault within its time, and none in a day of normal life: by Prometheus' own promtool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.alarms import promtool
from tests.alarms.faults import FAULTS
from tests.alarms.files import RULES, queries
from tests.alarms.play import play_day, play_fault
from tests.alarms.table import ALERTS, JOB
from tests.kustomized import KUBERNETES
from tests.manifests import REPLICAS, documents, only
from tests.manual import ROOT, page

SHORT_S = 9.5 * 3600  # a night with an upgrade, and a morning with an outage
SHORT = (
    "it is killed", "Prometheus does not know it", "another program answers", "a loop fails", "the disk is full",
    "the key is refused", "the upstream gives no answer", "a client certificate ends", "a receiver fails",
    "a receiver says 410", "nobody leads",
)  # fmt: skip


def test_the_rules_can_be_read() -> None:
    """By the program that Prometheus reads them with."""
    assert promtool.check_rules(RULES) == ""


def test_the_manual_s_configuration_finds_them(tmp_path: Path) -> None:
    """With the rules beside it, their links led to another host as the manual says, Prometheus takes it."""
    section = page("operating").partition("\n## Alerts\n")[2].partition("\n## ")[0]
    (config,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"`(sed .*?)`", section)
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(RULES, tmp_path)
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert "https://gateway.example/manual/alerts#gatewaydown" in (tmp_path / RULES.name).read_text("utf-8")
    assert promtool.check_config(tmp_path / "prometheus.yml") == ""


def test_the_manual_s_configuration_for_replicas(tmp_path: Path) -> None:
    """It keeps pods by a label and a port of the manifests, in the rules' job; Prometheus takes it.

    But for how pods are found, which Debian's is built without.
    """
    (config,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", page("replicas"), re.DOTALL)
    found = "kubernetes_sd_configs: [{role: pod}]"
    assert found in config
    (tmp_path / "prometheus.yml").write_text(config.replace(found, "static_configs: []"))
    assert promtool.check_config(tmp_path / "prometheus.yml") == ""
    (scrape,) = documents(config)[0]["scrape_configs"]
    by_label, by_port = scrape["relabel_configs"]
    (label,) = by_label["source_labels"]
    for path in (REPLICAS, KUBERNETES / "base" / "gateway.yaml"):
        pod = only(path.read_text("utf-8"), "Deployment")["spec"]["template"]
        named = {re.sub(r"\W", "_", name): value for name, value in pod["metadata"]["labels"].items()}
        assert named[label.removeprefix("__meta_kubernetes_pod_label_")] == by_label["regex"]
        (container,) = pod["spec"]["containers"]
        assert [port["name"] for port in container["ports"]] == [by_port["regex"]]
    assert f'job="{scrape["job_name"]}"' == JOB


def test_the_dashboard_s_queries_can_be_read(tmp_path: Path) -> None:
    """Each as the expression of a rule."""
    text = "".join(
        f"    - record: query:{i}\n      expr: |-\n        {expr}\n" for i, (_, expr) in enumerate(queries())
    )
    path = tmp_path / "queries.yaml"
    path.write_text(f"groups:\n- name: queries\n  rules:\n{text}")
    assert promtool.check_rules(path) == ""
    path.write_text(path.read_text().replace("max(", "most(", 1))
    assert "most" in promtool.check_rules(path)


def test_nothing_fires_in_normal_life(tmp_path: Path) -> None:
    """With an upgrade and small troubles in it; ``make alarms`` plays the whole day."""
    promtool.found()
    assert play_day(tmp_path, until_s=SHORT_S) == ""


@pytest.mark.parametrize("name", SHORT)
def test_a_fault(name: str, tmp_path: Path) -> None:
    """Nothing before it; each of its alerts within its time; no other ever. ``make alarms`` plays all of them."""
    promtool.found()
    assert play_fault(tmp_path, name) == ""


def test_what_is_promised_is_held_against_what_fires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that fires unasked, and one that does not fire in time, is noticed."""
    promtool.found()
    fault = FAULTS["it is killed"]
    monkeypatch.setitem(FAULTS, "it is killed", fault._replace(fires={}))
    assert "GatewayDown" in play_fault(tmp_path, "it is killed")
    monkeypatch.setitem(FAULTS, "it is killed", fault._replace(fires={"GatewayDown": 1}))
    assert "GatewayDown" in play_fault(tmp_path, "it is killed")


def test_each_alert_has_its_fault() -> None:
    """No alert is there that was never seen to fire."""
    assert {alert for fault in FAULTS.values() for alert in fault.fires} == {alert.name for alert in ALERTS}


def test_a_figure_that_is_set_is_one_that_a_gateway_shows() -> None:
    """Where a fault is no fault of the world, a test is named in which a real gateway has it, with the alert."""
    by_hand = {name: fault for name, fault in FAULTS.items() if fault.by_hand}
    assert len(by_hand) <= 4, "what can be planted for real is"
    for fault in by_hand.values():
        (path,) = re.findall(r"tests/\S+\.py", fault.by_hand)
        assert fault.fires.keys() <= set(re.findall(r"Gateway\w+", (ROOT / path).read_text("utf-8")))
