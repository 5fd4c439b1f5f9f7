"""The budget of bytes: who gets room, who waits, and that nobody waits for ever."""

import asyncio
import gc
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.core.memory import Memory


class Holder:
    """An asyncio task that asks for room, again where it is told to, and holds it until it is told to end."""

    def __init__(self, memory: Memory, size: int, *owner: str) -> None:
        self._memory = memory
        self._owner = owner or (f"owner of {id(self)}",)
        self._asks: asyncio.Queue[int | None] = asyncio.Queue()
        self.holds = 0
        self._asks.put_nowait(size)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while (size := await self._asks.get()) is not None:
            if size < 0:
                self._memory.keep(-size)
                self.holds = min(self.holds, -size)
                continue
            await self._memory.hold(size, *self._owner)
            self.holds = size

    async def ask(self, size: int) -> None:
        self._asks.put_nowait(size)
        await turns()

    async def keep(self, size: int) -> None:
        await self.ask(-size)

    async def end(self) -> None:
        self._asks.put_nowait(None)
        await self.task
        await turns()


async def turns() -> None:
    """Let everybody do what they can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def started(*holders: Holder) -> list[int]:
    await turns()
    return [holder.holds for holder in holders]


async def test_what_fits_is_given_and_the_rest_waits_in_its_order() -> None:
    """A small one does not pass a large one that came before it, or large ones would wait for ever."""
    memory = Memory(100)
    first, large, small = Holder(memory, 60), Holder(memory, 50), Holder(memory, 5)
    assert await started(first, large, small) == [60, 0, 0]
    await first.end()
    assert (large.holds, small.holds) == (50, 5)
    await large.end()
    await small.end()


async def test_what_is_larger_than_all_of_it_comes_alone() -> None:
    """It waits until nobody holds anything, and then nobody gets anything beside it."""
    memory = Memory(100)
    first, huge, last = Holder(memory, 10), Holder(memory, 1000), Holder(memory, 10)
    assert await started(first, huge, last) == [10, 0, 0]
    await first.end()
    assert (huge.holds, last.holds) == (1000, 0)
    await huge.end()
    assert last.holds == 10
    await last.end()


async def test_those_who_all_want_more_go_on_one_after_another() -> None:
    """Each holds a part and waits for the rest, as no sum can tell beforehand: the first one gets it all the same."""
    memory = Memory(100)
    holders = [Holder(memory, 40), Holder(memory, 40)]
    newcomer = Holder(memory, 30)
    assert await started(*holders, newcomer) == [40, 40, 0]
    for holder in holders:
        await holder.ask(80)
    # The newcomer came first, and holds nothing; it is given its room because nobody else can go on.
    assert [holder.holds for holder in (newcomer, *holders)] == [30, 40, 40]
    await newcomer.end()
    assert [holder.holds for holder in holders] == [80, 40]
    await holders[0].end()
    assert holders[1].holds == 80
    await holders[1].end()


async def test_what_is_given_beyond_a_part_goes_to_one_until_its_end() -> None:
    """Many that ask for more again and again, as bodies that are read do, do not grow together beyond the limit.

    Nor do they beside another's that goes on for long.
    """
    for others in (0, 1):
        memory = Memory(100)
        slow = [Holder(memory, 30, "slow") for _ in range(others)]
        reading = [Holder(memory, 10, "me") for _ in range(20)]
        await turns()
        for size in range(20, 60, 10):
            for holder in reading:
                await holder.ask(size)
        held = [holder.holds for holder in reading]
        assert sum(held) <= 50 + 50 - 10, held
        for holder in (*slow, *reading):
            await holder.end()
        assert [holder.holds for holder in reading] == [50] * len(reading)


async def test_asking_for_what_is_held_already_never_waits() -> None:
    """A holder asks for a total, and gives nothing back before its end."""
    memory = Memory(100)
    one = Holder(memory, 90)
    other = Holder(memory, 90)
    await turns()
    await one.ask(20)
    assert (one.holds, other.holds) == (20, 0)
    await one.end()
    assert other.holds == 90
    await other.end()


async def test_what_is_wanted_now_is_given_now_or_not_at_all() -> None:
    """Nobody who waits is passed by it, and who is refused holds nothing, waits for nothing and may wait then."""
    memory = Memory(80)

    async def ask(*sizes: int) -> list[bool]:
        return [memory.hold_now(size, "client ann", "requests") for size in sizes]

    assert await asyncio.create_task(ask(40)) == [True]  # three eighths of it are a client's, but for one alone
    await turns()
    assert memory.used == 0
    slow = Holder(memory, 60, "client bob", "requests")
    waiting = Holder(memory, 30, "client cem", "requests")
    assert await started(slow, waiting) == [60, 0]
    assert await asyncio.create_task(ask(10)) == [False]
    assert memory.used == 60 / 80
    await slow.end()
    assert await started(waiting) == [30]
    assert await asyncio.create_task(ask(60, 20)) == [False, True]
    await waiting.end()
    assert memory.used == 0


async def test_who_holds_something_gets_nothing_more_at_once() -> None:
    """Else others would get more than there is, as if it went on only once it had more."""
    memory = Memory(100)
    waiting: list[Holder] = []

    async def ask() -> list[bool]:
        first = memory.hold_now(60, "client ann", "requests")
        waiting.append(Holder(memory, 90, "client bob", "requests"))
        await turns()
        return [first, memory.hold_now(70, "client ann", "requests"), memory.hold_now(50, "client ann", "requests")]

    asking = asyncio.create_task(ask())
    assert await asking == [True, False, True]
    assert await started(*waiting) == [90]  # now that the other one has ended
    assert memory.used == 0.9
    await waiting[0].end()


async def test_what_is_given_back_before_the_end_is_for_others() -> None:
    """Clients that are slow with their answers hold these, and not what they were made of."""
    memory = Memory(100)
    slow = [Holder(memory, 50, client) for client in ("eve", "mallory")]
    waits = Holder(memory, 30)
    assert await started(*slow, waits) == [50, 50, 0]
    await slow[0].keep(15)
    assert waits.holds == 30
    await slow[0].keep(70)  # more than it has
    assert memory._held[("eve",)] == memory._busy[("eve",)] == 15
    await slow[0].ask(40)
    assert slow[0].holds == 15
    await slow[1].keep(20)
    assert slow[0].holds == 40
    for holder in (*slow, waits):
        await holder.end()
    assert not memory._held


async def test_one_owner_has_half_of_it_while_others_wait() -> None:
    """A receiver that hangs with large webhooks, or a client that does not read, leaves room for everybody else."""
    memory = Memory(100)
    slow = [Holder(memory, 20, "slow") for _ in range(4)]
    other = Holder(memory, 40, "other")
    assert await started(*slow, other) == [20, 20, 0, 0, 40]
    await slow[0].end()
    assert [holder.holds for holder in slow] == [20, 20, 20, 0]
    for holder in (*slow[1:], other):
        await holder.end()
    assert slow[3].holds == 20


async def test_whoever_waits_for_its_own_owner_alone_holds_up_nobody_else() -> None:
    """There is no room for it beside another one of its owner's; for others there is."""
    memory = Memory(100)
    slow, other = Holder(memory, 50, "slow"), Holder(memory, 45, "other")
    waits, small = Holder(memory, 10, "slow"), Holder(memory, 5, "third")
    assert await started(slow, other, waits, small) == [50, 45, 0, 5]
    for holder in (other, small, slow, waits):
        await holder.end()


