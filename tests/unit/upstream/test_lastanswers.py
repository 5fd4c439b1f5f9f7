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
    clock = Clock()
    last = LastAnswers(clock)
    assert (last.running("t"), last.ended("t")) == (None, None)
    last.keep("t", b"1", clock.seconds)
    last.keep("t", b"22", clock.seconds)
    last.keep("t", None, clock.seconds)
    assert (last.running("t"), last.ended("t"), last.running("u")) == (b"22", None, None)
    last.keep("t", b"333", clock.seconds, ended=True)
    assert (last.running("t"), last.ended("t")) == (None, b"333")


def test_an_older_answer_takes_no_newer_ones_place() -> None:
    """One is newer that was asked for once the last had come; an end is whenever that was, and nothing is after it."""
    clock = Clock()
    last = LastAnswers(clock)
    clock.seconds = 10.0
    assert last.keep("t", b"1", 5.0)
    clock.seconds = 20.0
    assert not last.keep("t", b"2", 9.9)
    assert last.keep("t", None, 0.0)
    assert last.running("t") == b"1"
    assert last.keep("t", b"3", 10.0)
    assert last.keep("t", b"4", 0.0, ended=True)
    assert not last.keep("t", b"5", 20.0)
    assert last.ended("t") == b"4"
    clock.seconds = 620.1
    assert last.keep("t", b"6", 620.0)
    assert last.running("t") == b"6"


def test_what_ran_is_forgotten_once_the_store_has_its_end() -> None:
    """It may begin anew there; an end that was told to a client is kept."""
    clock = Clock()
    last = LastAnswers(clock)
    last.keep("ran", b"1", clock.seconds)
    last.keep("ended", b"2", clock.seconds, ended=True)
    for task_id in ("ran", "ended", "neither"):
        last.forget_running(task_id)
    assert (last.running("ran"), last.ended("ended")) == (None, b"2")


def test_an_end_is_kept_for_ten_minutes() -> None:
    """By then URLs in it may have ceased to work; what ran is kept for as long as there is room."""
    clock = Clock()
    last = LastAnswers(clock)
    last.keep("ran", b"{}", clock.seconds)
    last.keep("ended", b"{}", clock.seconds, ended=True)
    clock.seconds = 600.0
    assert last.ended("ended") == b"{}"
    clock.seconds = 600.1
    assert last.ended("ended") is None
    assert last.running("ran") == b"{}"
    last.keep("ended", b"again", clock.seconds, ended=True)
    assert last.ended("ended") == b"again"


def test_it_takes_no_more_than_it_may() -> None:
    """Those told of the longest ago go first; what is larger than all of it never comes, and takes nobody's place."""
    clock = Clock()
    last = LastAnswers(clock, most_bytes=10_000)
    for name in "abcd":
        last.keep(name, b"x" * 2000, clock.seconds)
    last.keep("a", b"y" * 2000, clock.seconds)
    last.keep("e", b"x" * 2000, clock.seconds)
    assert [name for name in "abcde" if last.running(name) is not None] == ["a", "c", "d", "e"]
    assert 8000 < last.size <= 10_000
    last.keep("f", b"x" * 10_000, clock.seconds)
    assert last.running("f") is None
    assert not last.keep("f", b"older", -0.1), "that there was something is remembered"
    assert last.running("a") is not None
    last.keep("g", b"x" * 9000, clock.seconds)
    assert [name for name in "abcdefg" if last.running(name) is not None] == ["g"]
    for name in "gfg":
        last.forget(name)
    assert last.size == 0


def test_where_nobody_reads_nothing_is_kept() -> None:
    """An upstream without calls of its own has no room for it."""
    clock = Clock()
    last = LastAnswers(clock, most_bytes=0)
    last.keep("t", b"{}", clock.seconds)
    assert (last.running("t"), last.size) == (None, 0)


def test_what_was_told_before_another_replica_asked_is_not_told() -> None:
    """Somebody may have been told what came of that."""
    clock = Clock()
    last = LastAnswers(clock)
    last.keep("t", b"{}", clock.seconds)
    clock.seconds += 10
    assert last.running("t", 0.0) == b"{}"
    assert last.running("t", 0.1) is None
    assert last.running("t") == b"{}"
