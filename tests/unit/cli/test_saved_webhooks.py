"""Webhooks that were saved: how their headers are read, and what is said of a body that saving has changed."""

import json
from typing import Any

import pytest

from gateway.cli.receiver import verify_saved
from gateway.core.errors import VerificationError
from tests.receiving import AT, SECRETS, signed

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
