"""Which lines of the log an outage says once, and what it says of the others."""

from contextlib import suppress
from typing import Any

import pytest
import structlog

from gateway.core.repeats import Repeats


class Log:
    """What is said of what is logged, by a clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.said: list[dict[str, Any]] = []
        self._repeats = Repeats(lambda: self.now_s)

    def __call__(self, event: str, **fields: Any) -> None:
        with suppress(structlog.DropEvent):
            self.said.append(dict(self._repeats(None, "warning", {"event": event, **fields})))


@pytest.fixture
def log() -> Log:
    return Log()


def test_an_outage_is_said_once_a_minute(log: Log) -> None:
    """The first line as it is; after a minute one that says for how many it stands; the rest when it is over."""
    for second in range(150):
        log.now_s = 100.0 + second
        log("request.store_failed", path=f"/{second}")
    log("store.recovered")
    assert log.said == [
        {"event": "request.store_failed", "path": "/0"},
        {"event": "request.store_failed", "path": "/60", "times": 60},
        {"event": "request.store_failed", "path": "/120", "times": 60},
        {"event": "store.recovered", "left_out": {"request.store_failed": 29}},
    ]


def test_each_loop_is_told_of(log: Log) -> None:
    """Whichever waits for the store; they are counted together."""
    for _ in range(3):
        for loop in ("deliverer", "janitor"):
            log("loop.store_failed", loop=loop)
    log("store.file_back")
    assert [line.get("loop") for line in log.said] == ["deliverer", "janitor", None]
    assert log.said[-1]["left_out"] == {"loop.store_failed": 4}


def test_the_next_outage_is_said_at_once(log: Log) -> None:
    """What was counted in the last one is no part of it; an end of nothing is a line like any other."""
    for _ in range(2):
        for _ in range(3):
            log("poll.not_stored")
        log("store.recovered")
    log("store.recovered")
    counted = {"event": "store.recovered", "left_out": {"poll.not_stored": 2}}
    assert log.said == [{"event": "poll.not_stored"}, counted] * 2 + [{"event": "store.recovered"}]


def test_other_lines_are_always_said(log: Log) -> None:
    """A task's end and a create whose answer is lost are nobody else's."""
    for event in ("task.settled", "proxy.answer_lost", "store.failing") * 2:
        log(event, task_id="t")
    assert len(log.said) == 6
