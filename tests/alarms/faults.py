"""What is planted in a gateway, and which alerts fire on it, each within which time.

Owns the faults and the day of normal life. Almost all are made of the world around the real gateway, or of a defect in
it. Where that cannot be had in virtual time the figure that it shows is set: ``by_hand`` says why, and which test has
a real gateway show it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import httpx
import trustme

from gateway.app import build as building
from gateway.core import telemetry
from gateway.core.logsink import LogSink
from gateway.net import proxied
from gateway.net.errors import ExchangeFailed
from gateway.simulator.faults import Fault, FaultKind
from gateway.simulator.scenario import KeyedLimiter, parse_windows
from tests.alarms.stage import UPSTREAM, Pool, Stage, gone, unwell

__all__ = ["DAY", "FAULTS", "NORMAL_S", "Planted", "day", "trickle"]

NORMAL_S = 1200
"""For so long each gateway is well before its fault."""
MINUTE, HOUR, DAY = 60, 3600, 86400
SINK_S = 10.0
"""So long the log's own thread may take, in real time."""
Course = Callable[[Stage], Coroutine[Any, Any, object]]


class Planted(NamedTuple):
    """A fault: how it is planted, for how long it is looked at, and what fires."""

    plant: Course
    lasts_s: float
    fires: Mapping[str, float]
    """By alert, within how many minutes; all that fire at all."""
    scrape_s: int = 60
    environ: Mapping[str, str] = MappingProxyType({})
    by_hand: str = ""
    """Why its figure is set, and where a real one is seen."""


async def trickle(stage: Stage, every_s: float = 240, host: str = "app.example") -> NoReturn:
    """Register a task now and then, for ever."""
    while True:
        await stage.register(host)
        await asyncio.sleep(stage.rng.expovariate(1 / every_s))


async def day(stage: Stage, until_s: float = DAY) -> None:
    """A day of normal life: more tasks by day than at night, a burst, small troubles that pass, upgrades, a pause."""
    stage.upstream.faults.add(
        Fault(kind=FaultKind.ERROR, status=500, probability=0.01),
        Fault(kind=FaultKind.HTML, probability=0.005),
        Fault(kind=FaultKind.ERROR, status=429, probability=0.005),
        Fault(kind=FaultKind.SLOW, delay_s=8.0, probability=0.01),
    )
    times = [stage.rng.uniform(0, DAY) for _ in range(40)] + [
        stage.rng.uniform(DAY / 3, DAY * 3 / 4) for _ in range(80)
    ]
    times += [15.2 * HOUR + stage.rng.uniform(0, 30) for _ in range(30)]
    for number, at_s in enumerate(at_s for at_s in times if at_s < until_s):
        host = ("app.example", "shop.example")[number % 3 == 0]
        stage.begin(later(at_s, partial(stage.register, host, fails=number % 8 == 0)))
    for at_s, trouble in (
        (3 * HOUR, stage.restart),
        (9 * HOUR, partial(unreachable, stage, 4 * MINUTE)),
        (10.5 * HOUR, partial(ill, stage, "shop.example", 25 * MINUTE)),
        (12 * HOUR, partial(broken, stage, MINUTE)),
        (13 * HOUR, partial(paused, stage, HOUR)),
        (14.5 * HOUR, stage.restart),
        (16 * HOUR, partial(unscraped, stage, 2 * MINUTE)),
    ):
        stage.begin(later(at_s, trouble))
    await asyncio.sleep(until_s)


async def later(at_s: float, work: Callable[[], Awaitable[object]]) -> None:
    await asyncio.sleep(at_s)
    await work()


async def unreachable(stage: Stage, for_s: float) -> None:
    stage.upstream_answers = False
    await asyncio.sleep(for_s)
    stage.upstream_answers = True


async def ill(stage: Stage, host: str, for_s: float) -> None:
    stage.receivers[host] = unwell
    for _ in range(6):
        await stage.register(host)
    await asyncio.sleep(for_s)
    del stage.receivers[host]


async def broken(stage: Stage, for_s: float) -> None:
    stage.connection.broken = "disk I/O error"
    await asyncio.sleep(for_s)
    stage.connection.broken = None


async def paused(stage: Stage, for_s: float) -> None:
    assert stage.deliverer._pauses is not None
    await stage.deliverer._pauses.pause("", "https://app.example", "somebody")
    await asyncio.sleep(for_s)
    await stage.deliverer._pauses.resume("", "https://app.example", "somebody")


async def unscraped(stage: Stage, for_s: float) -> None:
    stage.scraped = False
    await asyncio.sleep(for_s)
    stage.scraped = True


async def killed(stage: Stage) -> None:
    await stage.stop()


async def unknown(stage: Stage) -> None:
    stage.found = False


