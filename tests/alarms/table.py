"""The one source of ``config/prometheus/`` and of the manual's page of alerts.

Owns which alerts and recorded series there are, and what is told of each. ``files`` writes them, and the dashboard of
``panels``; ``page`` tells of them. A metric's name is the gateway's (``gateway.core.telemetry``): tests hold that.
"""

from typing import Literal, NamedTuple

__all__ = ["ALERTS", "GONE", "JOB", "RECORDS", "Alert", "Record"]

JOB = 'job="gateway"'


class Record(NamedTuple):
    """A series that Prometheus makes of others."""

    name: str
    expr: str


class Alert(NamedTuple):
    name: str
    severity: Literal["critical", "warning"]
    """critical: webhooks do not come, or soon will not; wake somebody. warning: look in the morning."""
    expr: str
    lasts: str
    """For how long it has to hold, as Prometheus writes it."""
    summary: str
    """One line, with the labels that the expression leaves."""
    means: str
    look: str
    do: str


RECORDS = (
    Record("job:gateway_registrations:rate5m", "sum by (job, created) (rate(gateway_registrations_total[5m]))"),
    Record("job:gateway_polls:rate5m", "sum by (job, upstream, kind) (rate(gateway_polls_total[5m]))"),
    Record("job:gateway_tasks_settled:rate5m", "sum by (job, upstream, state) (rate(gateway_tasks_settled_total[5m]))"),
    Record("job:gateway_attempts:rate5m", "sum by (job, result) (rate(gateway_attempts_total[5m]))"),
    Record(
        "job:gateway_poll_seconds:p95_5m",
        "histogram_quantile(0.95, sum by (job, upstream, le) (rate(gateway_poll_seconds_bucket[5m])))",
    ),
    Record(
        "job:gateway_attempt_seconds:p95_5m",
        "histogram_quantile(0.95, sum by (job, le) (rate(gateway_attempt_seconds_bucket[5m])))",
    ),
    Record(
        "job:gateway_delivery_lag_seconds:p95_5m",
        "histogram_quantile(0.95, sum by (job, le) (rate(gateway_delivery_lag_seconds_bucket[5m])))",
    ),
    Record(
        "job:gateway_delivery_lag_seconds:late_ratio15m",
        '1 - sum by (job) (increase(gateway_delivery_lag_seconds_bucket{le="30.0"}[15m]))\n'
        "  / sum by (job) (increase(gateway_delivery_lag_seconds_count[15m]))",
    ),
)

