"""The nouns: states, ids, and when two registrations ask for the same thing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import TASK_MOVES, AttemptResult, Callback, CallbackState, Format, NewCallback, TaskState
from tests.nouns import callback

NOW = 1_795_428_033_120


def new_callback(
    metadata: bytes, timeout_s: int = 3600, model: str | None = None, shape: Format = Format.STANDARD
) -> NewCallback:
    return NewCallback(
        id="cb_new",
        client="default",
        upstream="aigptimage",
        task_id="task_1",
        url="https://app.example.com/hooks",
        metadata=metadata,
        timeout_s=timeout_s,
        created_at=NOW,
        first_poll_at=NOW,
        model=model,
        format=shape,
    )


def existing(metadata: bytes, timeout_s: int = 3600) -> Callback:
    return callback(client="default", metadata=metadata, timeout_s=timeout_s)


def test_the_words_of_the_states() -> None:
    """The states are the words that clients see; a renamed one would break them."""
    assert [state.value for state in TaskState] == ["waiting", "success", "fail", "abandoned"]
    assert [state.value for state in CallbackState] == ["waiting", "pending", "delivered", "dead", "cancelled"]
    assert [result.value for result in AttemptResult] == ["delivered", "retry", "dead", "interrupted"]


def test_only_the_upstream_ends_a_task_for_good() -> None:
    """Success and fail are the upstream's last word; a task that was given up may be asked about again."""
    assert {state for state in TaskState if state.terminal} == {TaskState.SUCCESS, TaskState.FAIL}
    assert {state for state in TaskState if TASK_MOVES[state].keys() == {None}} == {TaskState.SUCCESS, TaskState.FAIL}


def test_a_registration_expires_its_timeout_after_it_was_made() -> None:
    """The timeout is seconds, the instant milliseconds."""
    assert new_callback(b"{}", timeout_s=90).expires_at == NOW + 90_000


def test_another_model_is_no_other_request() -> None:
    """It only says when to ask first: whoever comes to know it, or was wrong, need not cancel what stands."""
    assert new_callback(b"{}", model="m").same_request_as(existing(b"{}"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"{}", b"{ }"),
        (b'{"a":1,"b":{"c":2,"d":3}}', b'{"b": {"d": 3, "c": 2}, "a": 1}'),
        (b'{"a":"\\u00e9"}', '{"a":"é"}'.encode()),
    ],
)
def test_the_order_and_spelling_of_metadata_do_not_matter(first: bytes, second: bytes) -> None:
    """The same request written differently is the same request."""
    assert new_callback(first).same_request_as(existing(second))
    assert new_callback(second).same_request_as(existing(first))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"{}", b'{"a":null}'),
        (b'{"a":1}', b'{"a":2}'),
        (b'{"a":1}', b'{"a":"1"}'),
        (b'{"a":1}', b'{"a":true}'),
        (b'{"a":0}', b'{"a":false}'),
        (b'{"a":[1,2]}', b'{"a":[2,1]}'),
        (b'{"a":9007199254740993}', b'{"a":9007199254740992.0}'),
    ],
)
def test_other_metadata_is_another_request(first: bytes, second: bytes) -> None:
    """Different metadata differs, also where Python would call the values equal."""
    assert not new_callback(first).same_request_as(existing(second))
    assert not new_callback(second).same_request_as(existing(first))


def test_another_timeout_is_another_request() -> None:
    """The timeout is part of what was asked for."""
    assert not new_callback(b"{}", timeout_s=60).same_request_as(existing(b"{}", timeout_s=61))


def test_another_format_is_another_request() -> None:
    """Whoever asks for another body would not know what comes."""
    assert not new_callback(b"{}", shape=Format.RECORD).same_request_as(existing(b"{}"))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(metadata=st.dictionaries(st.text(), json_values, max_size=4))
def test_a_request_is_always_the_same_as_itself(metadata: dict[str, Any]) -> None:
    """Sending the same registration again is recognised whatever the metadata holds."""
    compact = json.dumps(metadata, separators=(",", ":")).encode()
    spaced = json.dumps(dict(reversed(metadata.items())), indent=1).encode()
    assert new_callback(compact).same_request_as(existing(spaced))
