"""Registering in batches: each item is judged, stored and told of by itself, and delays nobody."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.api import registering
from gateway.api.registering import Registering
from gateway.app import build as app
from gateway.config.tokens import hash_line, make_token
from gateway.core.errors import StoreError, StoreRefused
from gateway.core.model import NewCallback, Registration
from gateway.core.shares import Shares
from gateway.net.resolver import Resolver
from gateway.store.registry import StoreRegistry
from tests.apistand import body, gateway_client
from tests.nameserver import serve_names
from tests.proxied import CREATE, HOOK, World
from tests.virtualtime import run_virtual
from tests.waiting import until


async def test_a_batch_judges_each_by_itself(api: httpx.AsyncClient) -> None:
    """Answers stand in the order sent; a refused item does not touch the others; duplicates inside are 200."""
    items = [
        body(taskId="sim-never-0-1"),
        {"taskId": "sim-never-0-2"},
        body(taskId="sim-never-0-3", callbackUrl="http://169.254.169.254/"),
        body(taskId="sim-never-0-1"),
        body(taskId="sim-never-0-1", timeoutSeconds=1),
        7,
    ]
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [item["status"] for item in data] == [201, 422, 422, 200, 409, 422]
    assert data[0]["callback"]["id"] == data[3]["callback"]["id"]
    assert data[1]["error"]["errors"][0]["field"] == "callbackUrl"
    assert data[2]["error"]["code"] == "callback_not_allowed"
    assert len((await api.get("/v1/callbacks")).json()["data"]) == 1


async def test_items_that_are_stored_one_by_one_tell_of_each_too(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one item is refused the others are written by themselves; the database may fail in between."""
    real = StoreRegistry.register

    async def register(self: StoreRegistry, new: Sequence[NewCallback]) -> Sequence[Registration]:
        if len(new) > 1:
            raise StoreRefused("not this one")
        if new[0].task_id.endswith("1"):
            raise StoreError("disk I/O error")
        return await real(self, new)

    monkeypatch.setattr(StoreRegistry, "register", register)
    items = [body(taskId=f"sim-never-0-{number}") for number in range(3)]
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    assert [one["status"] for one in answer.json()["data"]] == [201, 503, 201]
    assert len((await api.get("/v1/callbacks")).json()["data"]) == 2


@pytest.mark.parametrize(
    ("metadata", "first"), [({}, 512), ({"note": "x" * 3500}, 128)], ids=["small", "as large as four small ones"]
)
async def test_a_batch_tells_of_each_whether_it_is_stored(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str], first: int
) -> None:
    """It is written in pieces, the larger its rows the fewer: where the second one fails, the first is stored."""
    items = [body(taskId=f"sim-never-0-{number}", metadata=metadata) for number in range(first + 88)]
    real = StoreRegistry.register
    left = 1

    async def register(self: StoreRegistry, new: Sequence[NewCallback]) -> Sequence[Registration]:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoreError("disk I/O error")
        return await real(self, new)

    monkeypatch.setattr(StoreRegistry, "register", register)
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    answers = answer.json()["data"]
    assert [one["status"] for one in answers] == [201] * first + [503] * 88
    assert answers[-1]["error"]["code"] == "unavailable"
    assert (await api.post("/v1/callbacks/batch", json={"callbacks": items})).status_code == 503
    left = 2
    again = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    assert [one["status"] for one in again.json()["data"]] == [200] * first + [201] * 88