OF_THE_GATEWAY = (
    Alert(
        "GatewayDown",
        "critical",
        f"up{{{JOB}}} == 0",
        "3m",
        "The gateway {{ $labels.instance }} cannot be scraped.",
        "Prometheus gets no answer from it: it does not run, hangs, or cannot be reached. Nothing is polled or "
        "delivered by it; with replicas the others go on. Nothing that was answered `201` is lost.",
        "Does the process run (`systemctl status gateway`, `kubectl get pods`, `docker ps`), and what does the log "
        "end with? `curl http://HOST:8080/healthz` from its own machine.",
        "Start it; where it ends at once, [it says why](troubleshooting.md#it-does-not-start). Where it answers on "
        "its own machine, mend the network or Prometheus' target.",
    ),
    Alert(
        "GatewayNotReady",
        "critical",
        "gateway_ready == 0",
        "3m",
        "The gateway {{ $labels.instance }} takes no new work.",
        "`/readyz` answers 503: the store or a loop fails, no upstream accepts its key, or it hangs at its start or "
        "end.",
        "`curl http://HOST:8080/readyz`: `reasons` has all that is wrong; so has *Now* on the dashboard.",
        "What [each reason](troubleshooting.md#the-gateway-answers-503) asks for.",
    ),
    Alert(
        "GatewayRestarts",
        "warning",
        f"changes(process_start_time_seconds{{{JOB}}}[30m]) > 2",
        "0m",
        "The gateway {{ $labels.instance }} was started {{ $value }} times in half an hour.",
        "It is killed or ends again and again: by the kernel for its memory, by a liveness probe, or by itself.",
        "How it ended: `journalctl -u gateway`, `kubectl describe pod` (`OOMKilled`, `Liveness probe failed`), and "
        "its log's last lines.",
        "Raise the limit of memory, or lower `GATEWAY_MEMORY_BYTES`; where a probe kills it, see "
        "[what fails](troubleshooting.md#the-gateway-answers-503); an exit by itself says what to do.",
    ),
    Alert(
        "GatewayLoopFails",
        "critical",
        "increase(gateway_loop_restarts_total[10m]) > 3",
        "0m",
        "The {{ $labels.loop }} of {{ $labels.instance }} keeps failing.",
        "A loop ends with an exception and is begun anew, again and again: a defect, or something of the machine that"
        " nobody expected. What this loop does is not done.",
        "`loop.failed` in the log, with its traceback.",
        "[Restart it](troubleshooting.md#a-loop-fails), go back to the version before where it began with an upgrade,"
        " and report it.",
    ),
    Alert(
        "GatewayStoreFails",
        "critical",
        "gateway_store_failing == 1",
        "2m",
        "The database of {{ $labels.instance }} fails.",
        "Nothing can be written: registrations get 503, polls and attempts wait. Nothing that was answered `201` is "
        "lost unless the file is.",
        "`store.write_failed`, `store.failing`, `store.file_lost` or `store.damaged` in the log; `df -h` where the "
        "file is; of a PostgreSQL its server.",
        "[By its reason](troubleshooting.md#the-database-fails): make room, bring the server back, or "
        "[restore](operating.md#restore). It goes on by itself.",
    ),
    Alert(
        "GatewayDiskNearlyFull",
        "warning",
        "gateway_disk_free_ratio < 0.1",
        "10m",
        "{{ $value | humanizePercentage }} of the disk of {{ $labels.instance }}'s database is free.",
        "On a full disk nothing is registered any more. A backup needs as much room again as the database.",
        "`df -h` and `du -xh --max-depth=2` at the database's folder: is it the database, its backup, or somebody "
        "else's?",
        "Make room, or a larger disk. [The file does not shrink](operating.md#sizes) by itself; "
        "`GATEWAY_RETENTION_DAYS` bounds it.",
    ),
    Alert(
        "GatewayMemoryFull",
        "warning",
        "gateway_memory_used_ratio > 0.9",
        "10m",
        "What is large waits for room in {{ $labels.instance }}.",
        "`GATEWAY_MEMORY_BYTES` is used up by large answers and webhooks: large ones wait for one another, small ones"
        " pass.",
        "`gateway_attempts_in_flight` and `gateway_polls_in_flight`: a slow receiver of large webhooks, or a slow "
        "upstream, holds it.",
        "Mend who is slow; or raise `GATEWAY_MEMORY_BYTES` and the container's limit with it.",
    ),
    Alert(
        "GatewayFilesRunOut",
        "warning",
        f"process_open_fds{{{JOB}}} / process_max_fds{{{JOB}}} > 0.9",
        "5m",
        "{{ $labels.instance }} has nearly as many files open as it may.",
        "Without a file there is no connection: neither a request, a poll nor an attempt (`result` is `not_made`).",
        "`ls /proc/PID/fd | wc -l`, and which clients hold connections: `ss -tnp`.",
        "Raise the limit (`LimitNOFILE=`, `ulimits`), and restart it.",
    ),
    Alert(
        "GatewayLogLinesLost",
        "warning",
        "increase(gateway_log_lines_lost_total[15m]) > 0",
        "0m",
        "{{ $labels.instance }} loses lines of its log.",
        "Whoever reads its standard error is too slow, or has gone: its disk may be full. Work goes on.",
        "`log.lines_lost` in the log; the disk and the collector of the log.",
        "Mend what reads it; `GATEWAY_LOG_LEVEL=warning` makes less of it.",
    ),
)

