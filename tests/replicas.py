"""Several replicas without a database server: who leads, and small durable values, as ``Housekeeping`` has them."""

import asyncio
from collections import defaultdict

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.store import Standing

__all__ = ["Leads", "Replica"]


class Leads:
    """What all replicas share: the leads, and who lives."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.held: dict[str, tuple[str, int, float]] = {}  # by name: holder, epoch, until
        self.refused: set[str] = set()
        self.alive: dict[str, float] = {}
        self.values: dict[str, bytes] = {}
        self.replicas: list[Replica] = []
        self.history: defaultdict[str, list[tuple[float, str, int]]] = defaultdict(list)

    def leader(self, name: str) -> str | None:
        """Return who leads."""
        holder, _, until = self.held.get(name, ("", 0, 0.0))
        return holder if self.clock.monotonic() < until else None


class Replica:
    """What one replica asks of it."""

    shared = True

    def __init__(self, leads: Leads, name: str) -> None:
        self.name = name
        self.broken = False
        self.delay_s = 0.0
        self.freed = asyncio.Event()
        self._leads = leads
        leads.replicas.append(self)

    async def _asked(self) -> float:
        await asyncio.sleep(self.delay_s)
        if self.broken:
            raise StoreError("unreachable")
        return self._leads.clock.monotonic()

    async def lead(self, name: str, ttl_s: float, *, refused: bool = False) -> int | None:
        now = await self._asked()
        holder, epoch, until = self._leads.held.get(name, ("", 0, 0.0))
        if now < until and holder != self.name:
            return None
        if now >= until:
            epoch += 1
            self._leads.history[name].append((now, self.name, epoch))
        self._leads.held[name] = self.name, epoch, now + ttl_s
        (self._leads.refused.add if refused else self._leads.refused.discard)(name)
        return epoch

    async def resign(self, name: str) -> None:
        now = await self._asked()
        holder, epoch, _ = self._leads.held.get(name, ("", 0, 0.0))
        if holder == self.name:
            self._leads.held[name] = holder, epoch, now
            for other in self._leads.replicas:
                other.freed.set()

    async def standing(self, ttl_s: float) -> Standing:
        now = await self._asked()
        self._leads.alive[self.name] = now + ttl_s
        live = sum(until > now for until in self._leads.alive.values())
        led = frozenset(name for name, (_, _, until) in self._leads.held.items() if until > now)
        return Standing(live, led, led & self._leads.refused)

    async def load(self, key: str) -> bytes | None:
        await self._asked()
        return self._leads.values.get(key)

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        await self._asked()
        if self._leads.values.get(key) != old:
            return False
        self._leads.values[key] = new
        return True
