"""The webhook receiver: its answers, what it hands on, what it prints, and the check of saved webhooks."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from gateway.api.openevents import EXAMPLES
from gateway.cli import receiver
from gateway.cli.receiver import PlannedAnswer, ReceivedWebhook, Receiver, parse_answers, pretty, verify_saved
from gateway.core.errors import VerificationError
from gateway.signature import Signer, parse_secrets

SECRETS = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
OTHER_SECRETS = parse_secrets("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
AT = 1614265330
SUCCEEDED = {
    "type": "task.succeeded",
    "timestamp": "2021-02-25T15:02:10.000Z",
    "data": {
        "callbackId": "cb_1",
        "taskId": "task_1",
        "state": "success",
        "result": {"resultUrls": ["https://cdn.example.com/a.png", "https://cdn.example.com/b.png"]},
        "failCode": None,
        "failMsg": None,
        "metadata": {"orderId": 7},
    },
}


class FixedClock:
    def now(self) -> int:
        return AT * 1000

    def monotonic(self) -> float:
        return 0.0


class Inbox:
    """A receiver with a client for it and everything it handed on."""

    def __init__(self) -> None:
        self.webhooks: list[ReceivedWebhook] = []
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(Receiver(SECRETS, FixedClock(), self.webhooks.append)), base_url="http://r"
        )

    async def post(self, body: bytes, headers: dict[str, str], path: str = "/hooks") -> httpx.Response:
        return await self.client.post(path, content=body, headers=headers)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def encode(event: Any) -> bytes:
    return json.dumps(event).encode()


def signed(body: bytes, webhook_id: str = "cb_1") -> dict[str, str]:
    return Signer(SECRETS).headers(webhook_id, AT, body)


def received(event: Any, **changes: Any) -> ReceivedWebhook:
    members: dict[str, Any] = {
        "verified": True,
        "problem": None,
        "headers": {"webhook-id": "cb_1"},
        "body": encode(event),
        "event": event,
        "duplicate": False,
    }
    return ReceivedWebhook(**members | changes)


# The ASGI app


@pytest.mark.parametrize("path", ["/", "/hooks", "/a/b?c=d"])
async def test_signed_webhook_is_answered_204_on_any_path(inbox: Inbox, path: str) -> None:
    """A verified webhook is handed on whole, with its event decoded."""
    body = encode(SUCCEEDED)
    response = await inbox.post(body, signed(body), path)
    assert (response.status_code, response.content) == (204, b"")
    (webhook,) = inbox.webhooks
    assert (webhook.verified, webhook.problem, webhook.duplicate) == (True, None, False)
    assert (webhook.body, webhook.event) == (body, SUCCEEDED)
    assert webhook.headers["webhook-id"] == "cb_1"


async def test_webhook_of_another_secret_is_answered_401_with_the_reason(inbox: Inbox) -> None:
    """Not verified is an answer with a reason, and is handed on all the same for people to see."""
    body = encode(SUCCEEDED)
    response = await inbox.post(body, Signer(OTHER_SECRETS).headers("cb_1", AT, body))
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/json"
    assert "no signature matches" in response.json()["error"]
    (webhook,) = inbox.webhooks
    assert (webhook.verified, webhook.problem) == (False, response.json()["error"])
    assert webhook.event == SUCCEEDED


async def test_unsigned_post_is_answered_401(inbox: Inbox) -> None:
    """Any POST gets an answer that says what a webhook needs."""
    response = await inbox.post(b"hello", {})
    assert response.status_code == 401
    assert "webhook-id and webhook-timestamp and webhook-signature missing" in response.json()["error"]
    assert inbox.webhooks[0].event is None


async def test_old_webhook_is_answered_401(inbox: Inbox) -> None:
    """The receiver's clock decides what is a replay."""
    response = await inbox.post(b"{}", Signer(SECRETS).headers("cb_1", AT - 301, b"{}"))
    assert response.status_code == 401
    assert "301 s old" in response.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b'"\xff"', b"[" * 100_000])
