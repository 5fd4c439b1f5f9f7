"""What a create request tells the proxy, and what of it goes on."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.createrequest import read_create
from gateway.config.profile import Proxy
from gateway.core.errors import InvalidJson, InvalidRequest

CALLS = Proxy(
    create_path="/jobs",
    created_id="id",
    callback_members=["callBackUrl", "callbackUrl"],
    callback_options=["callBackEvents"],
)
JSON = "application/json"
OUT = (*CALLS.callback_members, *CALLS.callback_options)
URL = "https://app.example.com/hooks"


def test_only_the_callback_is_taken_out() -> None:
    """Every other value goes on in its own text: numbers keep their digits, strings their escapes."""
    body = (
        b'{"model":"m","n":1.00,"big":12345678901234567890123,"s":"\\u00e9\\/","callBackUrl":"' + URL.encode() + b'"}'
    )
    asked = read_create(body, CALLS, JSON)
    assert asked.body == b'{"model":"m","n":1.00,"big":12345678901234567890123,"s":"\\u00e9\\/"}'
    assert asked.callback == ("callBackUrl", URL)
    assert asked.model == "m"


ODD = (
    b'"prompt":"half \\ud83d","n":1e400,"m":NaN,"c":"a\x01\n","u":"\xe2\x82","n":2,"deep":' + b"[" * 3000 + b"]" * 3000
)


@pytest.mark.parametrize(
    ("body", "goes_on"),
    [
        (b'{"callBackUrl":"https://a",%b}' % ODD, b"{%b}" % ODD),
        (b'{%b,"callBackUrl":"https://a"}' % ODD, b"{%b}" % ODD),
        (b'{"a":1 , "callBackUrl" : "https://a" ,%b}' % ODD, b'{"a":1 ,%b}' % ODD),
        (b'\xef\xbb\xbf {"callBack\\u0055rl":"https:\\/\\/a",%b} \n' % ODD, b"\xef\xbb\xbf {%b} \n" % ODD),
        (b'{"callBackUrl":"https://a","callBackUrl":"https://a","a":"}],\\"{","b":{}}', b'{"a":"}],\\"{","b":{}}'),
        (b'{\n  "a": 1,\n  "callBackUrl": "https://a"\n}', b'{\n  "a": 1}'),
    ],
)
def test_the_rest_goes_on_byte_for_byte(body: bytes, goes_on: bytes) -> None:
    """What the gateway would not write itself goes on as it came: the upstream may take it."""
    asked = read_create(body, CALLS, JSON)
    assert (asked.body, asked.callback) == (goes_on, ("callBackUrl", "https://a"))


@pytest.mark.parametrize("text", [ODD, b'"a":' + b"[" * 100_000 + b"]" * 100_000])
def test_odd_json_alone_is_untouched(text: bytes) -> None:
    """Without a callback, too, the upstream judges what other readers take."""
    assert read_create(b"{%b}" % text, CALLS, JSON).body == b"{%b}" % text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    members=st.dictionaries(st.text().filter(lambda name: name not in OUT), json_values),
    place=st.integers(0, 9),
    indent=st.none() | st.just(1),
)
@settings(deadline=None)
def test_taking_out_leaves_the_same_object(members: dict[str, Any], place: int, indent: int | None) -> None:
    """Wherever the callback stands, and whatever stands beside it, what goes on is the object without it."""
    pairs = list(members.items())
    pairs.insert(min(place, len(pairs)), ("callBackUrl", URL))
    asked = read_create(json.dumps(dict(pairs), indent=indent).encode(), CALLS, JSON)
    assert repr(json.loads(asked.body)) == repr(members)
    assert asked.callback == ("callBackUrl", URL)


def test_without_a_callback_the_body_is_untouched() -> None:
    """Not even white space changes."""
    body = b'{ "model" : "m" , "model" : "n",\n"input": {"callBackUrl": "inner"}}'
    asked = read_create(body, CALLS, JSON)
    assert (asked.body, asked.callback, asked.model) == (body, None, "n")


@pytest.mark.parametrize("empty", [b"null", b'""'])
def test_an_empty_callback_is_none(empty: bytes) -> None:
    """Clients that always send the member mean nothing by null or the empty text."""
    asked = read_create(b'{"callbackUrl":%b,"a":1}' % empty, CALLS, JSON)
    assert (asked.body, asked.callback) == (b'{"a":1}', None)


def test_both_spellings_may_be_given() -> None:
    """The same URL twice is one callback; two different ones are refused, as one would be lost."""
    asked = read_create(b'{"callBackUrl":"https://a","callbackUrl":"https://a"}', CALLS, JSON)
    assert (asked.body, asked.callback) == (b"{}", ("callBackUrl", "https://a"))
    with pytest.raises(InvalidRequest, match="callBackUrl and callbackUrl name different URLs"):
        read_create(b'{"callBackUrl":"https://a","callbackUrl":"https://b"}', CALLS, JSON)
    with pytest.raises(InvalidRequest, match="callBackUrl name different URLs"):
        read_create(b'{"callBackUrl":"https://a","callBackUrl":"https://b"}', CALLS, JSON)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", InvalidJson),
        (b'{"a":', InvalidJson),
        (b'{"callBackUrl":"\xff"}', InvalidJson),
        (b'{"callBackUrl":"https://a/\\ud83d"}', InvalidJson),
        (b'{"a":tru,"callBackUrl":"https://a"}', InvalidJson),
        (b'{"a":1 "callBackUrl":"https://a"}', InvalidJson),
        (b'{"a":1,}', InvalidJson),
        (b'{"a":1} {"callBackUrl":"https://a"}', InvalidJson),
        ('{"a":1}'.encode("utf-16"), InvalidJson),
        (b"[" * 100_000 + b"]" * 100_000, InvalidRequest),
        (b'{"callBackUrl":%b}' % (b"[" * 100_000 + b"]" * 100_000), InvalidRequest),
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
        read_create(body, CALLS, JSON)


@pytest.mark.parametrize("model", [b"7", b"null", b'""', b'"a\\u0000b"', b'"' + b"x" * 300 + b'"'])
def test_a_model_that_is_no_name_is_not_kept(model: bytes) -> None:
    """Only the upstream judges the model; what is no plain name teaches the gateway nothing."""
    body = b'{"model":%b}' % model
    assert read_create(body, CALLS, JSON).model is None
    assert read_create(body, CALLS, JSON).body == body


@pytest.mark.parametrize(
    ("body", "goes_on"),
    [
        (b'{"a":1,"callBackEvents":["x"],"callBackUrl":"https://a"}', b'{"a":1}'),
        (b'{"callBackUrl":null,"callBackEvents":["x"]}', b"{}"),
        (b'{"callBackEvents":["x"]}', b'{"callBackEvents":["x"]}'),
    ],
)
def test_what_is_said_of_the_callback_goes_with_it(body: bytes, goes_on: bytes) -> None:
    """Without a callback it is no business of the gateway's."""
    assert read_create(body, CALLS, JSON).body == goes_on


