"""The gateway on PostgreSQL, as one process and as four replicas, beside the same gateway on SQLite in the same rounds.

The gateways share one core, however many they are; the server has the other one, with the load and the sides. Each
commit is on the disk. What is compared is processor time, which a noisy machine hardly changes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import deliveries
import lives
import polls
import prepare
import registrations
from databases import Databases, start_databases
from figures import Figure, Target, at_least, at_most, ratio
from gatewayprocess import GatewayProcess, start_gateway
from session import Session

REPLICAS = 4
HOW = "all threads of all the gateways' processes; registered in batches of 500"


@dataclass
class Cost:
    """One way of running it, by the round."""

    seconds: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    hot: list[float] = field(default_factory=list)
    """Updates that changed no index, for each webhook's one claim."""


def measure(session: Session) -> list[Figure]:
    with start_databases() as databases:
        return [*life(session, databases), *operations(session, databases)]


def life(session: Session, databases: Databases) -> list[Figure]:
    count = session.count(20_000, 3000)
    ours, one, four = [], Cost(), Cost()
    for _ in session.rounds("postgres, lives"):
        ours.append(lives.run(session, count, batched=True)[1] * 1000)
        for replicas, cost in ((1, one), (REPLICAS, four)):
            run(session, databases, count, replicas, cost)
    sqlite = Figure("postgres.life_sqlite", "CPU time of a life on SQLite", "µs", ours, how=HOW)
    alone = _of("postgres.life", "CPU time of a life on PostgreSQL", one.gateway_us)
    replicated = _of("postgres.life_four", f"the same with {REPLICAS} replicas", four.gateway_us)
    return [
        Figure("postgres.lives", "whole lives on PostgreSQL, batches of 500", "/s", one.seconds),
        sqlite,
        alone,
        ratio("postgres.life_ratio", "the same / on SQLite", alone, sqlite, at_most(1.0)),
        replicated,
        ratio("postgres.replicas_ratio", "the same / with one", replicated, alone, at_most(1.15)),
        _of("postgres.server", "CPU time of a life, PostgreSQL's own", one.server_us, at_most(150)),
        Figure("postgres.hot", "claims of webhooks that wrote no index", "%", one.hot, at_least(85)),
        _of("postgres.server_four", f"the same with {REPLICAS} replicas", four.server_us),
    ]


def run(session: Session, databases: Databases, count: int, replicas: int, cost: Cost) -> None:
    """Live so many lives on a new database, and add what they cost."""
    sides = session.sides
    name = databases.new()
    with start_replicas(session, replicas, database_url=databases.url(name)) as gateways:
        urls = [gateway.url for gateway in gateways]
        sides.reset()
        lives.live(urls, sides, "warm", lives.WARM_UP, batched=True)
        sides.reset()
        server_s, gateways_s = databases.cpu_s(), sum(gateway.cpu_s() for gateway in gateways)
        seconds = lives.live(urls, sides, "task", count, batched=True)
        gateways_s = sum(gateway.cpu_s() for gateway in gateways) - gateways_s
        server_s = databases.cpu_s() - server_s
    databases.must_be_delivered(name, lives.WARM_UP + count)
    hot = int(databases.ask(name, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'callbacks'"))
    databases.drop(name)
    cost.hot.append(hot / (lives.WARM_UP + count) * 100)
    cost.seconds.append(count / seconds)
    cost.gateway_us.append(gateways_s / count * 1e6)
    cost.server_us.append(server_s / count * 1e6)


def operations(session: Session, databases: Databases) -> list[Figure]:
    """Measure registrations, polls and deliveries, each alone."""
    upstream_url = session.sides.upstream_url
    backlog = session.count(20_000, 3000)
    singles, batches, asked, asked_us, delivered, delivered_us = ([] for _ in range(6))
    with session.folder() as folder:
        prepare.backlog(folder / "backlog", backlog, session.sides.receiver_urls[:1])
        prepared = databases.copied(folder / "backlog")
    for _ in session.rounds("postgres, operations", 3):
        name = databases.new()
        with (
            session.folder() as folder,
            start_gateway(
                folder, upstream_url=upstream_url, upstream_rate="1/60", database_url=databases.url(name)
            ) as gateway,
        ):
            for values, per_s in zip((singles, batches), registrations.run(session, gateway.url), strict=True):
                values.append(per_s)
        databases.drop(name)
        name = databases.new()
        per_s, cpu_ms = polls.run(session, session.count(10, 2), database_url=databases.url(name))
        asked.append(per_s)
        asked_us.append(cpu_ms * 1000)
        databases.drop(name)
        name = databases.new(prepared)
        with session.folder() as folder:
            per_s, cpu_s = deliveries.deliver(session, folder, backlog, database_url=databases.url(name))
        databases.must_be_delivered(name, backlog)
        delivered.append(per_s)
        delivered_us.append(cpu_s / backlog * 1e6)
        databases.drop(name)
    return [
        Figure("postgres.singles", "registrations one by one, on PostgreSQL", "/s", singles),
        Figure("postgres.batches", "registrations in batches of 500, on PostgreSQL", "/s", batches),
        Figure("postgres.polls", "polls of running tasks, on PostgreSQL", "/s", asked),
        _of("postgres.poll", "CPU time of a poll, on PostgreSQL", asked_us),
        Figure("postgres.deliveries", "webhooks from a backlog, on PostgreSQL", "/s", delivered),
        _of("postgres.delivery", "CPU time of a webhook, on PostgreSQL", delivered_us),
    ]


@contextmanager
def start_replicas(session: Session, count: int, **settings: str) -> Iterator[list[GatewayProcess]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                start_gateway(
                    stack.enter_context(session.folder()), upstream_url=session.sides.upstream_url, **settings
                )
            )
            for _ in range(count)
        ]


def _of(name: str, title: str, runs: list[float], target: Target | None = None) -> Figure:
    return Figure(name, title, "µs", runs, target, HOW)