async def another_answers(stage: Stage) -> None:
    async def page(*_: object, **__: object) -> httpx.Response:
        return httpx.Response(200, html="<html>Welcome to nginx!</html>")

    stage.ask = page  # type: ignore[method-assign]


async def key_refused(stage: Stage) -> None:
    stage.upstream.faults.add(Fault(kind=FaultKind.KEY_REFUSED))


async def nonsense(stage: Stage) -> None:
    stage.upstream.faults.add(Fault(kind=FaultKind.HTML, status=200))


async def no_answer(stage: Stage) -> None:
    stage.upstream_answers = False


async def a_crowd(stage: Stage) -> None:
    for _ in range(200):
        await stage.register()


async def receiver_fails(stage: Stage) -> None:
    stage.receivers["bad.example"] = unwell
    stage.begin(trickle(stage, 600, "bad.example"))


async def receiver_hangs(stage: Stage) -> None:
    stage.receivers["bad.example"] = lambda: None
    stage.begin(trickle(stage, 20, "bad.example"))


async def receiver_hangs_beside_a_pause(stage: Stage) -> None:
    stage.begin(paused(stage, DAY))
    await receiver_hangs(stage)


async def receiver_gone(stage: Stage) -> None:
    stage.receivers["bad.example"] = gone
    await stage.register("bad.example")


async def egress_proxy_fails(stage: Stage) -> None:
    async def nobody(_: httpx.Request) -> NoReturn:
        raise ExchangeFailed("the proxy: Connection refused", "proxy_unreachable", sent=False)

    stage.patch(mock.patch.object(proxied, "ProxiedTransport", return_value=Pool(nobody)))
    stage.reload('[[receivers]]\nmatch = "https://behind.example"\nproxy = "http://proxy.example:3128"\n')
    stage.begin(trickle(stage, 60))
    stage.begin(trickle(stage, 20, "behind.example"))


async def certificate_ends(stage: Stage) -> None:
    ends_at = datetime.fromtimestamp(stage.clock.now() / 1000 + 7 * DAY + 20 * MINUTE, UTC)
    shown = trustme.CA().issue_cert("gateway.example", not_after=ends_at)
    certificate, key = stage.folder / "certificate.pem", stage.folder / "key.pem"
    shown.cert_chain_pems[0].write_to_path(certificate)
    shown.private_key_pem.write_to_path(key)
    files = f'client_cert_file = "{certificate}"\nclient_key_file = "{key}"\n'
    stage.reload(f'[[receivers]]\nmatch = "https://app.example"\n{files}')


async def events_fail(stage: Stage) -> None:
    stage.receivers["ops.example"] = unwell
    await receiver_gone(stage)


async def receiver_paused(stage: Stage) -> None:
    await paused(stage, DAY)


async def disk_full(stage: Stage) -> None:
    await stage.register(ends_after_s=HOUR)  # one is waited for when it begins
    stage.connection.broken = "database or disk is full"


async def disk_nearly_full(stage: Stage) -> None:
    usage = mock.Mock(free=5, total=100)
    stage.patch(mock.patch.object(building.shutil, "disk_usage", return_value=usage))


async def memory_held(stage: Stage) -> None:
    """A client sends the greater part of a large batch, and no more."""

    async def batch() -> AsyncIterator[bytes]:
        yield bytes(800_000)
        await asyncio.Event().wait()

    headers = {"content-type": "application/json"}
    stage.begin(stage.ask("POST", "/v1/callbacks/batch", headers=headers, content=batch()))


async def files_run_out(stage: Stage) -> None:
    stage.own["process_open_fds"] = 0.95 * stage.own["process_max_fds"]