@pytest.mark.parametrize(
    ("body", "goes_on"),
    [
        (b'{"callBackUrl" : "https://a","a":1}', b'{"a":1,"callBackUrl" :"https://none.invalid/"}'),
        (b'{"callBackUrl":"https://a","callBackEvents":[]}', b'{"callBackUrl":"https://none.invalid/"}'),
        (
            b'{"callbackUrl":"https://a","a":1,"callBackUrl":"https://a"}',
            b'{"a":1,"callbackUrl":"https://none.invalid/"}',
        ),
        (b'{"callBackUrl":"","a":1}', b'{"a":1}'),
        (b'{"a":1}', b'{"a":1}'),
    ],
)
def test_a_url_may_stand_in_for_the_callback(body: bytes, goes_on: bytes) -> None:
    """For an API that refuses a create without: it stands under the name that the client wrote, and only once."""
    calls = msgspec.structs.replace(CALLS, callback_stand_in="https://none.invalid/")
    assert read_create(body, calls, JSON).body == goes_on


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "Multipart/Form-Data"])
def test_a_form_is_not_looked_into(content_type: str) -> None:
    """It may hold files; it goes on as what it calls itself."""
    asked = read_create(b"--x\r\n", CALLS, content_type)
    assert (asked.body, asked.content_type, asked.callback, asked.model) == (b"--x\r\n", content_type, None, None)


@pytest.mark.parametrize("content_type", ["", "text/json", "application/x-www-form-urlencoded", "application/json"])
def test_whatever_else_it_calls_itself_it_is_json(content_type: str) -> None:
    """Some programs write no type, or curl's."""
    assert read_create(b'{"callBackUrl":"https://a"}', CALLS, content_type).content_type == "application/json"
    with pytest.raises(InvalidJson):
        read_create(b"a=b", CALLS, content_type)