async def test_signed_body_that_is_not_json_is_handed_on_undecoded(inbox: Inbox, body: bytes) -> None:
    """The signature is over bytes; what they mean is another matter."""
    assert (await inbox.post(body, signed(body))).status_code == 204
    assert (inbox.webhooks[0].event, inbox.webhooks[0].body) == (None, body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_answered_405(inbox: Inbox, method: str) -> None:
    """Only POST is a webhook; nothing else is handed on."""
    response = await inbox.client.request(method, "/hooks")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert inbox.webhooks == []


async def test_body_at_the_limit_is_taken_and_over_it_answered_413(inbox: Inbox) -> None:
    """64 mebibytes are the limit: a result may hold images."""
    body = b" " * 64 * 1024 * 1024
    assert (await inbox.post(body, signed(body))).status_code == 204
    response = await inbox.post(body + b" ", signed(body))
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert len(inbox.webhooks) == 1


# Answers for trying things out


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("204", [PlannedAnswer()]),
        ("410", [PlannedAnswer(410)]),
        ("slow", [PlannedAnswer(204, 20.0)]),
        ("slow:0.5", [PlannedAnswer(204, 0.5)]),
        ("hang", [PlannedAnswer(204, None)]),
        (
            "500, slow:3,hang ,204",
            [PlannedAnswer(500), PlannedAnswer(204, 3.0), PlannedAnswer(204, None), PlannedAnswer()],
        ),
    ],
)
def test_answers_are_read(text: str, answers: list[PlannedAnswer]) -> None:
    """A status, a delay or neither; several with commas."""
    assert parse_answers(text) == tuple(answers)


@pytest.mark.parametrize(
    "text",
    ["", ",", "500,", "199", "600", "5000", "slow:", "slow:-1", "slow:90000", "hang:3", "\u0665\u0660\u0660", "nan"],
)
def test_what_is_no_answer_is_refused(text: str) -> None:
    """The message shows what was meant and what there is."""
    with pytest.raises(ValueError, match="slow:SECONDS"):
        parse_answers(text)


async def test_each_time_a_webhook_comes_it_gets_the_next_answer() -> None:
    """Every id has the list for itself, the last answer stays, and what does not verify is 401 as ever."""
    webhooks: list[ReceivedWebhook] = []
    app = Receiver(SECRETS, FixedClock(), webhooks.append, parse_answers("500,410,204"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://r") as client:
        got = [
            (await client.post("/", content=b"{}", headers=signed(b"{}", webhook_id))).status_code
            for webhook_id in ("cb_1", "cb_1", "cb_2", "cb_1", "cb_1")
        ]
        assert got == [500, 410, 500, 204, 204]
        assert (await client.post("/", content=b"{ }", headers=signed(b"{}"))).status_code == 401
    assert [webhook.answer for webhook in webhooks] == ["500", "410", "500", None, None, None]
    assert "answer      500" in pretty(webhooks[0])
    assert "answer  " not in pretty(webhooks[3])


async def test_a_slow_answer_comes_and_a_hanging_one_does_not() -> None:
    """Slow answers 204 in the end; hang waits until the sender goes, and then answers nothing."""

    async def exchange(answers: str, *after_body: dict[str, Any]) -> list[Any]:
        sent: list[Any] = []
        pieces = iter([{"type": "http.request", "body": b"{}"}, *after_body])

        async def receive() -> dict[str, Any]:
            if (piece := next(pieces, None)) is not None:
                return piece
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode()) for name, value in signed(b"{}").items()]
        app = Receiver(SECRETS, FixedClock(), lambda webhook: None, parse_answers(answers))
        await app({"type": "http", "method": "POST", "headers": raw}, receive, send)
        return sent

    assert (await exchange("slow:0.01"))[0]["status"] == 204
    assert await exchange("slow:3600", {"type": "http.disconnect"}) == []
    assert await exchange("hang", {"type": "http.disconnect"}) == []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exchange("hang"), 0.05)


def chunks_of(pieces: Iterable[dict[str, Any]]) -> Any:
    messages = iter(pieces)

    async def receive() -> dict[str, Any]:
        return next(messages)

    return receive


