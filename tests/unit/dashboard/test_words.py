"""How pages write spans, instants and JSON."""

import pytest

from gateway.dashboard.words import cut, pretty, relative, span


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 ms"),
        (0.0004, "0 ms"),
        (0.09, "90 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (4.24, "4.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7260, "2 h 1 min"),
        (86_400 * 2 + 3600 * 4, "2 d 4 h"),
        (86_400 * 400, "400 d"),
    ],
)
def test_a_span_has_two_units_at_most(seconds: float, words: str) -> None:
    """The larger one, and what is left in the next."""
    assert span(seconds) == words


def test_an_instant_is_told_from_now() -> None:
    """What is past, what is to come, and what is neither."""
    assert relative(1000, 6000) == "5.0 s ago"
    assert relative(66_000, 6000) == "in 1 min"
    assert relative(6100, 6000) == "now"


def test_json_is_written_in_lines_and_what_is_none_stays() -> None:
    """Whatever an upstream or a client sent is shown, cut where it is long."""
    assert pretty(b'{"a":"\xc3\xbc"}') == '{\n  "a": "ü"\n}'
    assert pretty(b"\xff not json") == "\ufffd not json"
    assert pretty("[" * 10_000) == "[" * 10_000
    assert len(pretty("x" * 100_000)) == 16 * 1024
    assert pretty(None) == ""
    assert cut("abcdef", 4) == "abc…"
