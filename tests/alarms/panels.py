"""The panels of the Grafana dashboard, in their order: what each shows, and of which series.

Part of the one source of ``config/grafana/``; ``files`` makes the JSON of it.
"""

from typing import Literal, NamedTuple

__all__ = ["ROWS", "Panel"]

Unit = Literal["short", "s", "bytes", "percentunit", "ops", "bool_yes_no"]


class Panel(NamedTuple):
    title: str
    unit: Unit
    queries: tuple[tuple[str, str], ...]
    """Expressions, each with what its lines are called in the legend."""
    tells: str
    kind: Literal["timeseries", "stat", "table"] = "timeseries"


J = 'job=~"$job"'

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Alerts",
            "short",
            (('ALERTS{alertname=~"Gateway.+",alertstate="firing"}', "{{alertname}}"),),
            "Those of gateway.rules.yaml that fire; the manual's page of alerts says what to do.",
            "table",
        ),
        Panel(
            "Ready",
            "bool_yes_no",
            ((f"min(gateway_ready{{{J}}})", ""),),
            "Whether each of them takes new work.",
            "stat",
        ),
        Panel(
            "Tasks watched",
            "short",
            ((f"sum(max by (upstream) (gateway_tasks_waiting{{{J}}}))", ""),),
            "Tasks whose end is waited for.",
            "stat",
        ),
        Panel(
            "Webhooks owed",
            "short",
            ((f"max(gateway_callbacks_pending{{{J}}})", ""),),
            "Those that are not yet delivered.",
            "stat",
        ),
        Panel(
            "Dead",
            "short",
            ((f"max(gateway_callbacks_dead{{{J}}})", ""),),
            "Webhooks that nobody gets, unless somebody redelivers them.",
            "stat",
        ),
        Panel(
            "Longest due",
            "s",
            ((f"max(gateway_oldest_due_seconds{{{J}}})", ""),),
            "For how long a webhook has been due whose receiver is not paused.",
            "stat",
        ),
    ),
    "Tasks and polls": (
        Panel(
            "Registrations",
            "ops",
            ((f"job:gateway_registrations:rate5m{{{J}}}", "created {{created}}"),),
            "A second, by whether it was a new one.",
        ),
        Panel(
            "Tasks that end",
            "ops",
            ((f"job:gateway_tasks_settled:rate5m{{{J}}}", "{{upstream}} {{state}}"),),
            "A second, by state; abandoned ones ran out of time.",
        ),
        Panel(
            "Polls",
            "ops",
            ((f"job:gateway_polls:rate5m{{{J}}} > 0", "{{upstream}} {{kind}}"),),
            "A second, by what they came to.",
        ),
        Panel(
            "How long the upstream takes",
            "s",
            ((f"job:gateway_poll_seconds:p95_5m{{{J}}}", "{{upstream}}"),),
            "19 of 20 polls are answered within this.",
        ),
        Panel(
            "Rate limit used",
            "percentunit",
            ((f"gateway_budget_used_ratio{{{J}}}", "{{upstream}} {{kind}} {{instance}}"),),
            "Of the key's fullest window.",
        ),
        Panel(
            "Poll overdue",
            "s",
            ((f"max by (upstream) (gateway_oldest_poll_overdue_seconds{{{J}}})", "{{upstream}}"),),
            "For how long the poll that is overdue the longest has been due.",
        ),
        Panel(
            "Upstreams in trouble",
            "short",
            (
                (f"max by (upstream) (gateway_upstream_refused{{{J}}})", "{{upstream}} refuses the key"),
                (f"max by (upstream) (gateway_upstream_nonsense{{{J}}})", "{{upstream}} answers nonsense"),
                (f"max by (upstream) (gateway_upstream_limited{{{J}}})", "{{upstream}} allows less"),
            ),
            "1 while it is so.",
        ),
        Panel(
            "Who polls",
            "short",
            ((f"gateway_leading{{{J}}}", "{{upstream}} {{instance}}"),),
            "1 at the replica that polls an upstream.",
        ),
    ),
    "Webhooks": (
        Panel("Attempts", "ops", ((f"job:gateway_attempts:rate5m{{{J}}}", "{{result}}"),), "A second, by result."),
        Panel(
            "Lag and length of attempts",
            "s",
            (
                (f"job:gateway_delivery_lag_seconds:p95_5m{{{J}}}", "from due to begun"),
                (f"job:gateway_attempt_seconds:p95_5m{{{J}}}", "from begun to ended"),
            ),
            "19 of 20 attempts are within this.",
        ),
        Panel(
            "Owed and dead",
            "short",
            (
                (f"max by (job) (gateway_callbacks_pending{{{J}}})", "owed"),
                (f"max by (job) (gateway_callbacks_dead{{{J}}})", "dead"),
            ),
            "Callbacks by state.",
        ),
        Panel(
            "Receivers",
            "short",
            (
                (f"max by (job) (gateway_receivers_failing{{{J}}})", "fail"),
                (f"max by (job) (gateway_receivers_paused{{{J}}})", "are paused"),
            ),
            "Receivers whose last attempt failed, and those that somebody paused.",
        ),
    ),
    "Operator events": (
        Panel(
            "Events",
            "short",
            (
                (f"sum by (result) (increase(gateway_events_total{{{J}}}[5m]))", "{{result}}"),
                (f"max by (job) (gateway_events_waiting{{{J}}})", "wait"),
                (f"max by (job) (gateway_events_failing{{{J}}})", "do not get through"),
            ),
            "What became of them in five minutes, where GATEWAY_EVENTS_URL is set.",
        ),
    ),
    "The process": (
        Panel(
            "Processor",
            "percentunit",
            ((f"rate(process_cpu_seconds_total{{{J}}}[5m])", "{{instance}}"),),
            "1 is a whole core.",
        ),
        Panel("Memory", "bytes", ((f"process_resident_memory_bytes{{{J}}}", "{{instance}}"),), "Resident."),
        Panel(
            "Room",
            "percentunit",
            (
                (f"gateway_memory_used_ratio{{{J}}}", "GATEWAY_MEMORY_BYTES used {{instance}}"),
                (f"gateway_disk_free_ratio{{{J}}}", "disk free {{instance}}"),
                (f"process_open_fds{{{J}}} / process_max_fds{{{J}}}", "files open {{instance}}"),
            ),
            "Of the budget of memory, of the database's disk, and of open files.",
        ),
        Panel(
            "In flight",
            "short",
            (
                (f"sum by (upstream) (gateway_polls_in_flight{{{J}}})", "polls {{upstream}}"),
                (f"sum by (job) (gateway_attempts_in_flight{{{J}}})", "attempts"),
            ),
            "What waits for an answer.",
        ),
        Panel(
            "Trouble",
            "short",
            (
                (f"sum by (loop) (increase(gateway_loop_restarts_total{{{J}}}[5m]))", "{{loop}} begun anew"),
                (f"sum by (job) (increase(gateway_stale_writes_total{{{J}}}[5m]))", "stale writes"),
                (f"sum by (job) (increase(gateway_log_lines_lost_total{{{J}}}[5m]))", "log lines lost"),
                (f"max by (job) (gateway_store_failing{{{J}}})", "the store fails"),
            ),
            "Loops that failed, writes that came too late, lost lines of the log, in five minutes.",
        ),
        Panel("Version", "short", ((f"gateway_build_info{{{J}}}", "{{version}}"),), "Which gateway runs.", "table"),
    ),
}