@pytest.mark.parametrize("count", [1, 2])
async def test_an_owner_of_whom_nobody_goes_on_has_more_than_half(count: int) -> None:
    """However many small ones of others come and go meanwhile: what it has begun is not passed for ever."""
    memory = Memory(100)
    mine = [Holder(memory, 20, "me") for _ in range(count)]
    before = Holder(memory, 5)
    assert await started(*mine, before) == [20] * count + [5]
    for holder in mine:
        await holder.ask(70)
    after = Holder(memory, 40)  # there is no room beside what came first
    await turns()
    await before.end()
    assert (mine[0].holds, after.holds) == (70, 0)
    for holder in (*mine, after):
        await holder.end()


async def test_whoever_waits_for_another_task_does_not_keep_it_from_its_room() -> None:
    """Else each would wait for the other; nobody else gets more than there is meanwhile."""
    memory = Memory(100)
    goes_on = asyncio.Event()

    async def waits() -> None:
        await memory.hold(90, "it")
        with memory.waiting():
            await goes_on.wait()
        await goes_on.wait()

    first = asyncio.create_task(waits())
    await turns()
    work, last = Holder(memory, 60, "its work"), Holder(memory, 60)
    assert await started(work, last) == [60, 0]
    goes_on.set()
    await first
    await work.end()
    assert last.holds == 60
    await last.end()


