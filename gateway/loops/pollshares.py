"""Which of the due tasks are polled next: each client has its share of the places and of the budget.

Owns the turns, the shares, and the order in which a client's tasks come where the budget is short; decides from facts
that it asks the task queue for, one upstream's, and claims there what it has chosen. Called by the poller.

Where more is due than may be polled, the groups that watch have a share each, in turns; what one does not need goes to
the others. A group may have one more place while its claimed tasks are fewer than the free ones (as in ``bulkhead``):
it has half of all alone, and leaves some to whoever comes.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from gateway.core.claims import DueGroup, DueTask
from gateway.store import TaskQueue
from gateway.upstream.turns import Rotation

Rank = Callable[[DueTask], float]
"""How urgent a task is."""

_CANDIDATES = 1000  # due tasks that are ranked, where more are due than may be polled
_ORDER_MS = 1000  # for how long an order holds: the tasks in it have been due for longer than it matters


def least_failed(task: DueTask) -> float:
    """Rank those first that have failed the fewest times in a row."""
    return -task.failures


class PollShares:
    """Who has which part of the polls of one upstream."""

    def __init__(self, tasks: TaskQueue, upstream: str) -> None:
        self._tasks = tasks
        self._upstream = upstream
        self._rotation = Rotation()
        self._orders: dict[str, _Order] = {}  # by who watches
        self._next_due_at: int | None = None
        self.aside: dict[int, str] = {}
        """Tasks that are claimed and in no poll's place any more, and who watches them."""

    async def claim(
        self, now: int, limit: int, places: int, rank: Rank | None = None
    ) -> tuple[list[DueTask], int | None]:
        """Claim due tasks; also return when the next unclaimed one that may be claimed by then will be due.

        ``places``: how many polls have a place left, which ``limit`` may be less than. Of each group's tasks those with
        the highest rank come first (of the 1,000 that have been due the longest), without ``rank`` the longest due.
        While places are left, those that wait for one of their own group's are not counted as due. Raises StoreError.
        """
        self._next_due_at = None  # what falls due meanwhile is news, whenever it does
        due, next_due_at = await self._tasks.waiting(self._upstream, now)
        claims: list[DueTask] = []
        aside = Counter(self.aside.values())
        groups = {group.watchers: _GroupNow(group, aside[group.watchers]) for group in due}
        self._orders = {name: order for name, order in self._orders.items() if name in groups}

        def room(group: _GroupNow) -> int:
            """Return how many more of this group's may be claimed, one after the other."""
            return max(0, (places - len(claims) - group.claimed + 1) // 2)

        names = self._rotation.order(name for name, group in groups.items() if room(group) or not limit)
        try:
            while names:
                share = max(1, (limit - len(claims)) // len(names))
                for name in names:
                    group = groups[name]
                    group_room = room(group)
                    wanted = min(share, limit - len(claims), group_room)
                    if limit and not wanted:
                        continue  # where none may be claimed they are looked at: when the next is due is to be told
                    # What only waits for a place of its own group's has nothing to be urgent for.
                    found = await self._take(name, group, now, wanted, rank if wanted < group_room else None)
                    claims += found
                    if found:
                        self._rotation.served(name)
                more = len(claims) < limit
                names = [name for name in names if more and groups[name].is_due(now) and room(groups[name])]
        except BaseException:
            await self._tasks.release(claims)
            raise
        waiting = [group.due_at for group in groups.values() if not limit or places <= len(claims) or room(group)]
        self._next_due_at = _earliest([next_due_at, *waiting])
        return claims, self._next_due_at

    async def claim_new(self, since: int, now: int) -> list[DueTask]:
        """Claim one task that was registered since then and never polled, of the group whose turn it is."""
        found = {task.watchers: task for task in await self._tasks.never_polled(self._upstream, since, now)}
        if not found:
            return []
        name = self._rotation.order(found)[0]
        self._rotation.served(name)
        self._orders.pop(name, None)
        return await self._tasks.claim([found[name]])

    def is_news(self, due_at: int) -> bool:
        """Whether a task that is due then is so earlier than ``claim`` has told."""
        return self._next_due_at is None or due_at < self._next_due_at

    async def _take(self, name: str, group: "_GroupNow", now: int, limit: int, rank: Rank | None) -> list[DueTask]:
        order = self._orders.get(name)
        if rank is None or order is None or not order.serves(now, limit):
            self._orders.pop(name, None)
            most = limit if rank is None else _CANDIDATES
            tasks, group.due_at = await self._tasks.longest_due(self._upstream, name, now, most)
            if rank is not None and len(tasks) > limit:
                group.due_at = tasks[0].due_at
                order = self._orders[name] = _Order(tasks, rank, now)
                tasks = order.take(limit)
        else:
            tasks = order.take(limit)
        # An order may be out of date: somebody else may have claimed a task of it, for whom it is by now.
        taken = await self._tasks.claim(tasks)
        group.claimed += len(taken)
        return taken


class _GroupNow:
    """What has become of a group since it was looked at."""

    def __init__(self, group: DueGroup, aside: int) -> None:
        """``aside``: of its claimed tasks these have no place."""
        self.claimed = max(0, group.claimed - aside)
        self.due_at: int | None = group.due_at

    def is_due(self, now: int) -> bool:
        return self.due_at is not None and self.due_at <= now


class _Order:
    """Due tasks in the order in which a short budget polls them; made anew every second, as it takes milliseconds."""

    def __init__(self, due: list[DueTask], rank: Rank, now: int) -> None:
        self._due = sorted(due, key=rank)  # the most urgent last
        self._made_at = now

    def serves(self, now: int, limit: int) -> bool:
        return 0 <= now - self._made_at < _ORDER_MS and len(self._due) > limit

    def take(self, limit: int) -> list[DueTask]:
        if limit == 0:
            return []
        taken = self._due[-limit:]
        del self._due[-limit:]
        taken.reverse()
        return taken


def _earliest(instants: Iterable[int | None]) -> int | None:
    return min((at for at in instants if at is not None), default=None)
