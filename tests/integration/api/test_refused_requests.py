"""What the API refuses, each as problem+json: bodies, paths, methods and parameters."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.apistand import PROBLEM, body

BAD_BODIES: list[tuple[str, bytes, int, str, str | None]] = [
    ("broken JSON", b'{"taskId": ', 400, "invalid_json", None),
    ("not UTF-8", b'{"taskId": "\xff"}', 400, "invalid_json", None),
    ("an empty body", b"", 400, "invalid_json", None),
    ("an array", b"[]", 422, "invalid_request", ""),
    ("a wrong type", b'{"taskId": 7, "callbackUrl": "https://hooks.example.com/"}', 422, "invalid_request", "taskId"),
    ("a missing member", b'{"taskId": "a"}', 422, "invalid_request", "callbackUrl"),
    (
        "an unknown member",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "calbackUrl": 1}',
        422,
        "invalid_request",
        "calbackUrl",
    ),
    (
        "a space in taskId",
        b'{"taskId": "a b", "callbackUrl": "https://hooks.example.com/"}',
        422,
        "invalid_request",
        "taskId",
    ),
    (
        "an empty taskId",
        b'{"taskId": "", "callbackUrl": "https://hooks.example.com/"}',
        422,
        "invalid_request",
        "taskId",
    ),
    (
        "timeoutSeconds 0",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "timeoutSeconds": 0}',
        422,
        "invalid_request",
        "timeoutSeconds",
    ),
    (
        "timeoutSeconds above 30 days",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "timeoutSeconds": 2592001}',
        422,
        "invalid_request",
        "timeoutSeconds",
    ),
    (
        "metadata that is no object",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "metadata": [1]}',
        422,
        "invalid_request",
        "metadata",
    ),
    (
        "metadata above 8 KiB",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "metadata": {"a": "' + b"x" * 8192 + b'"}}',
        422,
        "invalid_request",
        "metadata",
    ),
    (
        "an unknown upstream",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "upstream": "other"}',
        422,
        "invalid_request",
        "upstream",
    ),
    (
        "a callback URL into the network",
        b'{"taskId": "a", "callbackUrl": "http://10.0.0.1/"}',
        422,
        "callback_not_allowed",
        "callbackUrl",
    ),
    (
        "a callback URL that is none",
        b'{"taskId": "a", "callbackUrl": "hooks"}',
        422,
        "callback_not_allowed",
        "callbackUrl",
    ),
    ("a body of 1 MB", b'{"taskId": "' + b"x" * 1_000_000 + b'"}', 413, "too_large", None),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "field"), [row[1:] for row in BAD_BODIES], ids=[row[0] for row in BAD_BODIES]
)
async def test_bad_registrations(
    api: httpx.AsyncClient, content: bytes, status: int, code: str, field: str | None
) -> None:
    """Each is refused as problem+json that names the field, and nothing is half registered."""
    answer = await api.post("/v1/callbacks", content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (status, code, status)
    assert answer.headers["content-type"] == PROBLEM
    assert {"type", "title", "detail"} <= problem.keys()
    if field is not None:
        assert [error["field"] for error in problem["errors"]] == [field]
        assert problem["errors"][0]["message"]
    assert (await api.get("/v1/callbacks")).json() == {"data": [], "nextCursor": None}


async def test_a_wrong_content_type_is_415(api: httpx.AsyncClient) -> None:
    """Only application/json is read, and not compressed; a charset is fine."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        answer = await api.post("/v1/callbacks", content=b"{}", headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    headers = {"content-type": "application/json; charset=utf-8"}
    assert (await api.post("/v1/callbacks", content=b"{}", headers=headers)).status_code == 422
    headers["content-encoding"] = "gzip"
    answer = await api.post("/v1/callbacks", content=gzip.compress(b"{}"), headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert "compressed" in answer.json()["detail"]


async def test_a_body_that_never_says_its_length_is_bounded(api: httpx.AsyncClient) -> None:
    """A chunked body is cut off at the limit as well."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    answer = await api.post("/v1/callbacks", content=chunks(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/callback", 404, "not_found"),
        ("GET", "/v1/callbacks/", 404, "not_found"),
        ("GET", "/v1/callbacks/cb_none", 404, "not_found"),
        ("GET", "/v1/callbacks/cb_none/attempts", 404, "not_found"),
        ("DELETE", "/v1/callbacks/cb_none", 404, "not_found"),
        ("POST", "/v1/callbacks/cb_none/redeliver", 404, "not_found"),
        ("GET", "/v1/tasks/none", 404, "not_found"),
        ("PUT", "/v1/callbacks", 405, "method_not_allowed"),
        ("PATCH", "/v1/callbacks/cb_none", 405, "method_not_allowed"),
        ("GET", "/v1/callbacks/cb_none/redeliver", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(api: httpx.AsyncClient, method: str, path: str, status: int, code: str) -> None:
    """Unknown paths, ids and methods are problem+json too."""
    answer = await api.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == PROBLEM


async def test_a_batch_is_no_callback(api: httpx.AsyncClient) -> None:
    """A path of its own is nobody's name, whatever is asked of it."""
    for method in ("GET", "DELETE", "PUT", "HEAD"):
        answer = await api.request(method, "/v1/callbacks/batch")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_405_names_every_allowed_method(api: httpx.AsyncClient) -> None:
    """RFC 9110 wants Allow to list what the path takes."""
    answer = await api.put("/v1/callbacks")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


async def test_redelivering_a_waiting_callback_is_409(api: httpx.AsyncClient) -> None:
    """There is no webhook yet."""
    callback = (await api.post("/v1/callbacks", json=body())).json()
    answer = await api.post(f"/v1/callbacks/{callback['id']}/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=00000000199999", "limit"),
        ("limit=07", "limit"),
        ("limit=1&limit=2", "limit"),
        ("taskId=", "taskId"),
        ("taskId=a%00b", "taskId"),
        ("cursor=", "cursor"),
        ("limit=" + "9" * 5000, "limit"),
        ("state=done", "state"),
        ("cursor=abc", "cursor"),
        ("order=asc", "order"),
    ],
)
async def test_bad_list_parameters(api: httpx.AsyncClient, query: str, field: str) -> None:
    """Each is named; a cursor that was not given out is refused."""
    answer = await api.get(f"/v1/callbacks?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize("wait", ["-1", "61", "x", "nan", "", " 5", "1_0", "\u0665", "05", ".5", "5."])
async def test_a_bad_wait_is_422(api: httpx.AsyncClient, wait: str) -> None:
    """wait is 0 to 60 seconds."""
    await api.post("/v1/callbacks", json=body())
    answer = await api.get("/v1/tasks/sim-never-0-a", params={"wait": wait})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "wait")


