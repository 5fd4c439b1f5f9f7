"""What the API refuses of a callback's state, against the model's table of moves."""

from pathlib import Path

import httpx
import pytest

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.core.model import CALLBACK_MOVES, Callback, CallbackState
from gateway.store.registry import StoreRegistry
from tests.nouns import NOW, callback

REDELIVERED = callback(client="default", state=CallbackState.PENDING, attempts=1, next_attempt_at=NOW)


@pytest.mark.parametrize("found", CallbackState)
@pytest.mark.parametrize(
    ("method", "path", "call", "wanted"),
    [
        ("DELETE", "/v1/callbacks/cb_1", "cancel", CallbackState.CANCELLED),
        ("POST", "/v1/callbacks/cb_1/redeliver", "redeliver", CallbackState.PENDING),
    ],
)
async def test_only_what_the_model_lets_the_api_move_is_granted(
    method: str,
    path: str,
    call: str,
    wanted: CallbackState,
    found: CallbackState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A callback in any other state is a conflict, but for one that is cancelled already: that is done."""

    async def answer(*_: object) -> CallbackState | tuple[CallbackState, Callback]:
        return (found, REDELIVERED) if call == "redeliver" else found

    monkeypatch.setattr(StoreRegistry, call, answer)
    gateway = build(load({"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}"}), SystemClock())
    await gateway.start()
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://localhost") as api:
            status = (await api.request(method, path)).status_code
    finally:
        await gateway.drain()
        await gateway.close()
    granted = found is wanted is CallbackState.CANCELLED or "API" in CALLBACK_MOVES[found].get(wanted, "").split(", ")
    done = {"cancel": 204, "redeliver": 202}[call]
    assert status == (done if granted else 409), f"{method} {path} of a {found} callback: {status}"
