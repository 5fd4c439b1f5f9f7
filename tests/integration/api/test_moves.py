"""What the API refuses of a callback's state, against the model's table of moves."""

from pathlib import Path

import httpx
import pytest

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.core.model import CALLBACK_MOVES, CallbackState
from gateway.store.registry import StoreRegistry


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

    async def answer(*_: object) -> CallbackState:
        return found

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
    assert (status != 409) == granted, f"{method} {path} of a {found} callback: {status}"
