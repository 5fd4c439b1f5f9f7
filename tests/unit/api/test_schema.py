"""Request bodies: what is taken, and how every mistake in them is told."""

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.api.schema import BatchRequest, CallbackRequest, RedeliveriesRequest, batch_items, decode
from gateway.core.errors import InvalidJson, InvalidRequest

CALLBACK: Any = msgspec.json.Decoder(CallbackRequest)
BATCH: Any = msgspec.json.Decoder(BatchRequest)
REDELIVERIES: Any = msgspec.json.Decoder(RedeliveriesRequest)
WHOLE_S = "must be a whole number from 1 to 2592000"


def body(**members: Any) -> bytes:
    """Return a registration with the members changed; None leaves one out."""
    whole = {"taskId": "task_1", "callbackUrl": "https://app.example.com/hooks", **members}
    return msgspec.json.encode({name: value for name, value in whole.items() if value is not None})


def instants(**members: str) -> bytes:
    """Return a request for redeliveries with these."""
    return msgspec.json.encode({"state": "dead", **members})


def test_the_least_registration() -> None:
    """Task and URL are enough; the rest has its documented defaults."""
    asked = decode(body(), CALLBACK)
    assert asked == CallbackRequest(task_id="task_1", callback_url="https://app.example.com/hooks")
    assert (asked.metadata, asked.timeout_seconds, asked.upstream, asked.model) == ({}, 86_400, None, None)


def test_the_whole_registration() -> None:
    """Every member is read under its name on the wire."""
    asked = decode(body(metadata={"orderId": 7}, timeoutSeconds=3600, upstream="aigptimage", model="m é"), CALLBACK)
    assert (asked.metadata, asked.timeout_seconds) == ({"orderId": 7}, 3600)
    assert (asked.upstream, asked.model) == ("aigptimage", "m é")


def test_a_member_that_is_null_is_as_if_left_out() -> None:
    """Clients that always send every optional member mean nothing by a null."""
    members = b'"metadata":null,"timeoutSeconds":null,"upstream":null,"model":null'
    asked = decode(body()[:-1] + b"," + members + b"}", CALLBACK)
    assert (asked.metadata, asked.timeout_seconds, asked.upstream, asked.model) == (None, None, None, None)


@pytest.mark.parametrize(
    "members",
    [
        {"taskId": "!" * 255},
        {"taskId": "~"},
        {"taskId": "a/b?c=d&e#f%20"},
        {"callbackUrl": "https://x/" + "a" * 2038},
        {"timeoutSeconds": 1},
        {"timeoutSeconds": 2_592_000},
        {"timeoutSeconds": 60.0},
        {"model": "m"},
        {"model": "é" * 255},
    ],
)
def test_the_bounds_are_inside(members: dict[str, Any]) -> None:
    """The smallest and largest of everything are accepted."""
    decode(body(**members), CALLBACK)


