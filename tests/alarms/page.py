"""The manual's page of alerts, made of ``table``."""

from collections.abc import Iterator

from tests.alarms.files import alert_expr
from tests.alarms.table import ALERTS, GONE, Alert

__all__ = ["alerts_page"]

_HEAD = """\
# Every alert

For who is woken by one: what it means, how to look, and what to do.
It is made of the code: `make reference` writes it anew.

They stand in `config/prometheus/gateway.rules.yaml`: [set them up](operating.md#alerts). *critical*: webhooks do not
come, or soon will not. *warning*: look in the morning.

## Alerts

"""


def _rows() -> Iterator[str]:
    yield "| alert | severity | fires once it has lasted |\n|---|---|---|\n"
    for alert in ALERTS:
        lasts = "\N{EN DASH}" if alert.lasts == "0m" else alert.lasts.replace("m", " min").replace("h", " h")
        yield f"| [{alert.name}](#{alert.name.lower()}) | {alert.severity} | {lasts} |\n"


def _section(alert: Alert) -> str:
    if alert is GONE:
        expr = "A metric of which the other alerts are made is absent, or the job is."
    else:
        expr = f"`{' '.join(alert_expr(alert).split())}`"
    parts = [expr, alert.means, f"**Look**: {alert.look}", f"**Do**: {alert.do}"]
    return f"\n## {alert.name}\n\n" + "\n\n".join(parts) + "\n"


def alerts_page() -> str:
    return _HEAD + "".join(_rows()) + "".join(map(_section, ALERTS))