async def test_whoever_holds_nothing_may_wait_for_another_task() -> None:
    """Most requests are small."""
    memory = Memory(100)
    with memory.waiting():
        other = Holder(memory, 100)
        assert await started(other) == [100]
    await other.end()


async def test_what_wants_more_than_half_has_it_once_its_owner_has_nothing_else_under_way() -> None:
    """However long others hold something: a large answer is read beside another upstream that is slow for ever."""
    memory = Memory(100)
    slow = Holder(memory, 1, "slow")
    large, beside = Holder(memory, 20, "good"), Holder(memory, 20, "good")
    assert await started(slow, large, beside) == [1, 20, 20]
    await large.ask(70)
    await beside.ask(70)
    assert (large.holds, beside.holds) == (70, 20)
    await large.end()
    assert beside.holds == 70
    await beside.end()
    await slow.end()


async def test_one_owners_small_ones_do_not_pass_its_large_one() -> None:
    """Else a receiver's large webhook would wait for as long as smaller ones come."""
    memory = Memory(100)
    first, large, small = (Holder(memory, size, "its") for size in (10, 60, 10))
    assert await started(first, large, small) == [10, 0, 0]
    await first.end()
    assert (large.holds, small.holds) == (60, 0)
    await large.end()
    assert small.holds == 10
    await small.end()


async def test_one_owners_second_does_not_hold_up_others_while_its_first_is_slow() -> None:
    """What is too much for one owner is no reason for others to wait until all of it is free."""
    memory = Memory(100)
    slow = [Holder(memory, 45, "slow"), Holder(memory, 60, "slow")]
    other = Holder(memory, 10, "other")
    assert await started(*slow, other) == [45, 0, 10]
    for holder in (slow[0], other, slow[1]):
        await holder.end()


async def test_owners_take_turns_however_many_of_one_wait() -> None:
    """An upstream that announces much in each of its answers, and sends little, has every other turn at most."""
    memory = Memory(100)
    slow = [Holder(memory, 100, "slow") for _ in range(4)]
    others = [Holder(memory, 10, "other"), Holder(memory, 10, "another")]
    assert await started(*slow, *others) == [100, 0, 0, 0, 0, 0]
    await slow[0].end()
    assert await started(*slow[1:], *others) == [100, 0, 0, 0, 0]  # it came before them
    await slow[1].end()
    assert await started(*slow[2:], *others) == [0, 0, 10, 10]
    late = Holder(memory, 10, "late")
    for holder in others:
        await holder.end()
    assert await started(*slow[2:], late) == [100, 0, 0]  # newcomers do not hold it up for ever either
    await slow[2].end()
    assert await started(slow[3], late) == [0, 10]
    await late.end()
    await slow[3].end()


def webhook(memory: Memory, size: int, client: str, receiver: str) -> Holder:
    return Holder(memory, size, client, "webhooks", receiver)