@pytest.mark.parametrize(
    ("sent", "field", "message"),
    [
        (body(taskId=None), "taskId", "is missing"),
        (body(callbackUrl=None), "callbackUrl", "is missing"),
        (body(tsakId="x"), "tsakId", "is not a member of this request; check its spelling"),
        (body(task_id="x"), "task_id", "is not a member of this request; check its spelling"),
        (body(taskId=7), "taskId", "expected `str`, got `int`"),
        (body(taskId=""), "taskId", "expected `str` of length >= 1"),
        (body(taskId="a" * 256), "taskId", "expected `str` of length <= 255"),
        (body(taskId="a b"), "taskId", "must be printable ASCII without spaces"),
        (body(taskId="a\n"), "taskId", "must be printable ASCII without spaces"),
        (body(taskId="\na"), "taskId", "must be printable ASCII without spaces"),
        (body(taskId="é"), "taskId", "must be printable ASCII without spaces"),
        (body(taskId="a\x7f"), "taskId", "must be printable ASCII without spaces"),
        (body(callbackUrl=""), "callbackUrl", "expected `str` of length >= 1"),
        (body(callbackUrl="https://x/" + "a" * 2039), "callbackUrl", "expected `str` of length <= 2048"),
        (body(callbackUrl=["x"]), "callbackUrl", "expected `str`, got `array`"),
        (body(metadata=[]), "metadata", "expected `object | null`, got `array`"),
        (body(metadata="x"), "metadata", "expected `object | null`, got `str`"),
        (body(timeoutSeconds=0), "timeoutSeconds", WHOLE_S),
        (body(timeoutSeconds=2_592_001), "timeoutSeconds", WHOLE_S),
        (body(timeoutSeconds="60"), "timeoutSeconds", WHOLE_S),
        (body(timeoutSeconds=True), "timeoutSeconds", WHOLE_S),
        (body(timeoutSeconds=1.5), "timeoutSeconds", WHOLE_S),
        (body(upstream=7), "upstream", "expected `str | null`, got `int`"),
        (body(model=""), "model", "expected `str` of length >= 1"),
        (body(model="m" * 256), "model", "expected `str` of length <= 255"),
        (body(model=["m"]), "model", "expected `str | null`, got `array`"),
        (b"[]", "", "expected `object`, got `array`"),
        (b"null", "", "expected `object`, got `null`"),
        (b'"x"', "", "expected `object`, got `str`"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_a_mistake_names_its_field(sent: bytes, field: str, message: str) -> None:
    """What is wrong is told with the member's name on the wire, in the sentence and in the list."""
    with pytest.raises(InvalidRequest) as caught:
        decode(sent, CALLBACK)
    assert caught.value.errors == ((field, message),)
    assert caught.value.message == (f"{field}: {message}" if field else message)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"taskId=task_1",
        b'{"taskId":"task_1"',
        b"{'taskId':'task_1'}",
        body() + b" x",
        b"\xff",
        b'{"taskId":"\xff"}',
        b"\xef\xbb\xbf" + body(),
        b'{"taskId":"t","callbackUrl":"u","metadata":' + b'{"a":' * 100_000,
    ],
    ids=lambda sent: repr(sent[:20]),
)
def test_what_is_not_json_is_told_apart(sent: bytes) -> None:
    """Bytes that are no JSON are another error than JSON that does not fit."""
    with pytest.raises(InvalidJson, match="could not be read as JSON"):
        decode(sent, CALLBACK)


@pytest.mark.parametrize(
    ("sent", "field", "message"),
    [
        (b"{}", "callbacks", "is missing"),
        (b'{"callbacks":{}}', "callbacks", "expected `array`, got `object`"),
        (b'{"callbacks":[]}', "callbacks", "expected `array` of length >= 1"),
        (b'{"callbacks":[' + b",".join([b"{}"] * 1001) + b"]}", "callbacks", "expected `array` of length <= 1000"),
        (b'{"callbacks":[{}],"dryRun":true}', "dryRun", "is not a member of this request; check its spelling"),
    ],
    ids=["missing", "object", "empty", "too many", "unknown"],
)
def test_a_mistake_in_a_batch(sent: bytes, field: str, message: str) -> None:
    """A batch as a whole has its own bounds."""
    with pytest.raises(InvalidRequest) as caught:
        decode(sent, BATCH)
    assert caught.value.errors == ((field, message),)


def test_the_items_of_a_batch_are_read_one_by_one() -> None:
    """A batch with wrong items is taken: each is decoded by itself, so that one does not refuse the others."""
    items = decode(b'{"callbacks":[' + b",".join([body(), b"7", b"{}"] + [b"{}"] * 997) + b"]}", BATCH).callbacks
    assert len(items) == 1000
    assert decode(items[0], CALLBACK).task_id == "task_1"
    for item in items[1:3]:
        with pytest.raises(InvalidRequest):
            decode(item, CALLBACK)


@pytest.mark.parametrize(
    "first", [b"0", b'"\\ud83d"', b"[" * 2000 + b"]" * 2000], ids=["good", "half an emoji", "deep"]
)
def test_of_a_batch_with_too_many_items_no_more_are_made(first: bytes) -> None:
    """A hundred thousand in 200 KB would take 6 MB, also where one of them stops every decoder."""
    body = b'{"callbacks":[%b%b]}' % (first, b",0" * 100_000)
    batch_items(b'{"callbacks":[0]}')
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            batch_items(body)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()
    assert caught.value.errors == (("callbacks", "expected `array` of length <= 1000"),)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(items=st.lists(json_values, max_size=5), place=st.integers(0, 5), indent=st.none() | st.just(1))
@settings(deadline=None)
def test_a_batch_is_taken_apart_whatever_stands_in_it(items: list[Any], place: int, indent: int | None) -> None:
    """Beside an item that stops every decoder the others are found as they were sent, and in their order."""
    items.insert(place, {"taskId": "\ud83d", "deep": "DEEP"})
    text = json.dumps({"callbacks": items}, indent=indent).replace('"DEEP"', "[" * 2000 + "]" * 2000)
    found = [bytes(item).replace(b"[" * 2000 + b"]" * 2000, b'"DEEP"') for item in batch_items(text.encode())]
    assert repr([json.loads(item) for item in found]) == repr(items)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (b"{}", "state"),
        (b'{"state":"delivered"}', "state"),
        (b'{"state":"dead\\n"}', "state"),
        (b'{"state":null}', "state"),
        (b'{"state":"dead","since":1795428000000}', "since"),
        (b'{"state":"dead","until":[]}', "until"),
        (b'{"state":"dead","before":"x"}', "before"),
    ],
)
def test_a_mistake_in_a_redelivery(sent: bytes, field: str) -> None:
    """Only what died can be redelivered in bulk, and a mistyped bound does not widen the span in silence."""
    with pytest.raises(InvalidRequest) as caught:
        decode(sent, REDELIVERIES)
    assert [name for name, _ in caught.value.errors] == [field]


