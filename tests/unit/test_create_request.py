"""What a create request tells the proxy, and what of it goes on."""

import pytest

from gateway.api.create import read_create
from gateway.errors import InvalidJson, InvalidRequest

MEMBERS = ["callBackUrl", "callbackUrl"]
URL = "https://app.example.com/hooks"


def test_only_the_callback_is_taken_out() -> None:
    """Every other value goes on in its own text: numbers keep their digits, strings their escapes."""
    body = (
        b'{"model":"m","n":1.00,"big":12345678901234567890123,"s":"\\u00e9\\/","callBackUrl":"' + URL.encode() + b'"}'
    )
    asked = read_create(body, MEMBERS)
    assert asked.body == b'{"model":"m","n":1.00,"big":12345678901234567890123,"s":"\\u00e9\\/"}'
    assert asked.callback == ("callBackUrl", URL)
    assert asked.model == "m"


def test_without_a_callback_the_body_is_untouched() -> None:
    """Not even white space changes."""
    body = b'{ "model" : "m" , "model" : "n",\n"input": {"callBackUrl": "inner"}}'
    asked = read_create(body, MEMBERS)
    assert (asked.body, asked.callback, asked.model) == (body, None, "n")


@pytest.mark.parametrize("empty", [b"null", b'""'])
def test_an_empty_callback_is_none(empty: bytes) -> None:
    """Clients that always send the member mean nothing by null or the empty text."""
    asked = read_create(b'{"callbackUrl":%b,"a":1}' % empty, MEMBERS)
    assert (asked.body, asked.callback) == (b'{"a":1}', None)


def test_both_spellings_may_be_given() -> None:
    """The same URL twice is one callback; two different ones are refused, as one would be lost."""
    asked = read_create(b'{"callBackUrl":"https://a","callbackUrl":"https://a"}', MEMBERS)
    assert (asked.body, asked.callback) == (b"{}", ("callBackUrl", "https://a"))
    with pytest.raises(InvalidRequest, match="callBackUrl and callbackUrl name different URLs"):
        read_create(b'{"callBackUrl":"https://a","callbackUrl":"https://b"}', MEMBERS)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", InvalidJson),
        (b'{"a":', InvalidJson),
        (b'{"callBackUrl":"\xff"}', InvalidJson),
        (b'{"a":' + b"[" * 100_000, InvalidJson),
        (b"[]", InvalidRequest),
        (b'"text"', InvalidRequest),
        (b'{"callBackUrl":7}', InvalidRequest),
        (b'{"callBackUrl":["https://a"]}', InvalidRequest),
    ],
)
def test_what_is_no_create_request(body: bytes, error: type[Exception]) -> None:
    """What is not a JSON object, or names no URL, is refused."""
    with pytest.raises(error):
        read_create(body, MEMBERS)


@pytest.mark.parametrize("model", [b"7", b"null", b'""', b'"a\\u0000b"', b'"' + b"x" * 300 + b'"'])
def test_a_model_that_is_no_name_is_not_kept(model: bytes) -> None:
    """Only the upstream judges the model; what is no plain name teaches the gateway nothing."""
    body = b'{"model":%b}' % model
    assert read_create(body, MEMBERS).model is None
    assert read_create(body, MEMBERS).body == body
