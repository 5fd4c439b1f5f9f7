"""Which traceparent and tracestate are kept, and how they go on: W3C Trace Context, §3.2 and §3.3."""

import pytest

from gateway.core.tracecontext import headers_of, trace_in

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"
MEMBER = "a=" + "1" * 98


def trace(parent: str | None, *states: str) -> str | None:
    given = [] if parent is None else [(b"traceparent", parent.encode("latin-1"))]
    return trace_in([(b"host", b"x"), *given, *((b"tracestate", state.encode("latin-1")) for state in states)])


@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        f"00-{ID}-{SPAN}-00",
        f"00-{ID}-{SPAN}-ff",  # flags that nobody knows yet
        f"01-{ID}-{SPAN}-01",
        f"fe-{ID}-{SPAN}-01-what-comes-later",
    ],
)
def test_a_valid_parent_goes_on_as_it_came(parent: str) -> None:
    """Also of a later version: who takes no part in a trace passes it on unmodified."""
    assert headers_of(trace(parent)) == {"traceparent": parent}


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        f"ff-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}-01-more",
        f"01-{ID}-{SPAN}-01.more",
        f"01-{ID}-{SPAN}-01-" + "x" * 128,
        f"01-{ID}-{SPAN}-01-a b",
        f"01-{ID}-{SPAN}-01-\xe9",
        f"00-{ID[:-1]}-{SPAN}-01",
        f"00-{ID[:-1]}é-{SPAN}-01",
        f"{PARENT}, {PARENT}",
        f"{PARENT}\n",
    ],
)
def test_what_is_no_parent_is_as_if_it_were_not_there(parent: str | None) -> None:
    """And its tracestate with it."""
    assert trace(parent, "rojo=1") is None
    assert headers_of(None) == {}


def test_two_parents_are_none() -> None:
    """Nobody can tell which of them is meant."""
    assert trace_in([(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())]) is None


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["rojo=00f067aa0ba902b7"], "rojo=00f067aa0ba902b7"),
        (["rojo=1 , congo=t61 rc", "", "a@b= x"], "rojo=1,congo=t61 rc,a@b= x"),  # several headers are one list
        ([" , ,"], None),
        (["Rojo=1"], None),
        (["rojo"], None),
        (["rojo=1=2"], None),
        (["rojo=\xe9"], None),
        (["good=1,rojo=\x01"], None),
        ([",".join(f"k{number}=1" for number in range(32))], ",".join(f"k{number}=1" for number in range(32))),
        ([",".join(f"k{number}=1" for number in range(33))], None),
        ([",".join([MEMBER] * 5)], ",".join([MEMBER] * 5)),
        ([",".join([MEMBER] * 6)], ",".join([MEMBER] * 5)),  # the oldest stands last
        (["long=" + "1" * 200 + "," + ",".join([MEMBER] * 4)], ",".join([MEMBER] * 4)),
        (["a=" + "1" * 200 + "," + "b=" + "1" * 200], "a=" + "1" * 200 + "," + "b=" + "1" * 200),
    ],
)
def test_a_state_goes_on_with_its_parent(states: list[str], told: str | None) -> None:
    """At least 512 characters of it; one that is not valid is left out, and the parent goes on."""
    whole = trace(PARENT, *states)
    assert headers_of(whole) == {"traceparent": PARENT} | ({} if told is None else {"tracestate": told})
    assert len(whole or "") <= 128 + 1 + 512, "a traceparent, and what of a tracestate is to be passed on"