async def call(webhooks: list[ReceivedWebhook], pieces: Iterable[dict[str, Any]], headers: dict[str, str]) -> list[Any]:
    """Drive the app with the given messages and return what it sent."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    app = Receiver(SECRETS, FixedClock(), webhooks.append)
    await app({"type": "http", "method": "POST", "headers": raw}, chunks_of(pieces), send)
    return sent


async def test_body_in_pieces_is_put_together() -> None:
    """However the server cuts it, the body is the same."""
    webhooks: list[ReceivedWebhook] = []
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": bytes([byte]), "more_body": True} for byte in b'{"a":1}'
    ]
    pieces.append({"type": "http.request"})
    sent = await call(webhooks, pieces, signed(b'{"a":1}'))
    assert sent[0]["status"] == 204
    assert webhooks[0].event == {"a": 1}


async def test_endless_body_is_not_read_past_the_limit() -> None:
    """A sender that never ends costs the limit and one piece more, not all memory."""
    served = []

    def endless() -> Iterable[dict[str, Any]]:
        while True:
            served.append(64 * 1024)
            yield {"type": "http.request", "body": b" " * 64 * 1024, "more_body": True}

    sent = await call([], endless(), {})
    assert sent[0]["status"] == 413
    assert sum(served) <= 64 * 1024 * 1024 + 64 * 1024


async def test_sender_that_hangs_up_gets_no_answer() -> None:
    """Half a body is neither verified nor handed on."""
    webhooks: list[ReceivedWebhook] = []
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert await call(webhooks, pieces, signed(b"{")) == []
    assert webhooks == []


async def test_header_sent_twice_does_not_verify(inbox: Inbox) -> None:
    """A second webhook-id joins the first, as HTTP says, and neither is taken for the signed one."""
    pairs = [*signed(b"{}").items(), ("webhook-id", "cb_2")]
    response = await inbox.client.post("/", content=b"{}", headers=pairs)
    assert response.status_code == 401
    assert inbox.webhooks[0].headers["webhook-id"] == "cb_1, cb_2"


async def test_repeated_id_is_marked_as_duplicate(inbox: Inbox) -> None:
    """The same webhook again is marked; another one is not; both are answered 204."""
    for webhook_id in ("cb_1", "cb_2", "cb_1"):
        assert (await inbox.post(b"{}", signed(b"{}", webhook_id))).status_code == 204
    assert [webhook.duplicate for webhook in inbox.webhooks] == [False, False, True]


async def test_unverified_id_makes_no_duplicate(inbox: Inbox) -> None:
    """Somebody without the secret cannot have a real webhook taken for a duplicate."""
    await inbox.post(b"{}", Signer(OTHER_SECRETS).headers("cb_1", AT, b"{}"))
    await inbox.post(b"{}", signed(b"{}"))
    assert [(webhook.verified, webhook.duplicate) for webhook in inbox.webhooks] == [(False, False), (True, False)]


async def test_remembered_ids_are_bounded(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest id is forgotten first."""
    monkeypatch.setattr(receiver, "_MAX_SEEN_IDS", 2)
    for webhook_id in ("cb_1", "cb_2", "cb_3", "cb_3", "cb_1"):
        await inbox.post(b"{}", signed(b"{}", webhook_id))
    assert [webhook.duplicate for webhook in inbox.webhooks] == [False, False, False, True, False]