@pytest.mark.parametrize("asks", ["a create", "a registration", "a batch"])
def test_a_batch_is_written_in_small_pieces_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """From its first piece, though nobody else wants anything in that moment; a second later in large ones again."""
    pieces: list[int] = []
    real = StoreRegistry.register

    async def register(self: StoreRegistry, new: Sequence[NewCallback]) -> Sequence[Registration]:
        pieces.append(len(new))
        return await real(self, new)

    monkeypatch.setattr(StoreRegistry, "register", register)
    tokens = {name: make_token() for name in ("ann", "bob")}
    config = tmp_path / "gateway.toml"
    config.write_text("".join(f'[clients.{name}]\ntoken_hash = "{hash_line(tokens[name])}"\n' for name in tokens))

    async def main() -> None:
        async with World(tmp_path).gateway(GATEWAY_CONFIG=str(config)) as served:

            async def send(name: str, path: str, content: Any) -> None:
                headers = {"authorization": f"Bearer {tokens[name]}"}
                answer = await served.client.post(path, json=content, headers=headers)
                assert answer.is_success, answer.text

            async def batch(name: str, size: int) -> list[int]:
                pieces.clear()
                items = [{"taskId": f"sim-{name}-{number}", "callbackUrl": HOOK} for number in range(size)]
                await send(name, "/v1/callbacks/batch", {"callbacks": items})
                return list(pieces)

            assert await batch("bob", 300) == [300]
            await asyncio.sleep(1.1)  # what bob has wanted then says nothing of others
            if asks == "a create":
                await send("ann", CREATE, {"model": "m", "input": {}, "callBackUrl": HOOK})
            elif asks == "a registration":
                await send("ann", "/v1/callbacks", {"taskId": "sim-1", "callbackUrl": HOOK})
            else:
                await batch("ann", 1)
            await asyncio.sleep(0.5)
            assert await batch("bob", 300) == [32] * 9 + [12]
            await asyncio.sleep(1)
            assert await batch("bob", 300) == [300]

    run_virtual(main())


@pytest.mark.parametrize("item", ["0", '{"taskId": "t", "callbackUrl": "http://127.0.0.1/"}'], ids=["none", "good"])
async def test_a_batch_of_many_small_items_gives_others_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: str
) -> None:
    """A thousand items of 2 KB were read at once, in 5 ms, and nine such batches in one turn of the event loop."""
    turns = [0]

    def read_item(raw: msgspec.Raw) -> Any:
        turns[-1] += 1
        return real(raw)

    def next_batch(self: Shares) -> None:
        turns.append(0)
        real_next(self)

    real, real_next = registering._read_item, Shares._next_batch
    monkeypatch.setattr(registering, "_read_item", read_item)
    monkeypatch.setattr(Shares, "_next_batch", next_batch)
    async for client in gateway_client(tmp_path):
        answer = await client.post(
            "/v1/callbacks/batch",
            content=f'{{"callbacks":[{",".join([item] * 1000)}]}}',
            headers={"content-type": "application/json"},
        )
        assert len(answer.json()["data"]) == 1000
    assert (sum(turns), max(turns)) == (1000, 25)


async def test_a_batch_of_addresses_is_checked_without_a_task_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to look up; they are refused as ever, and only names are left to tasks."""
    looked_up: list[str] = []

    async def verdict(self: Registering, url: str, places: asyncio.Semaphore) -> None:
        looked_up.append(url)

    monkeypatch.setattr(Registering, "_verdict", verdict)
    urls = ["http://127.0.0.1/a", "http://127.0.0.1:9/b", "https://169.254.169.254/", "https://10.0.0.1/", "nonsense"]
    items = [{"taskId": "t", "callbackUrl": url} for url in [*urls, "https://app.example/a", "https://app.example/b"]]
    async for client in gateway_client(tmp_path):
        answer = await client.post("/v1/callbacks/batch", json={"callbacks": items})
    told = [(one["status"], one.get("error", {}).get("code")) for one in answer.json()["data"]]
    refused = (422, "callback_not_allowed")
    assert told == [(201, None), (201, None), refused, refused, refused, (201, None), (201, None)]
    assert sorted(looked_up) == ["https://app.example/a", "https://app.example/b"]


async def test_a_batch_of_slow_names_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch waits for a thousand names that nobody answers for, other registrations go on, batches included."""
    items = [body(callbackUrl=f"https://slow-{number}.example.com/in") for number in range(1000)]
    async with serve_names(hooks_example_com=["192.0.2.1"]) as server:
        monkeypatch.setattr(app, "Resolver", partial(Resolver, nameservers=[server.address]))
        async for api in gateway_client(tmp_path):
            slow = asyncio.create_task(api.post("/v1/callbacks/batch", json={"callbacks": items}))
            async with asyncio.timeout(10):
                await until(lambda: len(server.asked) >= 64)
                assert (await api.post("/v1/callbacks", json=body())).status_code == 201
                batch = await api.post("/v1/callbacks/batch", json={"callbacks": [body(taskId="sim-never-0-b")]})
                assert [item["status"] for item in batch.json()["data"]] == [201]
            assert not slow.done()
            slow.cancel()
            await asyncio.wait([slow])


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_of_no_or_too_many_is_422(api: httpx.AsyncClient, count: int) -> None:
    """A batch holds 1 to 1,000."""
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": [body()] * count})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "callbacks")
