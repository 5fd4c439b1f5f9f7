"""What must hold in every world of replicas, whoever of them is paused, cut off, killed or restarted.

Owns the laws: at each poll and attempt, every second, and at the end over every change that a replica has made of a
row. They look at the world and the database, never at a gateway's memory.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx

from tests.simulation.replicas.cluster import Change
from tests.simulation.replicas.driver import Network
from tests.simulation.replicas.eventlaws import EventLaws
from tests.simulation.replicas.machines import Machine
from tests.simulation.replicas.world import Asked, Attempt, World
from tests.simulation.telling import Look

__all__ = ["WINDOWS", "Laws"]

WINDOWS = ((2, 1.0), (60, 60.0))
ATTEMPTS = 4
TAKE_OVER_S = 15.0
"""Within a lease and five seconds more another leads, who is well."""
SKEW_S = 0.002
BACK_S = 1.0
"""So soon after its way to the database is mended a replica has found that out."""
ROOM, MINUTE_S = 30, 60.0
"""So few requests in a minute leave a client's read room within the key's limit, at once."""
TYPES = {"success": "task.succeeded", "fail": "task.failed"}


class Laws:
    """The laws over one run."""

    def __init__(self, world: World, network: Network, machines: list[Machine]) -> None:
        self._world = world
        self._network = network
        self._machines = machines
        self.broken: AssertionError | None = None
        """The first law that was broken: inside a gateway, where it shows, it is only one more fault."""
        self.looks = 0
        world.at_poll = lambda asked: self._hold(lambda: self._polled(asked))
        world.at_attempt = lambda attempt: self._hold(lambda: self._attempted(attempt))
        self._events = EventLaws(world, self._excused)
        world.at_event = lambda attempt: self._hold(lambda: self._events.attempted(attempt))

    def _hold(self, law: Callable[[], None]) -> None:
        self.looks += 1
        try:
            law()
        except AssertionError as error:
            self.broken = self.broken or error

    def _machine(self, life: str) -> Machine:
        return self._machines[int(life.partition(".")[0])]

    def _excused(self, life: str, since_s: float) -> bool:
        return self._machine(life).had_trouble(life, since_s)

    # At once

    def _polled(self, asked: Asked) -> None:
        """Who leads polls, and nobody else; a task is asked about once at a time."""
        if asked.kind not in ("poll", "probe"):
            return
        now_s = self._world.time.now_s
        leads = [one for name, one in self._network.leads.items() if name.startswith("polls:")]
        assert leads, (asked, "is polled, and nobody leads")
        ((life, until_s),) = leads
        assert life == asked.life, (asked, life, "is polled, and another leads")
        assert now_s < until_s, (asked, until_s, "is polled by who leads no longer")
        for other in self._world.asked:
            if other.task_id == asked.task_id and other.kind == "poll" and other.ended_s is None:
                assert self._excused(other.life, other.begun_s), (asked, other, "is polled twice at once")

    def _attempted(self, attempt: Attempt) -> None:
        """Who has claimed it makes an attempt; another before it was answered, or is known, has a reason."""
        life, until = self._network.claims.get(attempt.webhook_id, ("", 0))
        assert life == attempt.life, (attempt, life, "is sent by who has not claimed it")
        assert self._world.now() < until, (attempt, until, "is sent by who has claimed it no longer")
        for other in self._world.attempts[attempt.webhook_id]:
            assert other.body == attempt.body, (attempt, other, "is another webhook under the same id")
            excused = self._excused(other.life, other.begun_s)
            assert other.ended_s is not None or excused, (attempt, other, "is sent twice at once")
            assert other.said != 204 or excused, (attempt, other, "is sent again for no reason")

    def every_second(self) -> None:
        """Whatever became of who led, another does before long."""
        self._hold(self._led)
        if self.broken is not None:
            raise self.broken

    def _led(self) -> None:
        now_s = self._world.time.now_s
        able = [one.well_since_s for one in self._machines if one.is_well]
        if able and min(able) < now_s - TAKE_OVER_S:
            led_s = self._network.led_s
            assert now_s < led_s + TAKE_OVER_S, (now_s, led_s, self._network.leads, "nobody leads")

    # To readers

    def told(self, look: Look, life: str, answer: httpx.Response) -> None:
        """Look at what a reader was told by one life of a replica."""
        truth = self._world.truth(look.task_id)
        excused = not self._may_ask(look, life)
        refused = answer.status_code == 503 and (
            not self._world.was_always_well or self._excused(life, look.begun_s - BACK_S)
        )
        telling = partial(self._world.telling.answer, look, answer, truth, excused=excused, refused=refused)
        # Who is in trouble may be unable to store what it was told: others know what the store has.
        self._hold(partial(telling, binds=not excused))

    def _may_ask(self, look: Look, life: str) -> bool:
        """Whether nothing stood in the way of asking the upstream anew: no trouble, and no rate limit."""
        if not self._world.was_always_well or self._excused(life, look.begun_s - MINUTE_S):
            return False
        asked = sum(one.begun_s > look.begun_s - MINUTE_S for one in self._world.asked)
        return asked < ROOM

    # At the end

    def at_the_end(self, promised: set[str], created: set[str], changes: list[Change], callbacks: list[Any]) -> None:
        """Nothing was lost, the key's limit was kept, and nobody has written what had become another's."""
        if self.broken is not None:
            raise self.broken
        rows = {row["id"]: row for row in callbacks}
        assert promised <= rows.keys(), (promised - rows.keys(), "a 201 for what is not stored")
        assert self._world.asked or not promised, "nobody has asked this world, so that it shows nothing"
        owed = {row["task_id"] for row in rows.values()}
        assert created <= owed, (created - owed, "was promised a webhook")
        for callback_id, row in rows.items():
            self._ended_well(row, self._world.attempts[callback_id])
        self._within_limits()
        self._world.paid.hold()
        self._owned(changes)
        self._events.at_the_end(changes, rows)

    def _ended_well(self, row: Any, attempts: list[Attempt]) -> None:
        if row["state"] == "delivered":
            assert any(one.said == 204 for one in attempts), (row["id"], attempts, "was delivered to nobody")
        else:
            assert row["state"] == "dead", row
            used = row["budget_used"] >= ATTEMPTS or any(one.status == 410 for one in attempts)
            assert used, (row["id"], row["budget_used"], attempts, "is dead too early")
            assert not any(one.status == 204 for one in attempts if not self._excused(one.life, one.begun_s)), attempts
        for one in attempts[:1]:
            told = json.loads(one.body)
            end, _ = self._world.scenario.tasks[int(row["task_id"].removeprefix("task-"))]
            word = told.get("type") or f"task.{told['data']['state']}"
            known = (TYPES.get(end, "task.abandoned"), "task.abandoned", f"task.{end}")
            assert word in known, (row["id"], end, word, "tells another end")

    def _within_limits(self) -> None:
        """As the upstream counts: what arrives, whoever sent it."""
        for kinds in (("poll", "probe", "read"), ("create",)):
            arrived = sorted((one.arrived_s, one.life, one.kind) for one in self._world.asked if one.kind in kinds)
            for limit, length_s in WINDOWS:
                for first, last in zip(arrived, arrived[limit:], strict=False):
                    within = last[0] - first[0] < length_s - SKEW_S
                    assert not within, (first, last, limit, length_s, "exceeds the key's limit")

    def _owned(self, changes: list[Change]) -> None:
        """A webhook is claimed when it is free, and changed by its owner; a task's end and polls are its leader's."""
        leader, owners = "", defaultdict[int, str](str)
        for change in changes:
            before, after = change.before, change.after
            if change.relation == "leads":
                leader = change.replica if after["name"].startswith("polls:") else leader
            elif change.relation == "attempts":
                owner = owners[after["callback_seq"]]
                assert change.replica == owner, (change, owner, "has recorded another's attempt")
            elif change.relation == "callbacks" and before is not None:
                if after["fence"] != before["fence"]:
                    assert before["claimed_until"] <= change.at, (change, "was claimed while it was another's")
                    owners[after["seq"]] = change.replica
                elif _is_the_owners(before, after):
                    owner = owners[after["seq"]]
                    assert change.replica == owner, (change, owner, "has changed another's webhook")
            elif change.relation == "tasks" and before is not None and _is_the_leaders(before, after):
                assert change.replica == leader, (change, leader, "has stored a poll, and another leads")


def _is_the_owners(before: dict[str, Any], after: dict[str, Any]) -> bool:
    names = ("attempts", "budget_used", "claimed_until", "delivered_at")
    return any(before[name] != after[name] for name in names)


def _is_the_leaders(before: dict[str, Any], after: dict[str, Any]) -> bool:
    ended = before["state"] == "waiting" != after["state"]
    polled = after["polls"] > before["polls"] and after["next_poll_at"] != before["next_poll_at"]  # a read has no next
    return ended or polled or after["failures"] > before["failures"]
