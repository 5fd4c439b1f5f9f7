"""Which part of the manual explains a sentence: each sentence is made where the gateway makes it."""

import json
import re
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from gateway.app.gateway import FLAWS
from gateway.config.profilefile import config_dir, read_profiles
from gateway.core.errors import AddressNotAllowed
from gateway.core.model import TaskState
from gateway.dashboard import polls
from gateway.dashboard.manual.book import Book
from gateway.dashboard.manual.markdown import Section
from gateway.dashboard.meanings import MEANINGS, meaning
from gateway.dashboard.timeline import _how_it_ended
from gateway.net.guard import Netguard
from gateway.store.postgres.errors import FOR_EVERYBODY
from gateway.store.sqlite.filewatch import ADVICE
from gateway.upstream.answer import AbandonReason, abandoned, read_answer
from gateway.webhook.explaining import OF_EVENTS, SENTENCES, explained, explained_status

PROFILE = read_profiles([config_dir() / "upstreams"])[0]["aigptimage"]


@pytest.fixture(scope="module")
def sections() -> Sequence[Section]:
    """Return the parts of the page that explains."""
    return Book("/manual").pages["troubleshooting"].sections


def test_each_meaning_has_its_heading(sections: Sequence[Section]) -> None:
    """Where a link leads there is something to read."""
    anchors = {one.anchor for one in sections}
    assert [anchor for _, anchor in MEANINGS if anchor not in anchors] == []


@pytest.mark.parametrize(
    ("reason", "anchor"),
    [
        ("dns", "the-name-does-not-resolve"),
        ("refused", "nothing-listens-there"),
        ("reset", "nothing-listens-there"),
        ("tls", "its-certificate-is-not-accepted"),
        ("timeout", "the-receiver-is-slow"),
        ("protocol", "its-answer-is-not-http"),
        ("blocked", "the-address-is-blocked"),
        ("proxy_unreachable", "the-egress-proxy-fails"),
        ("proxy_auth", "the-egress-proxy-fails"),
        ("proxy_failed", "the-egress-proxy-fails"),
        ("proxy_timeout", "the-egress-proxy-fails"),
    ],
)
def test_why_there_is_no_answer(reason: Any, anchor: str) -> None:
    """By itself, and as an attempt of a time line has it."""
    assert reason in SENTENCES
    text = explained(reason, "https://shop.example.com/x", why="it fails", timeout_s=15)
    assert meaning(text) == meaning(f"The webhook is dead: no attempt follows. It took 12 ms. {text}") == anchor


@pytest.mark.parametrize("why", ["TLSV13 ALERT CERTIFICATE REQUIRED", "TLSV1 ALERT UNKNOWN CA"])
def test_a_receiver_that_minds_our_certificate(why: str) -> None:
    """It is not the receiver's that is to be looked at, and the same part says so."""
    text = explained("tls", "https://shop.example.com/x", why=why)
    assert "check the receiver's certificate" not in text
    assert "client_cert_file" in text
    assert meaning(text) == "its-certificate-is-not-accepted"


@pytest.mark.parametrize(
    ("status", "anchor"),
    [
        (301, "it-answers-anything-else"),
        (401, "it-answers-401-or-403"),
        (403, "it-answers-401-or-403"),
        (407, "it-answers-401-or-403"),
        (404, "it-answers-anything-else"),
        (410, "it-answers-410"),
        (429, "it-answers-anything-else"),
        (500, "it-answers-anything-else"),
    ],
)
def test_what_a_receiver_answered(status: int, anchor: str) -> None:
    """A refused signature and a receiver that wants no more have a part of their own."""
    text = explained_status(status, "shop.example.com:8443")
    assert meaning(f"To be tried again. It took 4.2 s. {text}") == anchor


def test_of_operator_events_no_sentence_speaks_of_callbacks() -> None:
    """Who reads it is to look at the events URL: there is neither a receiver nor a callback to mend."""
    url = "https://ops.example.com/x"
    said = [explained(reason, url, OF_EVENTS, why="it fails", timeout_s=15) for reason in SENTENCES]
    said.append(explained("tls", url, OF_EVENTS, why="TLSV1 ALERT UNKNOWN CA").replace("[[receivers]]", ""))
    said += [explained_status(status, "ops.example.com", OF_EVENTS) for status in range(300, 600)]
    for text in said:
        assert not re.search("receiver|callback|webhook", text, re.IGNORECASE), text
    assert sum("events URL" in text for text in said) > 100
    assert explained("dns", url, OF_EVENTS).endswith("check the events URL's host and its DNS record.")
    assert "set GATEWAY_EVENTS_URL to" in explained_status(301, "ops.example.com", OF_EVENTS)


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/x",
        "http://app.example.com/",
        "https://app.example.com:8443/",
        "https://169.254.169.254/",
        "https://x.internal/",
    ],
)
def test_what_the_callback_policy_refuses(url: str) -> None:
    """Whichever rule it is."""
    with pytest.raises(AddressNotAllowed) as caught:
        Netguard(()).check_url(url)
    assert meaning(caught.value.message) == "the-address-is-blocked"


def polled(status: int, body: Any) -> str | None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(PROFILE, "t", status, None, sent).error


