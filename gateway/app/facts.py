"""What the running loops know, in the words of the pages: the dashboard stands beside the loops and knows none of them.

Owns no facts, and asks nobody who would have to be waited for. Called by ``build``, which hands these to the pages.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

from gateway.app.gateway import FLAWS, Watch
from gateway.config.settings import Settings, written
from gateway.core.model import AttemptResult
from gateway.core.ratelimit import RateWindow
from gateway.core.telemetry import Metrics
from gateway.dashboard.facts import Counts, ModelFacts, Paused, ReceiverFacts, UpstreamFacts
from gateway.loops.deliverer import Deliverer
from gateway.loops.failing import Failures
from gateway.loops.pauses import Pauses
from gateway.upstream.distribution import Distribution

_MOST_MODELS = 64  # of an upstream: a distribution takes up to 2 ms where it has to be made anew


def upstreams(watches: Sequence[Watch], settings: Settings) -> list[UpstreamFacts]:
    """Return how each upstream is."""
    own = {one.name: one for one in settings.upstreams}
    return [_upstream(watch, own[watch.upstream.name].rate, own[watch.upstream.name].url) for watch in watches]


def _upstream(watch: Watch, rate: Sequence[RateWindow], url: str) -> UpstreamFacts:
    return UpstreamFacts(
        name=watch.upstream.name,
        profile=watch.upstream.profile.name,
        url=url,
        default=watch.default,
        polled_here=watch.poller.lease.lasts,
        polls_in_flight=watch.poller.in_flight,
        budget_used=watch.key.queries.used(),
        told_to_wait=watch.key.queries.told_to_wait,
        creates_used=watch.key.creates.used(),
        rate=" ".join(map(written, rate)),
        rate_per_s=watch.key.queries.rate_per_s,
        refusal=watch.key.refusal,
        flaws=tuple(f"it {words}" for words, holds in FLAWS if holds(watch)),
    )


def models(watches: Sequence[Watch], upstream: str | None = None, model: str | None = None) -> list[ModelFacts]:
    """Return how long each kind of task takes, by what was learned; those that were seen last come last."""
    found = []
    for watch in watches:
        if upstream not in (None, watch.upstream.name):
            continue
        for kind, name, seen, distribution in watch.timetable.learned(_MOST_MODELS, model):
            half_s, most_s = _within_s(distribution, 0.5), _within_s(distribution, 0.9)
            curve = distribution.ages_s, distribution.survival
            found.append(ModelFacts(watch.upstream.name, kind, name, seen, half_s, most_s, *curve))
    return found


def _within_s(distribution: Distribution, share: float) -> float:
    """Return the age by which such a share of the tasks have ended."""
    left = 1 - share
    if distribution.survival[-1] > left:  # exponential from there on
        return distribution.end_s * (1 + math.log(distribution.survival[-1] / left))
    at = bisect_left(distribution.survival, -left, key=lambda value: -value)
    return distribution.ages_s[at]


def receivers(deliverer: Deliverer, pauses: Pauses) -> list[ReceiverFacts]:
    """Return how each lane is doing that this process has sent webhooks on lately, and those that are paused."""
    failing = deliverer.failing.lanes
    known = dict.fromkeys((*failing, *pauses.lanes), (0, False))
    known |= {lane: (held, alone) for lane, held, alone in deliverer.lanes()}
    found = []
    for lane, (held, alone) in known.items():
        in_a_row, error = failing.get(lane, Failures(0, None))
        found.append(ReceiverFacts(*lane, held, alone, in_a_row, error, paused(pauses, *lane)))
    return found


def paused(pauses: Pauses, client: str, receiver: str, url: str | None = None) -> Paused | None:
    """Return since when and by whom a receiver, or one above it, is paused for a client; None: it is not."""
    found = pauses.of(client, receiver, url)
    return None if found is None else Paused(found.since, found.by, found.receiver)


def counts(metrics: Metrics, deliverer: Deliverer) -> Counts:
    """Return what this process has done."""
    done = {one.labels["result"]: int(one.value) for metric in metrics.attempts.collect() for one in metric.samples}
    delivered, retried, dead = (
        done[one.value] for one in (AttemptResult.DELIVERED, AttemptResult.RETRY, AttemptResult.DEAD)
    )
    abandoned = sum(
        int(one.value)
        for metric in metrics.abandoned.collect()
        for one in metric.samples
        if one.name.endswith("_total")
    )
    return Counts(delivered, retried, dead, abandoned, deliverer.in_flight)
