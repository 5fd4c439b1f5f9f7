"""Registrations that hold what JSON allows and few can keep: each is its own error, with the true reason."""

import codecs
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.clock import SystemClock
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.running import Running, running

HOOKS = "http://127.0.0.1:9/in"
JSON = {"content-type": "application/json"}
HALF = "half of an emoji"
DEEP = "at most 100 objects and arrays"
LARGE = "too large to be read, such as 1e400"


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Running]:
    async with (
        serve_simulator(SimulatedUpstream(SystemClock())) as url,
        running(tmp_path, url) as one,
    ):
        yield one


def registration(metadata: bytes, task_id: bytes = b"sim-never-0-odd") -> bytes:
    return b'{"taskId":"%b","callbackUrl":"%b","metadata":%b}' % (task_id, HOOKS.encode(), metadata)


ODD: list[Any] = [
    pytest.param(b'{"a":"\\ud83d"}', 422, "metadata", HALF, id="half an emoji"),
    pytest.param(b'{"a":{"b":["x\\udc00y"]}}', 422, "metadata", HALF, id="the other half, inside"),
    pytest.param(b'{"\\ud83d":1}', 422, "metadata", HALF, id="in a name"),
    pytest.param(b'{"a":1e400}', 422, "metadata", LARGE, id="a number beyond all bounds"),
    pytest.param(b'{"a":[{"b":-1e999}]}', 422, "metadata", LARGE, id="below, inside"),
    pytest.param(b'{"a":%b}' % (b"9" * 5000), 422, "metadata", LARGE, id="5,000 digits"),
    pytest.param(b'{"a":%b}' % (b"[" * 100 + b"]" * 100), 422, "metadata", DEEP, id="101 deep"),
    *(
        pytest.param(b'{"a":%b}' % (b"[" * deep + b"]" * deep), 422, "metadata", DEEP, id=f"{deep} deep")
        for deep in (500, *range(900, 1100, 9), 3000)
    ),
    pytest.param(b'{"a":"\xff"}', 400, None, "can't decode byte 0xff", id="invalid UTF-8"),
    pytest.param(b'{"a":"\xe2\x82"}', 400, None, "can't decode byte", id="cut inside a character"),
    pytest.param(b'{"a":NaN}', 400, None, "NaN is no JSON", id="NaN"),
    pytest.param(b'{"a":"\x01"}', 400, None, "Invalid control character", id="a control character"),
    pytest.param(b'{"a":tru}', 400, None, "Expecting value", id="no JSON"),
    pytest.param(b'{"a":"' + b"x" * 9000 + b'"}', 422, "metadata", "at most 8192 bytes", id="too much"),
]


@pytest.mark.parametrize(("metadata", "status", "field", "reason"), ODD)
async def test_odd_metadata(one: Running, metadata: bytes, status: int, field: str | None, reason: str) -> None:
    """The refusal names the member and says what is wrong with it; in a batch it is that item's alone."""
    alone = await one.client.post("/v1/callbacks", content=registration(metadata), headers=JSON)
    good = [registration(b'{"n":%d}' % n, b"sim-never-0-%d" % n) for n in range(2)]
    batch = b'{"callbacks": [%b, %b , %b]}' % (good[0], registration(metadata), good[1])
    answer = await one.client.post("/v1/callbacks/batch", content=batch, headers=JSON)
    assert answer.status_code == 200, answer.text
    first, odd, last = answer.json()["data"]
    assert [first["status"], odd["status"], last["status"]] == [201, status, 201]
    assert [item["callback"]["metadata"] for item in (first, last)] == [{"n": 0}, {"n": 1}]
    for problem in (alone.json(), odd["error"]):
        assert (problem["status"], [error["field"] for error in problem.get("errors", [])]) == (
            status,
            [] if field is None else [field],
        )
        assert reason in problem["detail"]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (b'{"taskId":"\\ud83d","callbackUrl":"https://a"}', "taskId"),
        (b'{"taskId":"t","callbackUrl":"https://a/\\ud83d"}', "callbackUrl"),
        (b'{"taskId":"t","callbackUrl":"https://a","upstream":"\\ud83d"}', "upstream"),
        (b'{"taskId":"t","callbackUrl":"https://a","model":"\\ud83d"}', "model"),
        (b'{"taskId":"t","callbackUrl":"https://a","\\ud83d":1}', "\ufffd"),
    ],
)
async def test_half_an_emoji_elsewhere(one: Running, item: bytes, field: str) -> None:
    """Whichever member holds it is named."""
    answer = await one.client.post("/v1/callbacks", content=item, headers=JSON)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert HALF in answer.json()["detail"]
    both = b'{"callbacks":[%b,%b]}' % (item, registration(b"{}"))
    answer = await one.client.post("/v1/callbacks/batch", content=both, headers=JSON)
    assert [item["status"] for item in answer.json()["data"]] == [422, 201]


