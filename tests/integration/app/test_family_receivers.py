"""Receivers of the API family's own callbacks, written as its pages tell: they work behind the gateway as they are.

Each knows nothing of the gateway but its URL, where it is used as the upstream's base URL.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.running import Running, running
from tests.waiting import until

KEY = "whk_3kf0s/dk+sl2="
CREATE, RECORD = "/api/v1/jobs/createTask", "/api/v1/jobs/recordInfo"
URLS = ["https://cdn.example.com/result.png"]


class SignedReceiver:
    """Checks the HMAC over task id and timestamp, then goes by ``code``: 200 has a result, all else has failed."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self.orders: dict[str, Any] = {}
        self.refused: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        status = self._take(json.loads(await request.body()), request.headers)
        await Response(status_code=status)(scope, receive, send)

    def _take(self, body: dict[str, Any], headers: Any) -> int:
        timestamp, signature = headers.get("X-Webhook-Timestamp"), headers.get("X-Webhook-Signature")
        if not timestamp or not signature:
            self.refused.append("missing signature")
            return 401
        data = body["data"]
        task_id = data.get("task_id") or data.get("taskId")
        expected = hmac.new(self._key, f"{task_id}.{timestamp}".encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(base64.b64encode(expected).decode(), signature):
            self.refused.append("invalid signature")
            return 401
        if body["code"] == 200:
            self.orders[task_id] = json.loads(data["resultJson"])["resultUrls"]
        else:
            self.orders[task_id] = (body["msg"], data["failCode"], data["failMsg"], data["resultJson"])
        return 200


class RereadingReceiver:
    """Guards by a token in its URL, and takes no callback's word: it asks for the record, and acts on that alone.

    A task that is not said to have ended stays open, to be looked at by its cron job.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self.base_url = ""
        self.orders: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        status = 403
        if request.query_params.get("token") == self._token:
            task_id = (await request.json())["data"]["taskId"]
            async with httpx.AsyncClient(base_url=self.base_url, trust_env=False, verify=False) as api:
                record = (await api.get(RECORD, params={"taskId": task_id})).json()
            data = record["data"]
            if record["code"] == 200 and data["state"] == "success":
                self.orders[task_id] = json.loads(data["resultJson"])["resultUrls"]
            elif record["code"] == 200 and data["state"] == "fail":
                self.orders[task_id] = (data["failCode"], data["failMsg"])
            else:
                self.orders[task_id] = "open"
            status = 200
        await Response(status_code=status)(scope, receive, send)


class PageReceiver:
    """Written as kie.ai's page on an API's callbacks shows: it takes them apart by what that page names."""

    def __init__(self, take: Callable[[int, str, Any], tuple[str, Any]]) -> None:
        self._take = take
        self.orders: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).json()
        task_id, order = self._take(body["code"], body["msg"], body["data"])
        self.orders[task_id] = order
        await Response(b'{"status":"received"}')(scope, receive, send)


def veo(code: int, msg: str, data: Any) -> tuple[str, Any]:
    if code != 200:
        return data["taskId"], (code, msg, data["fallbackFlag"])
    info = data["info"]
    return data["taskId"], (info["resultUrls"], info["originUrls"], info["resolution"], data["fallbackFlag"])


def suno(code: int, msg: str, data: Any) -> tuple[str, Any]:
    if code == 200 and data["callbackType"] == "complete":
        return data["task_id"], [(track["id"], track["audio_url"], track["duration"]) for track in data["data"]]
    return data["task_id"], (code, msg, data["callbackType"])


def image_4o(code: int, msg: str, data: Any) -> tuple[str, Any]:
    return data["taskId"], data["info"]["result_urls"] if code == 200 else (code, msg)


def flux(code: int, msg: str, data: Any) -> tuple[str, Any]:
    info = data["info"]
    return data["taskId"], (info["originImageUrl"], info["resultImageUrl"]) if code == 200 else (code, msg, info)


def midjourney(code: int, msg: str, data: Any) -> tuple[str, Any]:
    prompt = json.loads(data["promptJson"])["prompt"]
    return data["taskId"], (prompt, data["resultUrls"]) if code == 200 else (code, msg)


FAILED = 500, "no luck"
URL = URLS[0]
PAGES = {
    "kie-veo": ("/api/v1/veo/generate", veo, (URLS, URLS, "1080p", False), (*FAILED, False)),
    "kie-suno": ("/api/v1/generate", suno, [("", URL, 198.44)], (*FAILED, "error")),
    "kie-4o-image": ("/api/v1/gpt4o-image/generate", image_4o, URLS, FAILED),
    "kie-flux-kontext": (
        "/api/v1/flux/kontext/generate", flux, (URL, URL), (*FAILED, {"originImageUrl": "", "resultImageUrl": ""}),
    ),
    "kie-mj": ("/api/v1/mj/generate", midjourney, ("A cat", URLS), FAILED),
}  # fmt: skip


@asynccontextmanager
async def world(
    folder: Path, receiver: Any, upstream: str = "aigptimage", **environ: str
) -> AsyncIterator[tuple[Running, str]]:
    """A gateway before an upstream whose tasks end at once, as their model says; and the receiver's URL."""
    models = {"bad": Plan(outcome="fail", fail_code="500", fail_msg="no luck"), "never": Plan(outcome="never")}
    simulator = SimulatedUpstream(SystemClock(), keys=["sk-up"], plans=Plan(), models=models)
    config = folder / "gateway.toml"
    config.write_text(f'[upstreams.{upstream}]\ncreate_rate = "1000/1"\n')
    environ |= {"GATEWAY_UPSTREAM": upstream, "GATEWAY_UPSTREAM_API_KEY": "sk-up", "GATEWAY_CONFIG": str(config)}
    async with (
        serve_simulator(simulator) as upstream_url,
        serve_asgi(receiver) as url,
        running(folder, upstream_url, **environ) as gateway,
    ):
        yield gateway, url


async def created(gateway: Running, model: str, url: str) -> str:
    """Create a task with a callback, as any program of the family does; return its id."""
    asked = {"model": model, "input": {"prompt": "A cat"}, "callBackUrl": url}
    answer = (await gateway.client.post(CREATE, json=asked)).json()
    assert answer["code"] == 200, answer
    task_id: str = answer["data"]["taskId"]
    return task_id


async def given_up(gateway: Running, task_id: str, url: str) -> str:
    """Register for a task that never ends, and only for a second."""
    answer = await gateway.register(task_id, url, timeoutSeconds=1, format="record")
    assert answer.status_code in (200, 201), answer.text
    return task_id


async def test_a_receiver_that_verifies_the_hmac(tmp_path: Path) -> None:
    """Success, failure and abandonment come out right, each verified; with another key it refuses them all."""
    receiver = SignedReceiver(KEY)
    async with world(tmp_path, receiver, GATEWAY_RECORD_HMAC_KEY=KEY) as (gateway, url):
        good, bad = await created(gateway, "good", f"{url}/cb"), await created(gateway, "bad", f"{url}/cb")
        never = await given_up(gateway, "sim-never-0-a", f"{url}/cb")
        await until(lambda: receiver.orders.keys() >= {good, bad, never})
        callbacks = (await gateway.client.get("/v1/callbacks")).json()["data"]
        for callback in callbacks:
            await gateway.delivered(callback["id"])
    assert receiver.refused == []
    assert receiver.orders == {
        good: URLS,
        bad: ("Playground task failed.", "500", "no luck", None),
        never: (
            "Playground task abandoned.", "408", "The gateway gave this task up: it did not end in time.", None,
        ),
    }  # fmt: skip


async def test_a_receiver_with_another_key_refuses(tmp_path: Path) -> None:
    """The signature is one of the key, and none is made up without one."""
    other, none = SignedReceiver(KEY + "x"), SignedReceiver(KEY)
    for folder, receiver, environ in (
        (tmp_path / "a", other, {"GATEWAY_RECORD_HMAC_KEY": KEY}),
        (tmp_path / "b", none, {}),
    ):
        folder.mkdir()
        async with world(folder, receiver, **environ) as (gateway, url):
            await created(gateway, "good", url)
            await until(lambda: receiver.refused != [])  # noqa: B023 - it is awaited here
    assert (set(other.refused), set(none.refused)) == ({"invalid signature"}, {"missing signature"})


async def test_a_receiver_that_reads_the_record_again(tmp_path: Path) -> None:
    """It finds what it was told of; a task that was given up it leaves open, as it still runs."""
    receiver = RereadingReceiver("s3cret")
    async with world(tmp_path, receiver) as (gateway, url):
        receiver.base_url = str(gateway.client.base_url)
        hook = f"{url}/cb?token=s3cret"
        good, bad = await created(gateway, "good", hook), await created(gateway, "bad", hook)
        never = await given_up(gateway, "sim-never-0-b", hook)
        await until(lambda: receiver.orders.keys() >= {good, bad, never})
        # Nothing in the URL is lost on the way, and nobody else gets in.
        wrong = await created(gateway, "good", f"{url}/cb?token=guessed")
        callbacks = (await gateway.client.get(f"/v1/callbacks?taskId={wrong}")).json()["data"]
        await gateway.becomes(f"/v1/callbacks/{callbacks[0]['id']}", lambda answer: answer.json()["attempts"] > 0)
    assert receiver.orders == {good: URLS, bad: ("500", "no luck"), never: "open"}


@pytest.mark.parametrize("name", PAGES)
async def test_receivers_of_kies_other_endpoints(name: str, tmp_path: Path) -> None:
    """Each gets the callbacks that its page shows, for success and failure; a read of the task tells its record."""
    path, take, good_order, bad_order = PAGES[name]
    receiver = PageReceiver(take)
    async with world(tmp_path, receiver, name) as (gateway, url):
        ids = []
        for model in ("good", "bad"):
            asked = {"prompt": "A cat", "model": model, "callBackUrl": f"{url}/cb"}
            ids.append((await gateway.client.post(path, json=asked)).json()["data"]["taskId"])
        await until(lambda: receiver.orders.keys() >= {*ids})
        good, bad = ids
        read = path.removesuffix("/generate") if name != "kie-suno" else path
        for task_id in ids:
            record = (await gateway.client.get(f"{read}/record-info", params={"taskId": task_id})).json()
            assert (record["code"], record["data"]["taskId"]) == (200, task_id)
            assert "createTime" in record["data"]
        metrics = (await gateway.client.get("/metrics")).text
        assert 'gateway_proxied_requests_total{call="read",outcome="answered"} 2.0' in metrics
    if name == "kie-suno":
        good_order = [(f"{good}-1", *rest) for _, *rest in good_order]
    assert receiver.orders == {good: good_order, bad: bad_order}