async def test_webhook_that_could_not_be_handled_is_no_duplicate_when_sent_again() -> None:
    """An id counts as seen only once it was handed on without an error."""
    webhooks: list[ReceivedWebhook] = []

    def fail_once(webhook: ReceivedWebhook) -> None:
        webhooks.append(webhook)
        if len(webhooks) == 1:
            raise RuntimeError("disk full")

    transport = httpx.ASGITransport(Receiver(SECRETS, FixedClock(), fail_once), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://r") as client:
        statuses = [(await client.post("/", content=b"{}", headers=signed(b"{}"))).status_code for _ in range(2)]
    assert statuses == [500, 204]
    assert [webhook.duplicate for webhook in webhooks] == [False, False]


# The print


def test_success_prints_its_urls() -> None:
    """One look tells which task ended how, with what, for which order, and that it is genuine."""
    assert pretty(received(SUCCEEDED)).splitlines() == [
        "✓ task.succeeded",
        "  taskId      task_1",
        "  state       success",
        "  resultUrls  https://cdn.example.com/a.png",
        "              https://cdn.example.com/b.png",
        '  metadata    {"orderId":7}',
        "  webhook-id  cb_1",
        "  signature   ✓ verified",
    ]


def test_failure_prints_code_and_message() -> None:
    """Empty metadata takes no line."""
    data: dict[str, Any] = {
        "taskId": "t",
        "state": "fail",
        "result": None,
        "failCode": "500",
        "failMsg": "no",
        "metadata": {},
    }
    assert pretty(received({"type": "task.failed", "data": data})).splitlines()[:-2] == [
        "✓ task.failed",
        "  taskId      t",
        "  state       fail",
        "  failCode    500",
        "  failMsg     no",
    ]


def test_abandoned_prints_the_reason() -> None:
    """The gateway's own word for why it gave up."""
    data = {"taskId": "t", "state": "abandoned", "reason": "timeout"}
    assert "  reason      timeout" in pretty(received({"type": "task.abandoned", "data": data})).splitlines()


def test_an_operator_event_prints_all_that_it_says() -> None:
    """In the order in which it says it, what to do and where the manual tells more last."""
    event = EXAMPLES["upstream.refused"]
    lines = pretty(received(event)).splitlines()
    assert lines[0] == "✓ upstream.refused"
    assert [line.split()[0] for line in lines[1:-2]] == [
        *("upstream", "tasksWaiting", "lastError", "whatToDo", "manual"),
    ]
    assert "  tasksWaiting 40" in lines


def test_a_record_prints_what_its_text_holds() -> None:
    """The family's own shape: its code and sentence, and the links in its text of JSON."""
    data = {"taskId": "task_1", "state": "success", "resultJson": '{"resultUrls":["https://cdn.example.com/a.png"]}'}
    event = {"code": 200, "msg": "Playground task completed successfully.", "data": data}
    assert pretty(received(event)).splitlines()[:-2] == [
        "✓ 200 Playground task completed successfully.",
        "  taskId      task_1",
        "  state       success",
        "  resultUrls  https://cdn.example.com/a.png",
    ]
    data = {"taskId": "task_1", "state": "fail", "resultJson": None, "failCode": "500", "failMsg": "no \x1b[2J"}
    assert pretty(received({"code": 501, "msg": "failed", "data": data})).splitlines()[:-2] == [
        "✓ 501 failed",
        "  taskId      task_1",
        "  state       fail",
        "  failCode    500",
        "  failMsg     no \\x1b[2J",
    ]
    odd = {"data": {"resultJson": "<not json>"}}
    assert pretty(received(odd)).splitlines()[:4] == [
        "✓ not a task's webhook",
        "  taskId      null",
        "  state       null",
        "  result      <not json>",
    ]


@pytest.mark.parametrize(("verified", "title"), [(True, "✓ a task's record"), (False, "✗ not a task's webhook")])
def test_another_apis_record_is_printed_whole(verified: bool, title: str) -> None:
    """An object without an envelope has its members under names of its own."""
    body = b'{"id":"p","status":"succeeded","output":["https://x/y.png"]}'
    webhook = received(json.loads(body), body=body, verified=verified, problem=None if verified else "forged")
    lines = pretty(webhook).splitlines()
    assert lines[:2] == [title, f"  body        {body.decode()}"]


def test_unverified_webhook_says_why_and_is_marked() -> None:
    """A ✗ at the head and the problem at the end; no ✓ anywhere."""
    lines = pretty(received(SUCCEEDED, verified=False, problem="webhook-timestamp is old", headers={})).splitlines()
    assert lines[0] == "✗ task.succeeded"
    assert lines[-2:] == ["  webhook-id  none", "  signature   ✗ not verified: webhook-timestamp is old"]
    assert not any("✓" in line for line in lines)


def test_duplicate_is_said() -> None:
    """People see that delivery is at least once."""
    assert "duplicate" in pretty(received(SUCCEEDED, duplicate=True)).splitlines()[0]
    assert "duplicate" not in pretty(received(SUCCEEDED))


def test_colour_only_when_asked() -> None:
    """The plain print is the coloured one without its escapes."""
    plain, coloured = pretty(received(SUCCEEDED)), pretty(received(SUCCEEDED), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32m✓\x1b[0m" in coloured


HOSTILE = "a\x1b[2J\r\n\x00\x7f\x9b31m\u2028\u202e\ud800b"


@pytest.mark.parametrize(
    "event",
    [
        {"type": HOSTILE, "data": {"taskId": HOSTILE, "state": HOSTILE, "failCode": HOSTILE, "failMsg": HOSTILE}},
        {"type": 7, "data": {"reason": HOSTILE, "result": {"resultUrls": [HOSTILE, {"x": 1}, None]}}},
        {"type": "x", "data": {"result": "\x1b]0;title\x07", "metadata": {"\x1b": "\u202e"}, "decodeError": [1]}},
    ],
)
@pytest.mark.parametrize("verified", [True, False])
def test_control_characters_are_escaped(event: Any, *, verified: bool) -> None:
    """What a sender wrote can neither move the cursor, nor add a line, nor turn the text around."""
    webhook = received(event, body=b"", verified=verified, problem=HOSTILE, headers={"webhook-id": HOSTILE})
    printed = pretty(webhook)
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "\\x1b" in printed
    names = {line[2:14].strip() for line in printed.split("\n")[1:]}
    assert names <= {"taskId", "state", "resultUrls", "", "result", "metadata", "webhook-id", "signature"} | {
        "failCode",
        "failMsg",
        "reason",
        "decodeError",
    }


@pytest.mark.parametrize("event", [None, 7, "text", [], {}, {"type": "x"}, {"type": "x", "data": []}])
def test_body_of_another_form_is_shown_as_it_is(event: Any) -> None:
    """A POST that is no task's webhook is printed all the same."""
    assert "  body        hello \ufffd\\x00" in pretty(received(event, body=b"hello \xff\x00")).splitlines()


def test_long_values_are_cut() -> None:
    """A megabyte of text or a thousand URLs do not fill the screen."""
    data = {"failMsg": "x" * 1_000_000, "result": {"resultUrls": ["https://x"] * 1000}}
    printed = pretty(received({"type": "task.failed", "data": data}))
    assert len(printed) < 10_000
    assert "… and 980 more" in printed


# Saved webhooks

SAVED = [
    "webhook-id: {id}\nwebhook-timestamp: {at}\nwebhook-signature: {signature}\n",
    "POST /hooks HTTP/1.1\r\nHost: x:80\r\nWebhook-Id: {id}\r\nWebhook-Timestamp:{at}\r\n"
    "Webhook-Signature:  {signature}\r\n\r\n",
    "> POST /hooks HTTP/1.1\n> webhook-id: {id}\n> webhook-timestamp: {at}\n> webhook-signature: {signature}\n>\n"
    "< HTTP/1.1 204 No Content\n< webhook-id: not-this-one\n",
    "webhook-id: {id}\nwebhook-timestamp: {at}\nwebhook-signature: {signature}\n\nwebhook-id: in-the-body\n",
    '{{"webhook-id": "{id}", "webhook-timestamp": "{at}", "webhook-signature": "{signature}"}}',
    ' {{"Webhook-Id": ["{id}"], "Webhook-Timestamp": {at}, "Webhook-Signature": ["{signature}"], "x": null}} ',
]


@pytest.mark.parametrize("form", SAVED)
def test_saved_webhook_is_verified(form: str) -> None:
    """Plain lines, an HTTP dump, curl -v's output and JSON are all read."""
    headers = signed(b"{}")
    text = form.format(id="cb_1", at=AT, signature=headers["webhook-signature"])
    assert verify_saved(b"{}", text, SECRETS, AT, 300).webhook_id == "cb_1"
    with pytest.raises(VerificationError, match="no signature matches"):
        verify_saved(b"{ }", text, SECRETS, AT, 300)
    with pytest.raises(VerificationError, match="old"):
        verify_saved(b"{}", text, SECRETS, AT + 11, 10)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "{", '{"webhook-id": ', "hello", ":", "{}", '{"webhook-id": {"a": [1]}}', "{\ud800"]
)
def test_saved_text_without_the_headers_is_refused(text: str) -> None:
    """Whatever the file holds, the error is a VerificationError."""
    with pytest.raises(VerificationError):
        verify_saved(b"{}", text, SECRETS, AT)


def saved(body: bytes, ending: str = "\n") -> str:
    return ending.join([*(f"{name}: {value}" for name, value in signed(body).items()), ""])


@pytest.mark.parametrize(
    "headers",
    [
        saved(b"{}").encode("utf-8-sig"),
        saved(b"{}", "\r\n").encode("utf-16"),
        saved(b"{}", "\r\n").encode("utf-16-be").join([b"\xfe\xff", b""]),
        ("x-name: caf\xe9\x85\n" + saved(b"{}")).encode("latin-1"),
        ("HTTP/2 200\n:method: POST\n:path: /hooks\n" + saved(b"{}")).encode(),
        saved(b"{}").replace("signature: ", "signature:\n\tv1,another\r\n ").encode(),
        ("webhook-user: x\n" + saved(b"{}", "\n  ")).encode(),
        json.dumps({":method": "POST", **signed(b"{}")}).encode("utf-8-sig"),
        b"\r\n" + saved(b"{}", "\r\n").encode(),
    ],
)
def test_headers_are_read_as_editors_and_shells_save_them(headers: bytes) -> None:
    """Any encoding, byte order marks, CR LF, folded and indented lines, a request line and HTTP/2's own fields."""
    assert verify_saved(b"{}", headers, SECRETS, AT).webhook_id == "cb_1"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (saved(b"{}") + "Webhook-Id: cb_2\n", "webhook-id is there more than once"),
        (saved(b"{}") * 2, "webhook-id is there more than once"),
        ('{"webhook-timestamp": [1, 1]}', "webhook-timestamp is there more than once"),
        (json.dumps(list(signed(b"{}").items())), "no object of names and values"),
        ('{"webhook-id": ', "no object of names and values"),
        (b"\xff\xfe\x00", "missing"),
        (b"\x00\x80\xff" * 1000, "missing"),
        (b"PK\x03\x04", "missing"),
    ],
)
def test_headers_that_cannot_be_those_of_one_webhook(headers: bytes | str, expected: str) -> None:
    """The error says what is wrong with the file, whatever bytes it holds."""
    with pytest.raises(VerificationError, match=expected):
        verify_saved(b"{}", headers, SECRETS, AT)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda body: body + b"\n", "a newline at its end"),
        (lambda body: body + b"\r\n", "a newline at its end"),
        (lambda body: b"\xef\xbb\xbf" + body, "a byte order mark"),
        (lambda body: b"\xef\xbb\xbf" + body + b"\n", "a byte order mark and a newline at its end"),
        (lambda body: body.replace(b"\n", b"\r\n"), "line ends of CR LF"),
        (lambda body: body.decode().encode("utf-16"), "another encoding"),
        (lambda body: json.dumps(json.loads(body), indent=2, ensure_ascii=False).encode(), "white space in its JSON"),
    ],
)
def test_a_body_that_saving_changed_is_told_from_a_forged_one(change: Any, found: str) -> None:
    """It does not verify, as its bytes are not the signed ones; the error says what to look for."""
    body = '{"a":"é"}'.encode() if found.startswith("white") else '{"a":\n"é"}'.encode()
    with pytest.raises(VerificationError, match=f"no signature matches the body as it is saved; without {found}"):
        verify_saved(change(body), saved(body), SECRETS, AT)
    for forged in (body.replace(b"a", b"b"), change(body).replace(b"a", b"b"), change(body)[1:], b"\xff\xfe", b""):
        with pytest.raises(VerificationError, match=r"no signature matches: the secret is another"):
            verify_saved(forged, saved(body), SECRETS, AT)
    with pytest.raises(VerificationError, match="old"):
        verify_saved(change(body), saved(body), SECRETS, AT + 301)