async def in_turn(*holders: Holder) -> list[int]:
    """End each that is given its room, of which there is enough for one; return their order."""
    order: list[int] = []
    while len(order) < len(holders):
        (at,) = (at for at, holder in enumerate(holders) if holder.holds and at not in order)
        order.append(at)
        await holders[at].end()
    return order


async def test_clients_take_turns_however_many_receivers_of_one_wait() -> None:
    """Another client's webhook is the next but one, and not behind a whole crowd that hangs."""
    memory = Memory(100)
    crowd = [webhook(memory, 100, "ann", f"receiver {number}") for number in range(4)]
    other = webhook(memory, 100, "bob", "receiver 0")
    await turns()
    assert await in_turn(*crowd, other) == [0, 1, 4, 2, 3]


async def test_within_a_client_its_requests_and_its_receivers_take_turns() -> None:
    """A crowd of receivers does not hold up its client's requests, nor one receiver the others."""
    memory = Memory(100)
    first = Holder(memory, 100)
    one, another = ([webhook(memory, 100, "ann", receiver) for _ in range(2)] for receiver in ("one", "another"))
    requests = [Holder(memory, 100, "ann", "requests") for _ in range(2)]
    await turns()
    assert await in_turn(first, *one, *another, *requests) == [0, 1, 5, 3, 6, 2, 4]


async def test_a_clients_receivers_together_leave_room_for_its_requests_and_for_others() -> None:
    """However many of them hang: three eighths for them, and half for all of a client."""
    memory = Memory(80)
    crowd = [webhook(memory, 10, "ann", f"receiver {number}") for number in range(6)]
    requests = [Holder(memory, 10, "ann", "requests") for _ in range(2)]
    other = webhook(memory, 40, "bob", "receiver 0")
    assert await started(*crowd, *requests, other) == [10, 10, 10, 0, 0, 0, 10, 0, 40]
    for holder in (*crowd[:3], requests[0], other, *crowd[3:], requests[1]):
        await holder.end()


async def test_one_receiver_leaves_room_for_its_clients_others() -> None:
    """It has a quarter at most."""
    memory = Memory(80)
    slow = [webhook(memory, 10, "ann", "slow") for _ in range(3)]
    other = webhook(memory, 10, "ann", "other")
    assert await started(*slow, other) == [10, 10, 0, 10]
    for holder in (*slow, other):
        await holder.end()


async def test_a_clients_large_one_is_not_passed_by_its_own_small_ones() -> None:
    """It wants more than its client's part: its client's others wait for it, and nobody else does."""
    memory = Memory(100)
    slow = webhook(memory, 10, "ann", "slow")
    large, small = webhook(memory, 60, "ann", "large"), webhook(memory, 5, "ann", "small")
    request = Holder(memory, 5, "ann", "requests")
    other = webhook(memory, 20, "bob", "receiver")
    assert await started(slow, large, small, request, other) == [10, 0, 0, 5, 20]
    await slow.end()
    assert large.holds == 0
    again = Holder(memory, 5, "ann", "requests")
    assert await started(again) == [0]
    await request.end()
    assert (large.holds, small.holds, again.holds) == (60, 0, 0)
    await large.end()
    assert (small.holds, again.holds) == (5, 5)
    for holder in (small, again, other):
        await holder.end()


async def test_whoever_is_cancelled_takes_no_turn_from_its_clients_others() -> None:
    """It had none; and nothing is left of it."""
    memory = Memory(100)
    first = Holder(memory, 100)
    gone, mine = (webhook(memory, 100, "ann", receiver) for receiver in ("one", "another"))
    other = webhook(memory, 100, "bob", "receiver")
    assert await started(first, gone, mine, other) == [100, 0, 0, 0]
    gone.task.cancel()
    await turns()
    assert await in_turn(first, mine, other) == [0, 1, 2]
    assert [memory._waiting, memory._held, memory._busy, memory._holders] == [{}] * 4