OF_UPSTREAMS = (
    Alert(
        "GatewayUpstreamRefused",
        "critical",
        "gateway_upstream_refused == 1",
        "5m",
        "The upstream {{ $labels.upstream }} refuses the key.",
        "The key is wrong, was revoked, or is another's: nothing of this upstream is polled.",
        "`upstream.key_refused` in the log, and the upstream's own page of keys.",
        "[Write the right key and reload](troubleshooting.md#the-key-is-refused): nothing is lost meanwhile, but "
        "tasks run out of their `timeoutSeconds`.",
    ),
    Alert(
        "GatewayUpstreamNonsense",
        "critical",
        "gateway_upstream_nonsense == 1",
        "10m",
        "What answers for the upstream {{ $labels.upstream }} is not its API.",
        "A proxy, a login page or another API answers, or it denies tasks that it has told of.",
        "*Tasks* on the dashboard has how the last answer of a task began.",
        "See [where `GATEWAY_UPSTREAM_URL` leads](troubleshooting.md#the-upstream-answers-nonsense).",
    ),
    Alert(
        "GatewayNoPollSucceeds",
        "critical",
        "max by (job, upstream) (gateway_tasks_waiting) > 0\n"
        "  unless on (job, upstream) sum by (job, upstream)"
        ' (increase(gateway_polls_total{kind=~"running|terminal|not_known"}[15m])) > 0',
        "10m",
        "Tasks wait at the upstream {{ $labels.upstream }}, and no poll of it has succeeded for a quarter of an hour.",
        "It cannot be reached, fails, or nobody polls: no task can end.",
        "`gateway_polls_total` by `kind`: what do the polls come to? `poll.failed` in the log. With none at all, see "
        "the other alerts.",
        "By `kind`: [no answer](troubleshooting.md#the-upstream-gives-no-answer), [no "
        "credits](troubleshooting.md#the-account-has-no-credits), [not to be "
        "read](troubleshooting.md#the-answer-cannot-be-read). It goes on by itself.",
    ),
    Alert(
        "GatewayBudgetUsedUp",
        "warning",
        'avg_over_time(gateway_budget_used_ratio{kind="query"}[15m]) > 0.9\n'
        "  and on (job, instance, upstream) gateway_oldest_poll_overdue_seconds > 30",
        "5m",
        "The rate limit of {{ $labels.upstream }}'s key is used up, and polls wait for it.",
        "More tasks run at once than the key may ask about in time: their ends are found late.",
        "`gateway_tasks_waiting`, and `gateway_oldest_poll_overdue_seconds`: does it grow?",
        "[Ask for less, or for a higher limit](troubleshooting.md#the-budget-is-used-up); correct "
        "`GATEWAY_UPSTREAM_RATE` where it is lower than the key's.",
    ),
    Alert(
        "GatewayUpstreamLimited",
        "warning",
        "gateway_upstream_limited == 1",
        "30m",
        "The upstream {{ $labels.upstream }} allows fewer requests than are configured.",
        "Its own word is in force, and `GATEWAY_UPSTREAM_RATE` is too high, or somebody else uses the key.",
        "`upstream.limit_adopted` in the log says which limit it named.",
        "Correct [the rate](troubleshooting.md#the-budget-is-used-up), and let nobody else use the key.",
    ),
    Alert(
        "GatewayPollsLate",
        "warning",
        "gateway_oldest_poll_overdue_seconds > 120",
        "10m",
        "A poll of {{ $labels.upstream }} has been due for {{ $value | humanizeDuration }}.",
        "Ends of tasks are found late. Most often the key's limit is used up; else the upstream hangs, or nobody "
        "polls.",
        "`gateway_budget_used_ratio`, `gateway_polls_in_flight`, `job:gateway_poll_seconds:p95_5m`, and "
        "`gateway_leading`.",
        "[It is slow](troubleshooting.md#it-is-slow) has each case.",
    ),
    Alert(
        "GatewayNobodyPolls",
        "critical",
        "max by (job, upstream) (gateway_leading) == 0",
        "3m",
        "No replica polls the upstream {{ $labels.upstream }}.",
        "Of several replicas one polls an upstream; none has taken that over from the last.",
        "`/readyz` of each, and `gateway_lead_changes_total`; does the database answer?",
        "[Nobody polls the task](troubleshooting.md#nobody-polls-the-task): bring a replica, or the database, back.",
    ),
    Alert(
        "GatewayStaleWrites",
        "warning",
        "sum by (job) (increase(gateway_stale_writes_total[30m])) > 10",
        "0m",
        "Replicas write too late, again and again.",
        "A few come with a replica that was killed or stood still. Many mean replicas that stand still for longer "
        "than their leases: they change nothing, but webhooks are sent twice.",
        "`gateway_lead_changes_total`; the replicas' processors (throttled?), and how long the database takes.",
        "Take away a limit of the processor; mend the [database](replicas.md#the-database).",
    ),
)

