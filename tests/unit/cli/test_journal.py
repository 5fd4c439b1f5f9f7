"""What `gateway import` remembers of earlier runs."""

import stat
from pathlib import Path

import click
import pytest

from gateway.cli.journal import Journal
from gateway.core.errors import GatewayError


def test_what_was_added_is_there_at_the_next_run(tmp_path: Path) -> None:
    """In a file that only its owner may read, and that holds neither URL, nor token, nor registration."""
    path = tmp_path / "tasks.csv.imported"
    first = Journal(path, "http://gateway", "t0ken")
    first.add([(b"one", "cb_1"), (b"two", "cb_2")])
    first.close()
    again = Journal(path, "http://gateway", "t0ken")
    assert [content in again for content in (b"one", b"two", b"three")] == [True, True, False]
    again.close()
    written = path.read_text()
    assert [line.split()[1] for line in written.splitlines()] == ["cb_1", "cb_2"]
    assert not any(word in written for word in ("gateway", "t0ken", "one"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_gateway_or_client_has_none_of_it(tmp_path: Path) -> None:
    """The same line is another registration there."""
    path = tmp_path / "journal"
    for url, token in (("http://a", None), ("http://b", None), ("http://a", "x")):
        journal = Journal(path, url, token)
        assert b"one" not in journal
        journal.add([(b"one", "cb_1")])
        journal.close()


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    """As by a kill in the middle of it: what follows stands on a line of its own."""
    path = tmp_path / "journal"
    journal = Journal(path, "u", None)
    journal.add([(b"one", "cb_1"), (b"two", "cb_2")])
    journal.close()
    path.write_bytes(path.read_bytes()[:60])
    journal = Journal(path, "u", None)
    assert [b"one" in journal, b"two" in journal] == [True, False]
    journal.add([(b"two", "cb_2")])
    journal.close()
    journal = Journal(path, "u", None)
    assert [b"one" in journal, b"two" in journal] == [True, True]
    journal.close()


def test_without_a_file_it_remembers_this_run(tmp_path: Path) -> None:
    """Standard input has none."""
    journal = Journal(None, "u", None)
    journal.add([(b"one", "cb_1")])
    assert b"one" in journal
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    """The message names the option that helps."""
    with pytest.raises(click.UsageError, match="--journal"):
        Journal(tmp_path / "no" / "folder", "u", None)


@pytest.mark.parametrize("text", ["taskId,callbackUrl\n", '{"taskId": "a"}\n', "my notes", "\xff\n"])
def test_what_is_no_journal_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    """A name that was mistyped must not have lines put behind what stands there."""
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(click.UsageError, match=r"no journal of an import: .*--journal"):
        Journal(path, "u", None)
    assert path.read_text() == text


@pytest.mark.parametrize("left", [b"", b"\n", b"8f0963019e89", b"8f0963019e89ca99a997849f6dca055c cb", b"\0\0\0\0"])
def test_what_a_power_loss_leaves_is_one(tmp_path: Path, left: bytes) -> None:
    """Cut short in its first line, or with NULs for what was not on disk: it goes on from there."""
    path = tmp_path / "journal"
    path.write_bytes(left)
    Journal(path, "u", None).close()
    journal = Journal(path, "u", None)
    journal.add([(b"one", "cb_1")])
    assert b"one" in journal
    journal.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the machine has no /dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """And that nothing is lost by it."""
    journal = Journal(tmp_path / "journal", "u", None)
    journal.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        journal._file = full
        with pytest.raises(GatewayError, match="No space left on device"):
            journal.add([(b"one", "cb_1")])