async def log_lost(stage: Stage) -> None:
    """Whoever reads the log has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    sink = LogSink(writer)
    stage.patch(mock.patch.object(telemetry, "_sink", sink))
    for _ in range(3):
        sink.line(b"{}")
    assert sink.flush(SINK_S)
    os.close(writer)


async def restarts(stage: Stage) -> None:
    for _ in range(4):
        await stage.restart()
        await asyncio.sleep(5 * MINUTE)


async def loop_fails(stage: Stage) -> None:
    async def fail(*_: object) -> NoReturn:
        raise RuntimeError("a defect")

    stage.running.supervisor._loops[0].run_once = fail  # type: ignore[method-assign]


async def loop_hangs(stage: Stage) -> None:
    async def hang(*_: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    stage.running.supervisor._loops[-1].run_once = hang  # type: ignore[method-assign]


async def nobody_leads(stage: Stage) -> None:
    stage.deliverer._metrics.leading.labels(UPSTREAM).set(0)


async def stale_writes(stage: Stage) -> None:
    for late in range(40):
        stage.deliverer._metrics.stale_writes = lambda late=late: late  # type: ignore[misc]
        await asyncio.sleep(MINUTE)


async def lower_limit(stage: Stage) -> None:
    stage.upstream._limiters["recordInfo"] = KeyedLimiter(parse_windows("6/60"))
    stage.begin(trickle(stage, 20))


FAULTS: Mapping[str, Planted] = {
    "it is killed": Planted(killed, 30 * MINUTE, {"GatewayDown": 5}),
    "Prometheus does not know it": Planted(unknown, 30 * MINUTE, {"GatewayMetricsGone": 7}),
    "another program answers": Planted(another_answers, 30 * MINUTE, {"GatewayMetricsGone": 7}),
    "it restarts again and again": Planted(restarts, 30 * MINUTE, {"GatewayRestarts": 20}),
    "a loop fails": Planted(
        loop_fails,
        HOUR,
        {"GatewayLoopFails": 5, "GatewayNotReady": 5, "GatewayPollsLate": 25, "GatewayNoPollSucceeds": 35},
    ),
    "a loop hangs": Planted(loop_hangs, HOUR, {"GatewayNotReady": 5}),
    "the disk is full": Planted(
        disk_full, 20 * MINUTE, {"GatewayStoreFails": 5, "GatewayNotReady": 5, "GatewayPollsLate": 20}
    ),
    "the disk is nearly full": Planted(
        disk_nearly_full,
        HOUR,
        {"GatewayDiskNearlyFull": 12},
        by_hand="only root may mount a small disk; tests/integration/app/test_faults.py fills one",
    ),
    "memory is held": Planted(
        memory_held, HOUR, {"GatewayMemoryFull": 12}, environ={"GATEWAY_MEMORY_BYTES": "4000000"}
    ),
    "files run out": Planted(
        files_run_out,
        HOUR,
        {"GatewayFilesRunOut": 7},
        by_hand="the process is the test's own; tests/acceptance/test_faults.py takes a gateway's files away",
    ),
    "nobody reads the log": Planted(log_lost, 30 * MINUTE, {"GatewayLogLinesLost": 2}),
    "the key is refused": Planted(
        key_refused,
        HOUR,
        {"GatewayNotReady": 10, "GatewayUpstreamRefused": 10, "GatewayPollsLate": 25, "GatewayNoPollSucceeds": 35},
    ),
    "the upstream answers nonsense": Planted(
        nonsense, HOUR, {"GatewayUpstreamNonsense": 25, "GatewayNoPollSucceeds": 35}
    ),
    "the upstream gives no answer": Planted(no_answer, HOUR, {"GatewayNoPollSucceeds": 35}),
    "a crowd of tasks": Planted(
        a_crowd,
        HOUR,
        {"GatewayPollsLate": 20, "GatewayBudgetUsedUp": 25},
        environ={"GATEWAY_UPSTREAM_RATE": "2/1,6/60"},
    ),
    "a lower limit": Planted(lower_limit, HOUR, {"GatewayUpstreamLimited": 40}),
    "nobody leads": Planted(
        nobody_leads,
        HOUR,
        {"GatewayNobodyPolls": 5},
        by_hand="a PostgreSQL knows no virtual time; tests/integration/app/test_replicas.py has replicas on one",
    ),
    "writes are stale": Planted(
        stale_writes,
        HOUR,
        {"GatewayStaleWrites": 15},
        by_hand="a PostgreSQL knows no virtual time; tests/integration/app/test_replicas.py has replicas on one",
    ),
    "a receiver fails": Planted(receiver_fails, 90 * MINUTE, {"GatewayReceiverFails": 70}),
    "a receiver hangs": Planted(
        receiver_hangs,
        75 * MINUTE,
        {"GatewayWebhooksSlow": 25, "GatewayWebhooksLate": 30, "GatewayReceiverFails": 70},
    ),
    "a receiver hangs while another is paused": Planted(
        receiver_hangs_beside_a_pause,
        75 * MINUTE,
        {"GatewayWebhooksSlow": 25, "GatewayWebhooksLate": 30, "GatewayReceiverFails": 70},
    ),
    "a receiver says 410": Planted(receiver_gone, HOUR, {"GatewayCallbacksDead": 5}),
    "an egress proxy is down": Planted(
        egress_proxy_fails, HOUR, {"GatewayEgressProxyFails": 10, "GatewayWebhooksLate": 30, "GatewayWebhooksSlow": 50}
    ),
    "a client certificate ends": Planted(certificate_ends, HOUR, {"GatewayClientCertificateEnds": 22}),
    "nobody takes the events": Planted(
        events_fail,
        HOUR,
        {"GatewayCallbacksDead": 5, "GatewayEventsFail": 12},
        environ={"GATEWAY_EVENTS_URL": "https://ops.example/events"},
    ),
    "a receiver stays paused": Planted(receiver_paused, 12.5 * HOUR, {"GatewayReceiverPaused": 12 * 60 + 8}, 240),
}