async def test_whoever_is_cancelled_gives_back_what_it_held_and_its_place() -> None:
    """Cancelled while it waits, and while it holds."""
    memory = Memory(100)
    first, waits, last = Holder(memory, 60), Holder(memory, 70), Holder(memory, 40)
    assert await started(first, waits, last) == [60, 0, 0]
    waits.task.cancel()
    assert await started(last) == [40]
    first.task.cancel()
    again = Holder(memory, 60)
    assert await started(again) == [60]
    await last.end()
    await again.end()


async def test_a_defect_gives_back_too() -> None:
    """Whoever fails with what it was given."""
    memory = Memory(100)

    async def fails() -> None:
        await memory.hold(100, "it")
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        await asyncio.create_task(fails())
    other = Holder(memory, 100)
    assert await started(other) == [100]
    await other.end()


async def test_large_work_is_done_one_after_another_and_beside_the_loop() -> None:
    """Two of them never take their memory at once, and neither holds up the loop."""
    memory = Memory(100)
    running: list[str] = []
    loop = asyncio.get_running_loop()
    turned: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]

    def work(number: int) -> list[str]:
        running.append(f"{number} begins")
        asyncio.run_coroutine_threadsafe(_set(turned[number]), loop).result(30)  # the loop runs meanwhile
        running.append(f"{number} ends")
        return [*running]

    try:
        await asyncio.gather(memory.work(work, 0), memory.work(work, 1))
        assert running == ["0 begins", "0 ends", "1 begins", "1 ends"]
    finally:
        memory.close()


async def test_large_work_holds_up_the_loop_as_little_as_can_be() -> None:
    """What it makes is no garbage, and looking for some would stop the loop, which has its turns soon."""
    memory = Memory(100)

    def beside() -> tuple[bool, bool]:
        return gc.isenabled(), sys.getswitchinterval() < usual_s / 2

    def fail() -> None:
        assert beside() == (False, True)
        raise ValueError("it")

    usual_s = sys.getswitchinterval()
    try:
        assert await memory.work(beside) == (False, True)
        assert beside() == (True, False)
        with pytest.raises(ValueError, match=r"^it$"):
            await memory.work(fail)
        assert beside() == (True, False)
    finally:
        memory.close()


@pytest.mark.parametrize("fails", [False, True])
async def test_whoever_is_cancelled_keeps_its_room_until_the_thread_is_done(*, fails: bool) -> None:
    """The thread cannot be stopped: what it works on takes as much memory as before."""
    memory = Memory(100)
    began, go_on = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go_on.wait(30)
        assert not fails

    async def worker() -> None:
        await memory.hold(100, "it")
        await memory.work(work)

    try:
        task = asyncio.create_task(worker())
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        await asyncio.wait([task])
        other = Holder(memory, 10)
        assert await started(other) == [0]
        go_on.set()
        async with asyncio.timeout(30):
            while not other.holds:
                await turns()
        assert task.cancelled()
        await other.end()
        assert not memory._held
    finally:
        go_on.set()
        memory.close()


async def test_work_that_never_began_keeps_nothing() -> None:
    """Whoever was cancelled before the thread came to it."""
    memory = Memory(100)
    began, go_on = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go_on.wait(30)

    async def worker(size: int) -> None:
        await memory.hold(size, f"owner of {size}")
        await memory.work(work)

    try:
        first = asyncio.create_task(worker(40))
        await asyncio.to_thread(began.wait, 30)
        behind = asyncio.create_task(worker(60))
        await turns()
        behind.cancel()
        other = Holder(memory, 60)
        assert await started(other) == [60]
        go_on.set()
        await first
        await other.end()
    finally:
        go_on.set()
        memory.close()


def _set(event: asyncio.Event) -> Coroutine[Any, Any, None]:
    async def set_it() -> None:
        event.set()

    return set_it()
