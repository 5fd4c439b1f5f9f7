"""Webhooks that were handled: each once, however many threads and processes meet the same one."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.receiver import Busy, MemoryIds, SqliteIds, WebhookIds

Make = Callable[[], WebhookIds]
PROCESS = """
import sys
from gateway.receiver import Busy, SqliteIds
ids = SqliteIds(sys.argv[1])
for number in range(60):
    try:
        with ids.once(f"cb_{number}") as first:
            if first:
                print(number)
    except Busy:
        pass
"""


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Either one, on a file of its own."""
    return MemoryIds if request.param == "memory" else lambda: SqliteIds(tmp_path / "ids.db")


def test_a_repetition_is_known(make: Make) -> None:
    """One that was handled is not handled again; another one is."""
    ids = make()
    for webhook_id, expected in (("cb_1", True), ("cb_1", False), ("cb_2", True), ("cb_1", False)):
        with ids.once(webhook_id) as first:
            assert first is expected


def test_one_that_failed_comes_again(make: Make) -> None:
    """A handler that raises has not handled it."""
    ids = make()

    def fail() -> None:
        with ids.once("cb_1") as first:
            assert first
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with ids.once("cb_1") as first:
        assert first


def test_one_that_is_being_handled_is_busy(make: Make) -> None:
    """It is neither handled twice nor answered as if it were done."""
    ids = make()
    with ids.once("cb_1") as first:
        assert first
        with pytest.raises(Busy, match="cb_1") as caught, ids.once("cb_1"):
            pytest.fail("it was handled twice")
        assert caught.value.retry_after_s > 0
        with ids.once("cb_2") as other:
            assert other
    with ids.once("cb_1") as first:
        assert not first


def test_threads_handle_each_once(make: Make) -> None:
    """Sixteen at once, all with the same webhooks."""
    ids = make()
    handled: list[str] = []
    start = threading.Barrier(16)

    def receive() -> None:
        start.wait(20)
        for number in range(10):
            try:
                with ids.once(f"cb_{number}") as first:
                    if first:
                        handled.append(f"cb_{number}")
            except Busy:
                pass

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(receive) for _ in range(16)]:
            done.result(30)
    assert sorted(handled) == sorted(f"cb_{number}" for number in range(10))


def test_processes_handle_each_once(tmp_path: Path) -> None:
    """Three that share a file."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "ids.db")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=50)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(int(number) for numbers in printed for number in numbers) == list(range(60))


def test_memory_is_bounded() -> None:
    """The oldest are forgotten first."""
    ids = MemoryIds(limit=3)
    for number in range(5):
        with ids.once(f"cb_{number}"):
            pass
    known = []
    for number in (4, 3, 2, 1):
        with ids.once(f"cb_{number}") as first:
            known.append(not first)
    assert known == [True, True, True, False]
    with pytest.raises(ValueError, match="at least 1"):
        MemoryIds(limit=0)


def test_the_file_outlives_its_process(tmp_path: Path) -> None:
    """What was handled before a restart is known after it, until it is old enough."""
    with SqliteIds(tmp_path / "ids.db").once("cb_1"):
        pass
    with SqliteIds(tmp_path / "ids.db").once("cb_1") as first:
        assert not first
    short = SqliteIds(tmp_path / "short.db", keep_days=0)
    for _ in range(2):
        with short.once("cb_1") as first:
            assert first


def test_a_handler_that_died_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim lapses; where it was only slow, what it handled is remembered, and it takes nothing from the next."""
    ids = SqliteIds(tmp_path / "ids.db", claim_s=60)
    claim = ids.claim("cb_1")
    assert claim is not None
    with pytest.raises(Busy):
        ids.claim("cb_1")
    later = time.time() + 60
    monkeypatch.setattr("gateway.receiver.remembering.time", SimpleNamespace(time=lambda: later))
    patient = SqliteIds(tmp_path / "ids.db")
    assert patient.claim("cb_1") not in (None, claim)
    ids.release("cb_1", claim)
    with pytest.raises(Busy):
        patient.claim("cb_1")
    ids.keep("cb_1")
    assert patient.claim("cb_1") is None
