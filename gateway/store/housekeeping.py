"""What keeps a store small, and its small durable values; and the ports together, on one engine.

Owns the order in which writes are applied within a transaction. Each engine's store is made of it, and adds what opens,
closes and watches its database. Called through ``gateway.store.Housekeeping``. A claim ends once its write is
committed: a crash leaves nothing to repair.
"""

from collections.abc import Sequence

from gateway.store.copying import refuse_unfinished
from gateway.store.copying.tables import COPYING
from gateway.store.engine import Engine, Rows, Run, Work
from gateway.store.events import StoreEvents
from gateway.store.outbox import StoreOutbox
from gateway.store.registry import StoreRegistry
from gateway.store.tasks import StoreTasks
from gateway.store.writer import Writer
from gateway.store.writes import Kind


class StoreHousekeeping:
    """The part of ``gateway.store.Store`` that is the same on every engine."""

    def __init__(self, engine: Engine, first_attempt_delay_s: float) -> None:
        """Webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self._engine = engine
        self._sql = engine.sql
        self._createsql = engine.createsql
        self._kinds: list[Kind] = []
        self._writer = Writer(self._kinds, engine.transaction, engine.blame, engine.lock_all)
        delay_ms = round(first_attempt_delay_s * 1000)
        self.events = StoreEvents(engine, self._writer)
        self.outbox = StoreOutbox(engine, self._writer, self.events)
        self.tasks = StoreTasks(engine, self._writer, self.outbox, delay_ms)
        self.registry = StoreRegistry(engine, self._writer, self.tasks, self.outbox, delay_ms)
        self._prune = Kind("prune", self._apply_prune, apart=True)
        self._prune_creates = Kind("prune_creates", self._apply_prune_creates)
        self._swap = Kind("swap", self._apply_swap)
        self._probe = Kind("probe", self._apply_probe)
        # The order in which kinds are applied within one transaction: settling before registering means that a
        # callback which arrives with its task's end becomes pending at once.
        self._kinds += (
            self.tasks.settle_kind,
            self.registry.register_kind,
            self.registry.begin_create_kind,
            self.registry.end_create_kind,
            self.registry.lose_create_kind,
            self.registry.forget_create_kind,
            self.tasks.reschedule_kind,
            self.tasks.poll_now_kind,
            self.tasks.watches.watch_kind,
            self.tasks.watches.poll_again_kind,
            self.outbox.record_kind,
            self.outbox.hand_over_kind,
            self.registry.cancel_kind,
            self.registry.redeliver_kind,
            self.registry.redeliver_dead_kind,
            self.tasks.watches.unwatch_kind,  # after whoever prolongs
            self._prune,
            self.tasks.watches.prune_kind,
            self._prune_creates,
            self.events.change_kind,
            self._swap,
            self._probe,
        )

    async def _open_ports(self) -> None:
        """Find out what is due, and write from now on: the database is open.

        Raises StoreError, and StoreUnusable for a copy that is not finished.
        """
        refuse_unfinished(await self.load(COPYING))
        await self.outbox.open()
        await self.tasks.open()
        self._writer.start()

    @property
    def stale_writes(self) -> int:
        return self.tasks.stale_writes + self.outbox.stale_writes

    async def load(self, key: str) -> bytes | None:
        found = await self._engine.read(self._sql.SELECT_META, (key,))
        return bytes(found[0][0]) if found else None

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        swapped: bool = await self._writer.submit(self._swap, (key, old, new))
        return swapped

    def _apply_swap(self, items: Sequence[tuple[str, bytes | None, bytes]]) -> Work[list[bool]]:
        sql = self._sql
        swapped = [False] * len(items)
        # In one order: else two replicas that swap several might wait for one another.
        for place, (key, old, new) in sorted(enumerate(items), key=lambda item: item[1][0]):
            step = Run(sql.INSERT_META, (key, new)) if old is None else Run(sql.SWAP_META, (new, key, old))
            swapped[place] = (yield step).count > 0
        return swapped

    async def probe(self) -> None:
        await self._writer.submit(self._probe, None)

    def _apply_probe(self, _: object) -> Work[None]:
        yield Run(self._sql.PROBE)

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        count: int = await self._writer.submit(
            self._prune, {"ended_before": ended_before, "dead_before": dead_before, "limit": limit}
        )
        return count

    def _apply_prune(self, items: Sequence[dict[str, int]]) -> Work[list[int]]:
        counts = []
        for item in items:
            task_seqs = (yield Run(self._sql.PRUNE_CALLBACKS, item)).rows
            if task_seqs:
                yield from self._engine.lock([seq for (seq,) in task_seqs])
                yield Rows(self._sql.PRUNE_TASKS, task_seqs)
            counts.append(len(task_seqs))
        return counts

    async def prune_reads(self, now: int, read_before: int, limit: int) -> int:
        return await self.tasks.watches.prune(now, read_before, limit)

    async def prune_creates(self, before: int, most: int, limit: int) -> int:
        count: int = await self._writer.submit(self._prune_creates, (before, most, limit))
        return count

    def _apply_prune_creates(self, items: Sequence[tuple[int, int, int]]) -> Work[list[int]]:
        createsql = self._createsql
        counts = []
        for before, most, limit in items:
            left = limit - (yield Run(createsql.PRUNE_CREATES, (before, limit))).count
            for (client,) in (yield Run(createsql.SELECT_CREATORS)).rows:
                about = {"client": client, "most": most, "limit": left}
                left -= (yield Run(createsql.PRUNE_EXCESS_CREATES, about)).count
            counts.append(limit - left)
        return counts
