"""What an answer to a create means: which task was made, or whether it is known that none was."""

import json
from typing import Any

import pytest

from gateway.upstream.answer import Created, read_created
from tests.pollanswers import PROFILE
from tests.profiles import SHIPPED


def created(body: bytes, status: int = 200) -> Created:
    return read_created(PROFILE, status, body, "data.taskId")


def test_the_answer_to_a_create() -> None:
    """A create's answer is read as leniently as a poll's; a refusal is told from an answer that cannot be read."""
    assert created(b'\xef\xbb\xbf{"code":200.0,"msg":"\\ud83d","data":{"taskId":"t"}}') == ("t", False, False)
    assert created(b'{"data":{"taskId":42.0,"n":NaN}}') == ("42", False, False)
    assert created(b'{"code":402,"msg":"m","data":null}') == (None, True, True)
    assert created(b"<html>", 503) == (None, True, False)
    for unreadable in (b"<html>", b"", b"[]", b"{}", b'{"code":200,"data":{"id":"t"}}', b"[" * 100_000):
        assert created(unreadable) == (None, False, False)


@pytest.mark.parametrize(
    ("status", "code", "none_made"),
    [
        (200, 429, True),
        (200, 455, True),
        (200, 503, True),
        (200, 505, True),
        (503, 503, True),
        (503, 429, True),
        (503, None, False),
        (400, 400, True),
        (403, None, True),
        (409, None, True),
        (200, 500, False),
        (200, 501, False),
        (500, 402, False),
        (504, None, False),
        (408, None, False),
        (200, 408, False),
        (408, 422, False),
        (200, -1, False),
    ],
)
def test_whether_a_create_is_known_to_have_made_nothing(status: int, code: int | None, none_made: bool) -> None:
    """The refusal of a request leaves no doubt; a server's failure, or a time-out, may have come after the task.

    That the API is busy, or does such things no more, is a refusal; what stands before it says so of lost answers too.
    """
    body = b"<html>" if code is None else b'{"code":%d,"msg":"m","data":null}' % code
    assert created(body, status) == (None, True, none_made)


@pytest.mark.parametrize(
    ("body", "none_made"),
    [
        ({"error": {"message": "The engine is overloaded", "type": "server_error"}}, True),
        ({"message": "Service Unavailable"}, False),  # of a gateway whose own time was up
        ({"error": "upstream connect error or disconnect/reset before headers"}, False),
        ([], False),
    ],
)
def test_whose_word_it_is_that_an_api_is_busy(body: Any, none_made: bool) -> None:
    """Where the API has no codes of its own, its error's shape tells: another's word leaves the create in doubt."""
    assert read_created(SHIPPED["openai-video"], 503, json.dumps(body).encode(), "id") == (None, True, none_made)


def test_an_error_that_names_a_task_has_made_it() -> None:
    """Whatever else it says: there is a task to be paid for."""
    assert created(b'{"code":422,"data":{"taskId":"t"}}') == ("t", True, False)
