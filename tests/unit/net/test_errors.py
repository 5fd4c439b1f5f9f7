"""Why there is no answer, in words for people."""

import errno
import os

import pytest

from gateway.net.errors import not_connected


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