OF_WEBHOOKS = (
    Alert(
        "GatewayWebhooksLate",
        "critical",
        "gateway_oldest_due_seconds > 300",
        "5m",
        "A webhook has been due for {{ $value | humanizeDuration }}.",
        "Webhooks are owed and not attempted: a receiver hangs or fails and its others wait behind it, or the gateway"
        " cannot keep up.",
        "*Receivers* on the dashboard; `gateway list --state pending`; `gateway_attempts_in_flight`.",
        "[It is slow](troubleshooting.md#it-is-slow): mend the receiver, or pause it, so that it is nobody's alarm.",
    ),
    Alert(
        "GatewayWebhooksSlow",
        "warning",
        "job:gateway_delivery_lag_seconds:late_ratio15m > 0.1\n"
        "  and on (job) sum by (job) (increase(gateway_delivery_lag_seconds_count[15m])) > 20",
        "10m",
        "{{ $value | humanizePercentage }} of the attempts begin more than half a minute late.",
        "Attempts wait for a place. It sees too what waits beside a receiver that is paused.",
        "`job:gateway_delivery_lag_seconds:p95_5m`, `gateway_attempts_in_flight`, "
        "`job:gateway_attempt_seconds:p95_5m`; *Receivers*.",
        "[It is slow](troubleshooting.md#it-is-slow): receivers that hang, or more than [one process "
        "carries](scaling.md#what-a-core-carries).",
    ),
    Alert(
        "GatewayReceiverFails",
        "warning",
        "gateway_receivers_failing > 0\n"
        "  and on (job, instance) sum by (job, instance)"
        ' (increase(gateway_attempts_total{result=~"retry|dead"}[6h])) > 0',
        "1h",
        "{{ $value }} receivers have failed for an hour.",
        "The last attempt at some receiver failed, all the time for an hour. Its webhooks are tried again for three "
        "days.",
        "*Now* names the receivers whose last attempt failed, with the error; `attempt.finished` in the log has "
        "`reason`.",
        "[By the reason](troubleshooting.md#attempts-fail); tell whom it belongs to.",
    ),
    Alert(
        "GatewayCallbacksDead",
        "warning",
        "max by (job) (gateway_callbacks_dead)\n"
        "  > (max by (job) (gateway_callbacks_dead offset 1h) or max by (job) (gateway_callbacks_dead) * 0)",
        "0m",
        "There are {{ $value }} dead callbacks, more than an hour ago.",
        "Webhooks are dead: all attempts failed, or a receiver answered 410. Nobody gets them unless you "
        "redeliver them.",
        "`gateway list --state dead`, and the last attempt of one: `gateway show ID`.",
        "Mend the receiver, then [redeliver them](troubleshooting.md#the-callback-is-dead).",
    ),
    Alert(
        "GatewayEgressProxyFails",
        "critical",
        "gateway_egress_proxies_failing > 0",
        "5m",
        "{{ $value }} egress proxies of {{ $labels.instance }} cannot be used.",
        "A proxy that `[[receivers]]` names cannot be reached, or refuses the password: the webhooks behind it "
        "wait, or the operator events. None of them dies of that, as no attempt counts meanwhile.",
        "*Now* on the dashboard, which names it to the operator; `attempt.finished` in the log with `reason` "
        "`proxy_unreachable` or `proxy_auth`, and `error`, or of an event `event.not_delivered`; "
        "`curl -x http://PROXY:PORT https://RECEIVER` from the gateway's machine.",
        "Bring it back, or [mend its address or password](troubleshooting.md#the-egress-proxy-fails) and "
        "[reload](operating.md#reload). What waits is sent by itself.",
    ),
    Alert(
        "GatewayClientCertificateEnds",
        "critical",
        "(gateway_client_certificate_ends_timestamp_seconds > 0) - time() < 7 * 86400",
        "0m",
        "A client certificate of {{ $labels.instance }} ends in {{ $value | humanizeDuration }}.",
        "A certificate that `[[receivers]]` shows (`client_cert_file`) ends within a week, or has ended where the "
        "time is negative: from then on its receivers refuse each webhook.",
        "`gateway check-config` names the file from two weeks before; `openssl x509 -enddate -noout -in FILE`.",
        "Write the new certificate and its key into their files, and [reload](operating.md#reload); on each replica.",
    ),
    Alert(
        "GatewayEventsFail",
        "critical",
        "gateway_events_failing == 1",
        "5m",
        "Operator events of {{ $labels.instance }} do not get through.",
        "Whoever is told at `GATEWAY_EVENTS_URL` of dead callbacks and failing receivers hears nothing: 200 events "
        "wait at most, what comes then is counted and not told.",
        "`event.not_delivered` in the log has the reason.",
        "Mend [who takes them](events.md), or its address. What waits is sent by itself.",
    ),
    Alert(
        "GatewayReceiverPaused",
        "warning",
        "gateway_receivers_paused > 0",
        "12h",
        "{{ $value }} receivers have been paused for half a day.",
        "Somebody paused them, and may have forgotten: their webhooks wait, and GatewayWebhooksLate does not "
        "count them.",
        "*Receivers* on the dashboard says who paused which, and when.",
        "*Resume*, or leave it so.",
    ),
)

GONE = Alert(
    "GatewayMetricsGone",
    "critical",
    "",  # of all metrics that the others ask for: ``files`` makes it
    "5m",
    "A metric of the gateway that alerts are made of is gone.",
    "No gateway is scraped at all, what answers is not a gateway, or it is one of another version: alerts are silent "
    "without their metrics, and this one is not. Where `up` is 0, GatewayDown says so instead.",
    "Prometheus' page *Targets*: is there a job `gateway`, and what does its `/metrics` answer? Which of the names in"
    " the expression is gone?",
    "Mend the job or its discovery; after an upgrade take the rules of the same version.",
)

ALERTS = (*OF_THE_GATEWAY, GONE, *OF_UPSTREAMS, *OF_WEBHOOKS)
