"""Many webhooks at once: how many are under way, and who waits for whom. In virtual time."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.claims import Lane
from gateway.loops.supervisor import Supervisor
from gateway.store.sqlite import webhookclaims
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.sender import Found, Sender
from tests.delivering import Receiver, new_life, owed, unused
from tests.lanes import lane, webhook, well
from tests.life import Life, ScriptedUpstream, Transport, until
from tests.virtualtime import VirtualClock, run_virtual


async def known(life: Life, receiver: Receiver, *lanes: Lane) -> None:
    """Let each receiver take a webhook, so that it is known to be well."""
    takes_s, receiver.takes_s = receiver.takes_s, 0.0
    for client, url in lanes:
        await owed(life, url=url, client=client)
    await until(lambda: len(receiver.times) == len(lanes) and life.claims == 0, step_s=0.001)
    receiver.takes_s = takes_s
    receiver.times.clear()
    receiver.ids.clear()
    receiver.most = 0


def test_at_most_so_many_at_a_time(tmp_path: Path) -> None:
    """A crowd is sent 128 at a time, each once, as fast as places come free."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=1.0)
        life = await new_life(tmp_path / "db", receiver).start()
        await known(life, receiver, Lane("", "https://app.example/hook"))
        await owed(life, 1000)
        await until(lambda: len(receiver.times) == 1000 and life.claims == 0, limit_s=60)
        assert receiver.most == 128
        assert len(set(receiver.ids)) == 1000
        assert VirtualClock().monotonic() < 8.5
        await life.stop()

    run_virtual(main())


def test_a_full_house_waits_for_a_place(tmp_path: Path) -> None:
    """While there is no room the loop sleeps."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(200), takes_s=14.0)
        life = new_life(tmp_path / "db", receiver)
        rounds = 0
        once = life.deliverer.run_once

        async def counted() -> float:
            nonlocal rounds
            rounds += 1
            return await once()

        life.deliverer.run_once = counted  # type: ignore[method-assign]
        await life.start()
        await known(life, receiver, Lane("", "https://app.example/hook"))
        await owed(life, 300)
        await asyncio.sleep(1)
        assert receiver.running == 128
        rounds = 0
        await asyncio.sleep(12)
        assert rounds <= 3
        await life.stop()

    run_virtual(main())


def test_a_house_full_of_hanging_receivers_waits_for_a_place(tmp_path: Path) -> None:
    """With not one place left the loop asks for nothing; what ends makes room for what waits."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=14.0)
        life = await new_life(tmp_path / "db", receiver).start()
        # Each finds half of what the ones before have left.
        lanes = [Lane(f"client-{number}", f"https://slow-{number}.example/hook") for number in range(16)]
        await known(life, receiver, *lanes)
        for client, url in lanes:
            await owed(life, 256, url=url, client=client)
        await asyncio.sleep(1)
        assert receiver.running == 256
        claim, asked = life.store.outbox.claim, 0

        async def counted(*args: Any) -> Any:
            nonlocal asked
            asked += 1
            return await claim(*args)

        life.store.outbox.claim = counted  # type: ignore[method-assign]
        await life.register("t", url="https://other.example/hook")
        life.store.outbox.due.set()
        await asyncio.sleep(12)
        assert asked == 0
        await asyncio.sleep(2)
        assert len(receiver.times) > 256
        await life.stop(0)

    run_virtual(main())