@pytest.mark.parametrize(
    ("batch", "status", "field"),
    [
        (b'{"callbacks":[%b,],"x":"\\ud83d"}', 400, None),
        (b'{"callbacks":[%b]', 400, None),
        (b'{"callbacks":[%b}}', 400, None),
        (b'{"callbacks":[%b] "x":1}', 400, None),
        (b"[%b]", 422, ""),
        (b'{"callbacks":[%b],"dryRun":1}', 422, "dryRun"),
        (b'{"callbacks":{"a":%b}}', 422, "callbacks"),
        (b'{"callbacks":7,"x":%b}', 422, "callbacks"),
        (b'{"items":[%b]}', 422, "items"),
        (b'{"callbacks":[' + b",".join([b'"\\ud83d"'] * 1000) + b",%b]}", 422, "callbacks"),
    ],
)
async def test_a_batch_that_is_none(one: Running, batch: bytes, status: int, field: str | None) -> None:
    """What is wrong around the items is the whole request's, whatever stands in them."""
    answer = await one.client.post(
        "/v1/callbacks/batch", content=batch % registration(b'{"a":"\\ud83d"}'), headers=JSON
    )
    problem = answer.json()
    assert (answer.status_code, [error["field"] for error in problem.get("errors", [])]) == (
        status,
        [] if field is None else [field],
    )


async def test_an_item_that_the_database_refuses(one: Running) -> None:
    """It is its own 4xx, alone and in a batch; the others are stored, and the store is well."""
    trigger = (
        "CREATE TRIGGER refuse BEFORE INSERT ON callbacks WHEN new.url LIKE '%/refused' "
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    )
    await one.gateway.store._database.transaction(lambda db: [db.execute(trigger)])
    answer = await one.register("sim-never-0-a", f"{HOOKS}/refused")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "not this one" in answer.json()["detail"]
    items = [{"taskId": f"sim-never-0-{path}", "callbackUrl": f"{HOOKS}/{path}"} for path in ("a", "refused", "b")]
    batch = await one.client.post("/v1/callbacks/batch", json={"callbacks": items})
    assert [item["status"] for item in batch.json()["data"]] == [201, 422, 201]
    assert len((await one.client.get("/v1/callbacks")).json()["data"]) == 2
    assert (await one.client.get("/readyz")).status_code == 200


async def test_an_item_that_the_gateway_fails_on(one: Running) -> None:
    """A defect is not told as the client's fault: 503, alone and in a batch; the others are stored."""

    def install(db: sqlite3.Connection) -> list[Any]:
        db.create_function("defect", 0, lambda: 1 / 0)
        when = "BEFORE INSERT ON callbacks WHEN new.url LIKE '%/defect'"
        return [db.execute(f"CREATE TRIGGER defect {when} BEGIN SELECT defect(); END")]

    await one.gateway.store._database.transaction(install)
    with capture_logs() as log:
        answer = await one.register("sim-never-0-a", f"{HOOKS}/defect")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "retry-after" in answer.headers
        items = [{"taskId": f"sim-never-0-{path}", "callbackUrl": f"{HOOKS}/{path}"} for path in ("a", "defect", "b")]
        batch = await one.client.post("/v1/callbacks/batch", json={"callbacks": items})
    assert [item["status"] for item in batch.json()["data"]] == [201, 503, 201]
    assert {line["kind"] for line in log if line["event"] == "store.write_defect"} == {"register"}
    assert len((await one.client.get("/v1/callbacks")).json()["data"]) == 2
    assert (await one.client.get("/readyz")).status_code == 200


async def test_null_is_as_if_left_out(one: Running) -> None:
    """Each optional member may be null, and the same request without it is the same registration."""
    least = {"taskId": "sim-never-0-a", "callbackUrl": HOOKS}
    nulls = least | {"metadata": None, "timeoutSeconds": None, "upstream": None}
    made = await one.client.post("/v1/callbacks", json=nulls)
    assert (made.status_code, made.json()["metadata"], made.json()["timeoutSeconds"]) == (201, {}, 86_400)
    assert (await one.client.post("/v1/callbacks", json=least)).status_code == 200
    batch = await one.client.post("/v1/callbacks/batch", json={"callbacks": [nulls, least]})
    assert [item["status"] for item in batch.json()["data"]] == [200, 200]
    redelivered = await one.client.post("/v1/redeliveries", json={"state": "dead", "since": None, "until": None})
    assert (redelivered.status_code, redelivered.json()) == (202, {"count": 0})
    for member in ("taskId", "callbackUrl"):
        answer = await one.client.post("/v1/callbacks", json=least | {member: None})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, member)
    assert (await one.client.post("/v1/callbacks", json=least | {"timeoutSecond": None})).status_code == 422


async def test_a_bom_is_taken(one: Running) -> None:
    """Every request with a JSON body may begin with one, as some clients' do."""
    callback = b'{"taskId": "sim-never-0-a", "callbackUrl": "%b"}' % HOOKS.encode()
    for path, text, status in (
        ("/v1/callbacks", callback, 201),
        ("/v1/callbacks/batch", b'{"callbacks": [%b]}' % callback, 200),
        ("/v1/redeliveries", b'{"state": "dead"}', 202),
    ):
        answer = await one.client.post(path, content=codecs.BOM_UTF8 + text, headers=JSON)
        assert answer.status_code == status, answer.text


async def test_the_document_says_that_null_may_stand(one: Running) -> None:
    """Clients made from ``/openapi.json`` know it."""
    schemas = (await one.client.get("/openapi.json")).json()["components"]["schemas"]
    for name in ("CallbackRequest", "RedeliveriesRequest"):
        required = set(schemas[name]["required"])
        optional = {key: member for key, member in schemas[name]["properties"].items() if key not in required}
        assert optional
        for key, member in optional.items():
            assert '"null"' in json.dumps(member), key