def error(code: int) -> dict[str, Any]:
    return {"code": code, "msg": "no", "data": None}


@pytest.mark.parametrize(
    ("text", "anchor"),
    [
        (polled(401, error(401)), "the-key-is-refused"),
        (polled(403, b"error code: 1010"), "the-key-is-refused"),
        (polled(200, error(429)), "the-budget-is-used-up"),
        (polled(402, error(402)), "the-account-has-no-credits"),
        (polled(404, error(404)), "the-task-is-not-known"),
        (polled(200, error(422)), "the-task-is-not-known"),
        (polled(200, b"<html>"), "the-answer-cannot-be-read"),
        (polled(200, []), "the-answer-cannot-be-read"),
        (polled(200, {"code": 200, "data": {}}), "the-answer-cannot-be-read"),
        (polled(200, {"code": 200, "data": {"taskId": "u", "state": "waiting"}}), "the-upstream-answers-nonsense"),
        (polled(500, error(500)), "the-upstream-gives-no-answer"),
        (polled(503, b"busy"), "the-upstream-gives-no-answer"),
        ("The upstream did not answer within 30 s.", "the-upstream-gives-no-answer"),
        ("The upstream could not be reached: 127.0.0.1:9: Connection refused.", "the-upstream-gives-no-answer"),
        ("The upstream's answer is not valid HTTP/1.1: x.", "the-upstream-gives-no-answer"),
        (
            "The upstream's answer is larger than the 1024 bytes of GATEWAY_RESULT_MAX_BYTES.",
            "the-answer-cannot-be-read",
        ),
        ("the upstream kie refuses the key", "the-key-is-refused"),
        (f"the upstream kie {FLAWS[0][0]}", "the-key-is-refused"),
        (f"the upstream kie {FLAWS[1][0]}", "the-upstream-answers-nonsense"),
        (f"the upstream kie {FLAWS[2][0]}", "the-upstream-gives-no-answer"),
        (f"the upstream kie {FLAWS[3][0]}", "the-budget-is-used-up"),
        ("It waits: the upstream kie refuses the key. Where such tasks end.", "the-key-is-refused"),
        ("It waits for its turn: the key's rate limit is used up. Where such tasks end.", "the-budget-is-used-up"),
        ("no replica polls the upstream kie", "nobody-polls-the-task"),
        ("the deliverer keeps failing", "a-loop-fails"),
        ("the poller-kie has made no progress for 31 s", "a-loop-fails"),
        ("spans or metrics do not get through to their collector", "the-collector-takes-nothing"),
        ("it is shutting down", "it-starts-or-stops"),
        ("the store is failing", "the-database-fails"),
        ("the store is failing: its disk is full", "the-disk-is-full"),
        *((words, "the-disk-is-full" if "full" in words else "the-database-fails") for words in FOR_EVERYBODY.values()),
        *((words, "the-database-fails") for words in ADVICE),
    ],
)
def test_what_a_poll_or_the_gateway_says(text: str | None, anchor: str) -> None:
    """Each kind of trouble has its part."""
    assert text is not None
    assert meaning(text) == anchor, text


@pytest.mark.parametrize("reason", get_args(AbandonReason))
def test_why_a_task_was_given_up(reason: AbandonReason) -> None:
    """As its time line tells it: each reason has its part."""
    anchors = {
        "timeout": "it-says-abandoned",
        "unreadable": "the-answer-cannot-be-read",
        "refused": "the-key-is-refused",
        "not_found": "the-task-is-not-known",
    }
    told = _how_it_ended(TaskState.ABANDONED, abandoned("task-1", reason).data)
    assert meaning(f"{told} 2 min after the registration.") == anchors[reason]


@pytest.mark.parametrize(
    "words", ["the disk is full", "the database", "app.example.com answered 410:", "it is starting"]
)
def test_what_others_say_is_not_taken_for_the_gateways_words(words: str) -> None:
    """An upstream's error or a failed task may quote anything."""
    assert meaning(polled(500, {"code": 500, "msg": words, "data": None})) == "the-upstream-gives-no-answer"
    told = _how_it_ended(TaskState.FAIL, json.dumps({"state": "fail", "failMsg": words}).encode())
    assert words in told
    assert meaning(f"{told} 3.0 s after the registration.") == "the-task-failed"


def test_a_task_that_nobody_polls() -> None:
    """As its page tells it."""
    assert meaning("The upstream gone is not configured: nobody polls this task.") == "nobody-polls-the-task"


@pytest.mark.parametrize("words", [words for came, words in polls._CAME.items() if came not in polls._GOOD])
def test_a_poll_that_brought_nothing(words: str) -> None:
    """Each kind that a time line tells of."""
    assert meaning(f"Poll 12: {words}") is not None


@pytest.mark.parametrize("text", [None, "", "Waits for the task's end for 1 d.", "Delivered. It took 12 ms."])
def test_what_needs_no_explanation(text: str | None) -> None:
    """Nothing is said of what went well."""
    assert meaning(text) is None


def test_every_part_says_what_to_do(sections: Sequence[Section]) -> None:
    """None of them is only a heading."""
    short = [one.title for one in sections if one.level == 3 and len(one.text) < 60]
    assert short == []