def test_what_comes_to_a_full_house_that_nobody_waits_for_has_the_first_place(tmp_path: Path) -> None:
    """The last claim has left nobody waiting; a webhook that falls due afterwards does not wait for a heartbeat."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=3.0)
        life = await new_life(tmp_path / "db", receiver).start()
        *lanes, last = [Lane(f"client-{number}", f"https://app-{number}.example/hook") for number in range(257)]
        await known(life, receiver, *lanes, last)
        for client, url in lanes:
            await owed(life, url=url, client=client)
        await until(lambda: receiver.running == 256, step_s=0.01)
        await owed(life, url=last.receiver, client=last.client)
        await until(lambda: len(receiver.times) == 257, step_s=0.01)
        assert receiver.times[-1] - receiver.times[0] < 3.1
        await life.stop(0)

    run_virtual(main())


def test_nobody_is_woken_for_a_place_that_nobody_waits_for(tmp_path: Path) -> None:
    """A delivery that ends with places enough is the end of it."""

    async def main() -> None:
        life = new_life(tmp_path / "db", Receiver(httpx.Response(204), takes_s=1.0))
        await life.store.open()
        await owed(life)
        life.store.outbox.due.clear()
        await life.deliverer.run_once()
        await asyncio.sleep(2)
        assert life.claims == 0
        assert not life.store.outbox.due.is_set()
        await life.stop()

    run_virtual(main())


def test_a_hanging_receiver_delays_nobody_else(tmp_path: Path) -> None:
    """500 webhooks wait on a receiver that never answers: those of another one go out as if it were not there."""

    class Mixed(Receiver):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            if request.url.host.startswith("hangs"):
                await asyncio.sleep(3600)
            return await super().answer(request)

    async def main() -> None:
        receiver = Mixed(httpx.Response(204), takes_s=0.01)
        life = await new_life(tmp_path / "gateway.db", receiver).start()
        await owed(life, 500, url="https://hangs.example/hook")
        await asyncio.sleep(1)
        started = life.clock.monotonic()
        await owed(life, 50, url="https://works.example/hook")
        await until(lambda: len(receiver.times) == 50, limit_s=10)
        assert max(receiver.times) - started < 0.1
        await life.stop(0)

    run_virtual(main())


def test_retries_that_hold_their_share_do_not_slow_first_attempts(tmp_path: Path) -> None:
    """With every place that retries may have taken, first attempts go out one after another, not at each heartbeat."""
    times: list[float] = []
    down = True

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host.startswith("slow"):
            if down:
                return httpx.Response(500)
            await asyncio.sleep(1000)
        else:
            await asyncio.sleep(0.05)
            times.append(VirtualClock().monotonic())
        return httpx.Response(204)

    async def main() -> None:
        nonlocal down
        sender = Sender(Transport(answer), VirtualClock(), timeout_s=2000)
        upstream = ScriptedUpstream(unused, "other")
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream, sender=sender, schedule_s=(0.0, 60.0, 60.0))
        life.supervisor = Supervisor([life.deliverer], life.clock, life.metrics)
        await life.start()
        clients = [f"client-{number % 3}" for number in range(60)]
        for number, client in enumerate(clients):  # four failures each: no breaker opens
            await owed(life, 4, url=f"https://slow-{number}.example/hook", client=client)
        await until(lambda: len(life.deliverer._bulkhead._failures) == 60 and life.claims == 0)
        well(life.deliverer._bulkhead, *life.deliverer._bulkhead._failures)  # until then
        down = False
        await asyncio.sleep(75)
        assert life.deliverer._bulkhead._retries[None] == 192
        started = life.clock.monotonic()
        await owed(life, 300, url="https://works.example/hook")
        await until(lambda: len(times) == 300, limit_s=600)
        assert max(times) - started < 2
        await life.stop(0)

    run_virtual(main())


def test_a_retry_does_not_wait_for_a_heartbeat_where_a_place_became_free_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another retry ends while the store is asked, and nobody waits yet that it could wake."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(500), httpx.Response(204))
        life = new_life(tmp_path / "db", receiver, (0.0, 5.0))
        await life.store.open()
        await owed(life)
        await life.deliverer.run_once()
        await until(lambda: life.claims == 0)
        await asyncio.sleep(10)
        bulkhead = life.deliverer._bulkhead = Bulkhead(8)
        others = [lane(f"r{number}", f"client-{number}") for number in range(6)]
        well(bulkhead, *others)
        taken = [webhook(on, retry=True) for on in others]
        assert all(map(bulkhead.admit, taken))
        look = webhookclaims._due_callbacks

        def due_callbacks(*args: Any) -> Any:
            if taken:
                bulkhead.ended(taken.pop(), delivered=True)
            return look(*args)

        monkeypatch.setattr(webhookclaims, "_due_callbacks", due_callbacks)
        assert await life.deliverer.run_once() < 1
        await life.deliverer.run_once()
        await until(lambda: len(receiver.times) == 2)
        await life.stop()

    run_virtual(main())


class SlowNames:
    """Tells the address of one host after two seconds, and has the others' connections open."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.asked = 0

    def must_look_up(self, url: httpx.URL) -> bool:
        return url.host == self._host

    async def find(self, url: httpx.URL) -> list[str]:
        self.asked += 1
        await asyncio.sleep(2)
        return ["192.0.2.1"]


