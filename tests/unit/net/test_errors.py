"""Why there is no answer, in words for people."""

import asyncio
import errno
import os

import pytest

from gateway.net.errors import ExchangeFailed, cut_short, cut_short_by, not_connected


@pytest.mark.parametrize(
    "words",
    [
        "Connect call failed ('127.0.0.1', 9)",
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9, 0, 0), [Errno 111] Connect call failed",
        "Connection refused",
    ],
)
def test_a_dial_that_failed_is_told_in_the_systems_words(words: str) -> None:
    """Whichever loop dials, and at however many addresses: nobody reads tuples."""
    failure = not_connected("localhost:9", ConnectionRefusedError(errno.ECONNREFUSED, words))
    assert (failure.reason, failure.why) == ("refused", os.strerror(errno.ECONNREFUSED))


@pytest.mark.parametrize("tells_cause", [True, False], ids=["newer Python", "3.11.2"])
def test_what_a_time_limit_has_ended_is_found(tells_cause: bool) -> None:
    """Also where ``asyncio.timeout`` gives no cause, as in Debian 12: it raises while it handles what it ended."""
    failure = ExchangeFailed("the proxy was silent", "proxy_timeout", sent=False)
    cancelled = asyncio.CancelledError()
    cut_short_by(cancelled, failure)
    late = TimeoutError()
    late.__context__ = cancelled
    late.__cause__ = cancelled if tells_cause else None
    assert cut_short(late) is failure
    assert cut_short(TimeoutError()) is None
