"""A task's polls, as they stand in its row."""

from gateway.core.pollhistory import CAME, KEPT, MOST, SIZE, PastPoll, Why, read, written
from gateway.upstream.answer import UNREADABLE, PollKind

DAY_MS = 86_400_000


def test_what_is_added_is_read_again() -> None:
    """Times to a tenth of a second; from one poll to the next at most an hour and a half, from the first 19 days."""
    history = b"".join(
        (
            written(0, "registered", 4000, Why.FIRST),
            written(5130, "running", 3040, Why.LEARNED),
            written(12 * DAY_MS, "unreadable", DAY_MS, Why.TOLD),
            written(29 * DAY_MS, "broken", -5, Why.BACKOFF),
        )
    )
    assert list(read(history, 3)) == [
        PastPoll(0, "registered", 4000, Why.FIRST, 0),
        PastPoll(5100, "running", 3000, Why.LEARNED, 0),
        PastPoll(12 * DAY_MS, "unreadable", 6_553_500, Why.TOLD, 0),
        PastPoll(1_677_721_500, "broken", 0, Why.BACKOFF, 0),
    ]


def test_of_a_long_one_it_is_told_how_many_are_missing_and_where() -> None:
    """Behind the first ones, as statements cut it: see ``Registry.polls`` of the stores."""
    first = written(0, "registered", 0, Why.FIRST) + b"".join(written(n, "running", 1, Why.SHORT) for n in range(4))
    last = b"".join(written(n * 100, "running", 1, Why.LEARNED) for n in range(89, 100))
    assert (len(first), len(first + last)) == (KEPT, MOST)
    polls = list(read(first + last, 100))
    assert {place: poll.left_out for place, poll in enumerate(polls) if poll.left_out} == {KEPT // SIZE: 85}


def test_polls_from_before_it_was_kept_are_missing_at_its_beginning() -> None:
    """As of a task that an earlier release has polled."""
    history = written(9000, "running", 1000, Why.OUTLIVED)
    assert [(poll.came, poll.left_out) for poll in read(history, 5)] == [("running", 4)]


def test_polls_of_an_earlier_watch_are_not_told_of_as_this_ones() -> None:
    """A release that does not know of them has the task watched anew: their times would be in the future."""
    before = written(0, "registered", 0, Why.FIRST) + written(900_000, "running", 5000, Why.LEARNED)
    now = written(4000, "running", 5000, Why.LEARNED) + written(9000, "running", 5000, Why.LEARNED)
    assert [(poll.at_ms, poll.left_out) for poll in read(before + now, 12)] == [(4000, 10), (9000, 0)]
    long = before + written(900_000, "running", 1, Why.SHORT) * (MOST // SIZE - 4) + now
    assert [(poll.at_ms, poll.left_out) for poll in read(long, 40)] == [(4000, 38), (9000, 0)]


def test_what_a_newer_release_writes_is_no_defect() -> None:
    """A number that is not known here has no meaning; what has another form is no history."""
    assert list(read(b"\0\0\1\0\1\xff", 1)) == [PastPoll(100, "", 100, Why.UNKNOWN, 0)]
    assert list(read(b"\0\1\xff", 1)) == []


def test_each_label_of_a_poll_has_its_number() -> None:
    """Whatever a poll comes to can be kept."""
    assert {*PollKind, UNREADABLE} == {*CAME} - {"registered"}
