"""The webhook receiver: what it answers and what it hands on, each webhook once."""

from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from gateway.cli import receiver
from gateway.cli.receiver import ReceivedWebhook, Receiver
from gateway.signature import Signer
from tests.receiving import AT, OTHER_SECRETS, SECRETS, SUCCEEDED, FixedClock, encode, signed


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