def slow_name_in_a_full_house(tmp_path: Path, receiver: Receiver, crowd: int) -> tuple[Life, SlowNames]:
    names = SlowNames("slow.example")
    sender = Sender(Transport(receiver.answer), VirtualClock(), timeout_s=15, names=names)
    life = Life(tmp_path / "db", VirtualClock(), upstream=ScriptedUpstream(unused), sender=sender)
    life.supervisor = Supervisor([life.deliverer], life.clock, life.metrics)
    bulkhead = life.deliverer._bulkhead = Bulkhead(4, 4)
    lanes = [Lane(f"client-{number}", f"https://app-{number}.example") for number in range(crowd)]
    well(bulkhead, Lane("", "https://slow.example"), *lanes)
    return life, names


def test_a_name_that_takes_long_to_find_is_sent_to_in_a_full_house(tmp_path: Path) -> None:
    """Its place has gone to another when the answer comes; at its next turn it is not looked up again.

    Then the attempt has all of its time: the look-up is no part of it.
    """

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=0.5)
        life, names = slow_name_in_a_full_house(tmp_path, receiver, 8)
        await life.start()
        (slow,) = await owed(life, url="https://slow.example/hook")
        for number in range(8):
            await owed(life, 50, url=f"https://app-{number}.example/hook", client=f"client-{number}")
        await until(lambda: slow.id in receiver.ids, limit_s=60)
        assert len(receiver.ids) < 200
        assert names.asked == 1
        assert receiver.most == 4, "nobody sends without a place"
        await until(lambda: life.claims == 0, limit_s=60)
        (attempt,) = await life.store.registry.list_attempts("", slow.id) or []
        assert attempt.duration_ms == 500
        await life.stop(0)

    run_virtual(main())


def test_an_address_found_long_ago_does_not_count(tmp_path: Path) -> None:
    """It may be another's by now: the name is looked up again, and then it has a place."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204))
        life, names = slow_name_in_a_full_house(tmp_path, receiver, 0)
        life.deliverer._found["https://slow.example"] = Found(addresses=[], failure=None, took_s=2), -1.0
        await life.start()
        (slow,) = await owed(life, url="https://slow.example/hook")
        await until(lambda: slow.id in receiver.ids, limit_s=60)
        assert names.asked == 1
        assert not life.deliverer._found
        await life.stop(0)

    run_virtual(main())


@pytest.mark.parametrize("others", [1023, 1024])
def test_what_is_found_is_kept_for_so_many_receivers(others: int, tmp_path: Path) -> None:
    """Some never have their next turn, as those whose webhooks were cancelled: the first of too many is forgotten."""

    async def main() -> None:
        life, _ = slow_name_in_a_full_house(tmp_path, Receiver(httpx.Response(204), takes_s=0.5), 8)
        kept = life.deliverer._found
        for number in range(others):
            kept[f"https://gone-{number}.example"] = Found(addresses=[], failure=None, took_s=0), 60.0
        await life.start()
        await owed(life, url="https://slow.example/hook")
        for number in range(8):
            await owed(life, 50, url=f"https://app-{number}.example/hook", client=f"client-{number}")
        await until(lambda: "https://slow.example" in kept, limit_s=60, step_s=0.001)
        assert len(kept) == 1024
        assert kept["https://slow.example"][1] - life.clock.monotonic() == pytest.approx(60, abs=0.01)
        assert ("https://gone-0.example" in kept) == (others == 1023)
        await life.stop(0)

    run_virtual(main())
