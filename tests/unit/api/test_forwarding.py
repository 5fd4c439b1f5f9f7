"""Which of the upstream's pages a client's request is for, and where an answer leads."""

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.api.forwarding import below, target
from gateway.core.errors import NotFound

SEGMENTS = st.lists(
    st.one_of(
        st.sampled_from(["..", ".", "%2e%2e", "%2E.", "..%2f", "a%5C..", "", "v1", "a%20b", "%252e%252e", "é", "x?y"]),
        st.text(max_size=4),
    ),
    max_size=5,
)


def request(raw: bytes, query: bytes = b"") -> Request:
    scope: dict[str, Any] = {"type": "http", "raw_path": raw, "query_string": query, "headers": []}
    return Request(scope | {"path": unquote(raw.decode("latin-1"))})


@given(segments=SEGMENTS, query=st.binary(max_size=8), mount=st.sampled_from(["", "/u/up"]))
@example(segments=["..%2f..%2fkeys"], query=b"", mount="/u/up")
@example(segments=["a%5c..%5ckeys"], query=b"", mount="")
def test_a_target_is_what_came_and_climbs_nowhere(segments: list[str], query: bytes, mount: str) -> None:
    """Whatever a path holds, it goes on as it came or not at all, in bytes that a request line may have."""
    path = "/" + "/".join(segments).partition("?")[0]
    raw = (mount + path).encode("utf-8")
    dotted = {".", ".."} & set(re.split(r"[/\\]", unquote((mount + path).encode().decode("latin-1"))))
    try:
        told = target(request(raw, query), mount)
    except NotFound:
        assert dotted
        return
    assert not dotted
    assert re.fullmatch(r"/[!-~]*", told)
    sent, _, told_query = told.partition("?") if query else (told, "", "")
    assert unquote(sent, "latin-1") == unquote(path.encode().decode("latin-1"), "latin-1")
    assert unquote(told_query, "latin-1") == unquote(query.decode("latin-1"), "latin-1")


@pytest.mark.parametrize("raw", [b"/%75/up/v1/x", b"/u%2fup/v1/x", b"/u/%75p/v1/x", b"/u/up", b"/u/upper/x"])
def test_a_mount_is_written_as_it_is_called(raw: bytes) -> None:
    """Else the page that was matched would not be the one that is asked for."""
    with pytest.raises(NotFound):
        target(request(raw), "/u/up")


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://api.example.com/base/v1/x?y", "/u/up/v1/x?y"),
        ("/base/v1/x", "/u/up/v1/x"),
        ("../x", "../x"),
        ("", ""),
        ("https://api.example.com/other", "https://api.example.com/other"),
        ("https://api.example.community/base/x", "https://api.example.community/base/x"),
        ("//api.example.com/base/x", "//api.example.com/base/x"),
    ],
)
def test_where_a_location_leads(location: str, told: str) -> None:
    """To the upstream's own pages by the mount, and elsewhere as it came."""
    assert below("/u/up", "https://api.example.com/base", location) == told
