"""What `gateway import` makes of the lines of a file: registrations, or why they are none."""

import json
from typing import Any

import click
import pytest

from gateway.cli.rows import Row, read

URL = "https://app.example.com/hooks"


def rows(text: str | bytes, callback_url: str | None = None) -> list[Any]:
    """Return what is read: a line's number with its members, or with the code and message of its refusal."""
    data = text if isinstance(text, bytes) else text.encode()
    return [
        (one.line, json.loads(one.content)) if isinstance(one, Row) else (one.line, one.code, one.message)
        for one in read(data, callback_url)
    ]


def test_a_csv_file() -> None:
    """A header names the members; empty cells are left out, and a quoted cell may have several lines."""
    text = (
        "taskId,callbackUrl,metadata,metadata.orderId,timeoutSeconds,model,note\n".replace(",note", "")
        + f't1,{URL},"{{""a"": 1}}",,60,\n'
        + "\n"
        + f't2,{URL},,"two\nlines",,m\n'
        + f"t3,{URL}\n"
    )
    assert rows(text) == [
        (2, {"taskId": "t1", "callbackUrl": URL, "timeoutSeconds": 60, "metadata": {"a": 1}}),
        (4, {"taskId": "t2", "callbackUrl": URL, "model": "m", "metadata": {"orderId": "two\nlines"}}),
        (6, {"taskId": "t3", "callbackUrl": URL}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("before", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_make_of_csv(delimiter: str, before: str, end: str) -> None:
    """Other delimiters, a byte order mark and other line ends are read as they are meant."""
    text = before + end.join(delimiter.join(cells) for cells in (("taskId", "callbackUrl"), ("t1", URL), ("t2", URL)))
    assert rows(text) == [(n, {"taskId": f"t{n - 1}", "callbackUrl": URL}) for n in (2, 3)]


def test_json_lines() -> None:
    """An object a line, as it stands there; blank lines count as lines."""
    text = f'{{"taskId": "t1", "callbackUrl": "{URL}"}}\r\n\n{{"taskId": "t2", "callbackUrl": "{URL}", "model": null}}'
    assert rows(text) == [
        (1, {"taskId": "t1", "callbackUrl": URL}),
        (3, {"taskId": "t2", "callbackUrl": URL, "model": None}),
    ]


def test_one_url_for_all_lines_without_one() -> None:
    """A line's own URL comes first."""
    for text in (
        "taskId,callbackUrl\nt1,\nt2,https://other.example.com/",
        '{"taskId": "t1"}\n{"taskId": "t2", "callbackUrl": "https://other.example.com/"}',
    ):
        assert [members["callbackUrl"] for _, members in rows(text, URL)] == [URL, "https://other.example.com/"]
    assert rows("taskId\nt1", URL) == [(2, {"taskId": "t1", "callbackUrl": URL})]


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        (f'"t 1",{URL},,', "invalid_request", "taskId: must be printable ASCII"),
        (f"t1,{URL},{{,", "invalid_json", "metadata: not JSON"),
        (f"t1,{URL},[1],", "invalid_request", "metadata: write a JSON object"),
        (f"t1,{URL},,soon", "invalid_request", "timeoutSeconds: must be a whole number"),
        (f"t1,{URL},,0", "invalid_request", "timeoutSeconds: must be a whole number from 1"),
        ("t1,,,", "invalid_request", "callbackUrl: is missing"),
        (f"t1,{URL},,60,more", "invalid_request", "5 cells, the header 4"),
        (f't1,{URL}"",,,"a"b', "invalid_request", "no line of CSV"),
        (f"{'t' * 300},{URL},,", "invalid_request", "taskId"),
    ],
)
def test_a_line_that_is_no_registration(line: str, code: str, expected: str) -> None:
    """It is refused with the API's codes and reasons, and takes no other down."""
    found = rows(f"taskId,callbackUrl,metadata,timeoutSeconds\nbefore,{URL},,\n{line}\nafter,{URL},,\n")
    assert (found[0][0], found[-1][0]) == (2, 4)
    (refused,) = found[1:-1]
    assert refused[:2] == (3, code)
    assert expected in refused[2]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "invalid_json"),
        ("[1]", "invalid_request"),
        ('{"taskId": "t1"}', "invalid_request"),
        (f'{{"taskId": "t1", "callbackUrl": "{URL}", "metdata": {{}}}}', "invalid_request"),
        (f'{{"taskId": "t1", "callbackUrl": "{URL}", "metadata": {{"a": "\\ud83d"}}}}', "invalid_request"),
        (
            f'{{"taskId": "t1", "callbackUrl": "{URL}", "metadata": {{"a": {"[" * 5000}{"]" * 5000}}}}}',
            "invalid_request",
        ),
        (f'{{"taskId": "t1", "callbackUrl": "{URL}", "metadata": {{"a": "{"x" * 70_000}"}}}}', "too_large"),
    ],
)
@pytest.mark.parametrize("callback_url", [None, URL])
def test_a_json_line_that_is_no_registration(line: str, code: str, callback_url: str | None) -> None:
    """It is refused too, but for a URL that is given for all."""
    good = f'{{"taskId": "t", "callbackUrl": "{URL}"}}'
    first, second, third = rows(f"{good}\n{line}\n{good}", callback_url)
    assert (first[0], third[0]) == (1, 3)
    if callback_url is None or line != '{"taskId": "t1"}':
        assert second[:2] == (2, code)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "FILE is empty"),
        (b"id,url\n", "the column 'id'"),
        (b"callbackUrl\n", "no column 'taskId'"),
        (b"taskId,taskId\n", "more than once"),
        (b'taskId,"\n', "no header of CSV"),
        (b"[{}]", "one JSON array"),
        (b"taskId\nok\n\xff\n", "not UTF-8: byte 10, in line 3"),
    ],
)
def test_a_file_that_cannot_be_read_at_all(data: bytes, expected: str) -> None:
    """Nothing of it is sent, and the message says what to change."""
    with pytest.raises(click.UsageError, match=expected):
        list(read(data, None))