@pytest.mark.parametrize(
    ("method", "path", "query", "field"),
    [
        ("GET", "/v1/tasks/sim-never-0-a", "upstream=zz", "upstream"),
        ("GET", "/v1/tasks/sim-never-0-a", "wait=0&waits=30", "waits"),
        ("HEAD", "/v1/tasks/sim-never-0-a", "waits=30", None),
        ("GET", "/v1/tasks/none", "Wait", "Wait"),
        ("GET", "/v1/callbacks", "task_id=x", "task_id"),
        ("POST", "/v1/callbacks", "upstream=kie", "upstream"),
        ("POST", "/v1/callbacks", "state=dead", "state"),
        ("POST", "/v1/callbacks/batch", "upstream=kie", "upstream"),
        ("POST", "/v1/redeliveries", "state=dead", "state"),
        ("GET", "/v1/callbacks/{id}", "wait=1", "wait"),
        ("GET", "/v1/callbacks/{id}/attempts", "limit=1", "limit"),
        ("POST", "/v1/callbacks/{id}/redeliver", "force=true", "force"),
        ("DELETE", "/v1/callbacks/{id}", "dryRun=true", "dryRun"),
    ],
)
async def test_a_parameter_that_is_none_is_named(
    api: httpx.AsyncClient, method: str, path: str, query: str, field: str | None
) -> None:
    """A typo in a query must not pass in silence, whatever the call; nothing is done then."""
    made = (await api.post("/v1/callbacks", json=body())).json()
    answer = await api.request(method, f"{path.format(id=made['id'])}?{query}")
    assert answer.status_code == 422
    if field is not None:  # HEAD's answer has no body
        (error,) = answer.json()["errors"]
        assert error["field"] == field
        assert answer.json()["detail"].startswith(f"{field}: is not a parameter of this query; ")
    assert (await api.get("/v1/callbacks")).json()["data"] == [made]
