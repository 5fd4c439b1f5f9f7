"""Files that only their owner may read: made so, and made so again."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core import private


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Take away the umask's help."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_it_is_made_for_its_owner(path: Path) -> None:
    """Whatever the umask; a file that is there is not touched."""
    os.close(private.create(path))
    assert mode(path) == 0o600
    with pytest.raises(FileExistsError):
        private.create(path)


@pytest.mark.parametrize(("was", "becomes"), [(0o644, 0o600), (0o666, 0o600), (0o440, 0o400), (0o770, 0o700)])
def test_the_rights_of_others_are_taken(path: Path, was: int, becomes: int) -> None:
    """What the owner may do stays; it is said once, with the mode that it had."""
    path.touch()
    path.chmod(was)
    with capture_logs() as lines:
        private.tighten(path)
        private.tighten(path)
    assert mode(path) == becomes
    said = {"event": "file.made_private", "log_level": "warning", "path": str(path), "mode": f"{was:04o}"}
    assert lines == [said]


def test_a_file_that_is_not_there(path: Path) -> None:
    """There is nothing to take, and nothing to say."""
    with capture_logs() as lines:
        private.tighten(path)
    assert lines == []
    assert not path.exists()


def test_somebody_elses_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not change its mode goes on, and says so: the gateway may write it all the same."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path.touch()
    path.chmod(0o664)
    monkeypatch.setattr(Path, "chmod", refuse)
    with capture_logs() as lines:
        private.tighten(path)
    (line,) = lines
    assert (line["event"], line["mode"], line["error"]) == ("file.not_private", "0664", "Operation not permitted")