def test_which_states_are_redelivered_is_said() -> None:
    """Whoever asks for another is told the one that there is, and what to do about the others."""
    for sent in (b'{"state":"delivered"}', b'{"state":null}', b'{"state":["dead"]}'):
        with pytest.raises(InvalidRequest, match=r'^state: must be "dead": callbacks in another state are redeliv'):
            decode(sent, REDELIVERIES)


def test_a_redelivery() -> None:
    """Dead callbacks, from and to an instant, either of which may be left open."""
    assert decode(b'{"state":"dead"}', REDELIVERIES) == RedeliveriesRequest(state="dead")
    since, until = "2026-11-23t10:00:00.25+23:59", "9999-12-31T23:59:59Z"
    asked = decode(instants(since=since, until=until), REDELIVERIES)
    assert (asked.since, asked.until) == (since, until)


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-11-23",
        "2026-11-23T10:00",
        "2026-11-23T10:00:00",
        "2026-11-23T10:00Z",
        "20261123T100000Z",
        "2026-W48-1T10:00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T23:59:60Z",
        "2026-13-01T10:00:00Z",
        "2026-11-32T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2026-11-23T10:00:00+24:00",
        "2026-11-23T10:00:00.Z",
    ],
)
def test_what_is_no_instant(text: str) -> None:
    """What RFC 3339 has, but for leap seconds and what lies outside of the years 1 to 9999; and no other form."""
    with pytest.raises(InvalidRequest, match=r"^since: must be an instant with a zone as RFC 3339 has it"):
        decode(instants(since=text), REDELIVERIES)


names = st.text(min_size=1).filter(
    lambda name: name not in ("taskId", "callbackUrl", "metadata", "timeoutSeconds", "upstream", "model")
)


@given(name=names)
@example(name="a\nb")
@example(name="a`b")
@example(name="a`")
@example(name="$.a")
@example(name=" - at `")
@example(name="a` - at `$.b")
def test_any_unknown_member_is_named(name: str) -> None:
    """A member that nobody knows is refused under exactly its name, whatever characters that has."""
    with pytest.raises(InvalidRequest) as caught:
        decode(body(**{name: 1}), CALLBACK)
    assert caught.value.errors == ((name, "is not a member of this request; check its spelling"),)


@given(sent=st.binary())
def test_arbitrary_bytes_are_refused_politely(sent: bytes) -> None:
    """No bytes raise anything but the two errors of a request."""
    for decoder in (CALLBACK, BATCH, REDELIVERIES):
        with pytest.raises((InvalidJson, InvalidRequest)):
            decode(sent, decoder)
