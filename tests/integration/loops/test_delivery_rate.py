"""The deliverer by a table's rate: so many starts in a time, however long each attempt takes. In virtual time."""

import asyncio
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from gateway.core.claims import DueCallback
from gateway.core.ratelimit import RateWindow
from gateway.webhook.limits import ReceiverLimits, Usage
from tests.delivering import Receiver, new_life, owed
from tests.virtualtime import VirtualClock, run_virtual

URL = "https://app.example"


@pytest.mark.parametrize("takes_s", [0.0, 0.4, 14.0])
def test_a_rate_is_of_starts(takes_s: float, tmp_path: Path) -> None:
    """A receiver that takes its time gets as many as one that is quick, and no window has more than its limit."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=takes_s)
        usage = Usage(None, (RateWindow(2, 1.0),), None, URL)
        limits = ReceiverLimits(VirtualClock().monotonic, lambda url: usage)
        limits.use([usage])
        life = await new_life(tmp_path / "db", receiver, limits=limits).start()
        began = VirtualClock().monotonic()
        await owed(life, 10)
        await asyncio.sleep(5)
        assert len(receiver.times) == 10
        assert all(third - first >= 1.0 for first, third in zip(receiver.times, receiver.times[2:], strict=False))
        assert receiver.times[-1] - began == pytest.approx(4.0, abs=0.1)
        await asyncio.sleep(takes_s)
        await life.stop()

    run_virtual(main())


def test_a_rate_counts_from_when_a_slow_body_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait hear of it then, and not only when the receiver has answered."""

    async def main() -> None:
        receiver = Receiver(httpx.Response(204), takes_s=14.0)
        usage = Usage(None, (RateWindow(1, 1.0),), None, URL)
        limits = ReceiverLimits(VirtualClock().monotonic, lambda url: usage)
        limits.use([usage])
        life = await new_life(tmp_path / "db", receiver, limits=limits).start()
        make = life.deliverer._body

        async def slowly(claim: DueCallback) -> bytes | None:
            await asyncio.sleep(0.5)
            return await make(claim)

        monkeypatch.setattr(life.deliverer, "_body", slowly)
        await owed(life, 3)
        await asyncio.sleep(5)
        assert len(receiver.times) == 3
        gaps = [later - sooner for sooner, later in pairwise(receiver.times)]
        assert gaps == pytest.approx([1.5, 1.5], abs=0.1)
        await asyncio.sleep(14)
        await life.stop()

    run_virtual(main())
