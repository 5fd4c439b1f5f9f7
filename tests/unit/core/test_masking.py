"""Secrets that come back in an answer are not shown, in whichever spelling common encoders give them."""

import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from gateway.core.masking import _PIECE, Mask

PLAIN = "sk-0a1B_c2.d3~e4f5g6h7"
ODD = "sk-ab/c+d\"e\\f=gh&i<j>k'l%"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": json.dumps,
    "in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "in JSON that escapes slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "in JSON that is safe in HTML": lambda text: (
        json.dumps(text).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003E").replace("+", "\\u002B")
    ),
    "in a URL": lambda text: quote(text, safe=""),
    "in a URL's query": quote_plus,
    "in a URL in lower case": lambda text: quote(text, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "in a URL in a URL": lambda text: quote(quote(text, safe=""), safe=""),
    "in HTML": html.escape,
    "in HTML by numbers": lambda text: text.replace("&", "&#38;").replace("<", "&#x3C;").replace('"', "&#034;"),
}


@pytest.mark.parametrize("key", [PLAIN, ODD])
@pytest.mark.parametrize("how", SPELLINGS)
def test_a_secret_is_masked_however_it_is_spelt(how: str, key: str) -> None:
    """What stands around it stays as it was, and JSON stays JSON."""
    text = f"no such key: {SPELLINGS[how](key)}!"
    masked = Mask([key]).masked(text.encode()).decode()
    assert masked.startswith("no such key: ")
    assert masked.endswith("!")
    assert masked.count("***") == 1
    assert not set(masked[len("no such key: ") : -1]) - set('*"\\'), masked


@pytest.mark.parametrize("key", [PLAIN, ODD])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_secret_is_masked_in_wide_text(encoding: str, key: str) -> None:
    """JSON readers take these encodings, and so does the gateway; what stands around it can still be read."""
    text = f'{{"msg": "no such key: {key}!"}}'
    assert Mask([key]).masked(text.encode(encoding)).decode(encoding) == '{"msg": "no such key: ***!"}'


def test_what_holds_no_secret_is_left_as_it_is() -> None:
    """Not even copied: answers are many, and some are large."""
    text = b'{"code": 200, "msg": "success \\u0026 more"}' * 1000
    assert Mask([PLAIN, ODD]).masked(text) is text


def test_several_secrets_and_times() -> None:
    """Each is found wherever it stands."""
    assert Mask([PLAIN, ODD]).masked(f"{ODD} {PLAIN} {ODD}".encode()) == b"*** *** ***"


@pytest.mark.parametrize("secret", ["", "k", "success"])
def test_a_word_is_no_secret(secret: str) -> None:
    """It would be found in answers that do not speak of it."""
    assert Mask([secret]).masked(b'{"state":"success"}') == b'{"state":"success"}'


@pytest.mark.parametrize("length", range(1, len(PLAIN) + 1))
def test_the_beginning_of_a_secret_at_a_cut(length: int) -> None:
    """A text that ends within a secret shows next to nothing of it; one that ends with something else is left."""
    text = f"you sent {PLAIN[:length]}".encode()
    expected = text if length < 6 else b"you sent ***"
    assert Mask([ODD, PLAIN]).masked_cut(text) == expected
    assert Mask([ODD, PLAIN]).masked_cut(text + b"\n") == (text + b"\n" if length < len(PLAIN) else b"you sent ***\n")


@pytest.mark.parametrize("key", [PLAIN, ODD])
def test_a_large_text_is_searched_a_piece_at_a_time(key: str) -> None:
    """A secret is found where two pieces meet, and several within one are; the rest stays as it was."""
    spelt = json.dumps(key)[1:-1].encode()
    for before in range(_PIECE - len(spelt) - 1, _PIECE + 2):
        text = b"x" * before + spelt + b"," + spelt + b"y" * _PIECE + spelt
        assert Mask([key]).masked(text) == b"x" * before + b"***,***" + b"y" * _PIECE + b"***"
    plain = b"z" * (3 * _PIECE)
    assert Mask([key]).masked(plain) is plain
