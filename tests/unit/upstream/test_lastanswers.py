"""What is kept of an upstream's last answers: how much, and for how long."""

from gateway.upstream.lastanswers import LastAnswers


class Clock:
    """A steady clock that is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> int:
        raise AssertionError("whoever sets the wall clock changes nothing here")

    def monotonic(self) -> float:
        return self.seconds


def test_the_last_one_counts() -> None:
    """Of a task that ran, until it is told of as ended; nothing told takes nothing away."""
    last = LastAnswers(Clock())
    assert (last.running("t"), last.ended("t")) == (None, None)
    last.keep("t", b"1")
    last.keep("t", b"22")
    last.keep("t", None)
    assert (last.running("t"), last.ended("t"), last.running("u")) == (b"22", None, None)
    last.keep("t", b"333", ended=True)
    assert (last.running("t"), last.ended("t")) == (None, b"333")


def test_an_end_is_kept_for_ten_minutes() -> None:
    """By then URLs in it may have ceased to work; what ran is kept for as long as there is room."""
    clock = Clock()
    last = LastAnswers(clock)
    last.keep("ran", b"{}")
    last.keep("ended", b"{}", ended=True)
    clock.seconds = 600.0
    assert last.ended("ended") == b"{}"
    clock.seconds = 600.1
    assert last.ended("ended") is None
    assert last.running("ran") == b"{}"
    last.keep("ended", b"again", ended=True)
    assert last.ended("ended") == b"again"


def test_it_takes_no_more_than_it_may() -> None:
    """Those told of the longest ago go first; what is larger than all of it never comes, and takes nobody's place."""
    last = LastAnswers(Clock(), most_bytes=10_000)
    for name in "abcd":
        last.keep(name, b"x" * 2000)
    last.keep("a", b"y" * 2000)
    last.keep("e", b"x" * 2000)
    assert [name for name in "abcde" if last.running(name) is not None] == ["a", "c", "d", "e"]
    assert 8000 < last.size <= 10_000
    last.keep("f", b"x" * 10_000)
    assert last.running("f") is None
    assert last.running("a") is not None
    last.keep("g", b"x" * 9000)
    assert [name for name in "abcdefg" if last.running(name) is not None] == ["g"]
    last.forget("g")
    last.forget("g")
    assert last.size == 0


def test_where_nobody_reads_nothing_is_kept() -> None:
    """An upstream without calls of its own has no room for it."""
    last = LastAnswers(Clock(), most_bytes=0)
    last.keep("t", b"{}")
    assert (last.running("t"), last.size) == (None, 0)
