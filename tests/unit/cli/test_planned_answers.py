"""The answers that the webhook receiver is told to give, for trying things out."""

import asyncio
from typing import Any

import httpx
import pytest

from gateway.cli.receiver import PlannedAnswer, ReceivedWebhook, Receiver, parse_answers, pretty
from tests.receiving import SECRETS, FixedClock, signed


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
