"""The secret that is made on the first start: who may read it, and that it stays the same."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import secretfile
from gateway.errors import SecretError
from gateway.secretfile import load_or_make, read, secret_path
from gateway.signature import make_secret, parse_secrets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.secret"


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Take away the umask's help."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("database", "secret"),
    [("gateway.db", "gateway.secret"), ("/data/gateway.db", "/data/gateway.secret"), ("/data/g", "/data/g.secret")],
)
def test_it_stands_beside_the_database(database: str, secret: str) -> None:
    """The secret's file is named after the database and lies in its folder."""
    assert secret_path(Path(database)) == Path(secret)


def test_the_first_start_makes_one(path: Path) -> None:
    """Where there is no secret a usable one is made, and nothing else is left in the folder."""
    made = load_or_make(path)
    assert len(parse_secrets(made)) == 1
    assert path.read_text("utf-8").strip() == made
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("open_umask")
def test_only_its_owner_may_read_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has mode 0600 whatever the umask, from before the secret stands in it."""
    modes = []
    fdopen = os.fdopen

    def watch(descriptor: int, *args: Any, **named: Any) -> object:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return fdopen(descriptor, *args, **named)

    monkeypatch.setattr(os, "fdopen", watch)
    load_or_make(path)
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_later_starts_find_the_same(path: Path) -> None:
    """A restart signs with the secret of the first start, and leaves the file alone."""
    first = load_or_make(path)
    before = path.stat()
    assert load_or_make(path) == first
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_two_files_get_two_secrets(tmp_path: Path) -> None:
    """Each gateway has a secret of its own."""
    assert load_or_make(tmp_path / "a.secret") != load_or_make(tmp_path / "b.secret")


def test_what_an_operator_wrote_is_read(path: Path) -> None:
    """Several secrets and white space around them are an operator's right."""
    first, second = make_secret(), make_secret()
    path.write_text(f"  {first} {second}\n\n", "utf-8")
    assert load_or_make(path) == f"{first} {second}" == read(path)


def test_reading_makes_nothing(path: Path) -> None:
    """A command that only verifies finds None where there is no file, and makes none."""
    assert read(path) is None
    assert not path.exists()


def test_of_two_that_start_together_one_secret_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that loses the race for the file takes the winner's secret instead of replacing it."""
    winner = make_secret()
    link = os.link

    def lose(source: Path, target: Path) -> None:
        path.write_text(winner + "\n", "utf-8")
        link(source, target)

    monkeypatch.setattr(os, "link", lose)
    assert load_or_make(path) == winner
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not text", "a folder"])
def test_a_file_that_cannot_be_read(path: Path, content: bytes | None) -> None:
    """A file that is there but cannot be read is never replaced: the message names it."""
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    for use in (read, load_or_make):
        with pytest.raises(SecretError, match="cannot be read") as caught:
            use(path)
        assert str(path) in caught.value.message
    assert content is None or path.read_bytes() == content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The database's own folder is missing: the message names it and the setting that helps."""
    path = tmp_path / "missing" / "gateway.secret"
    with pytest.raises(SecretError, match="GATEWAY_DATABASE_URL") as caught:
        load_or_make(path)
    assert str(path.parent) in caught.value.message
    assert not path.parent.exists()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    """A path through a file is told as any other, with no error of the clean-up on top."""
    (tmp_path / "data").write_text("x", "utf-8")
    with pytest.raises(SecretError):
        load_or_make(tmp_path / "data" / "gateway.secret")


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_disk_that_fails_leaves_nothing_behind(path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails half-way no file is left, above all none that holds half a secret; its text is not told."""
    made = []

    def make() -> str:
        made.append(make_secret())
        return made[-1]

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secretfile, "make_secret", make)
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(SecretError, match="No space left") as caught:
        load_or_make(path)
    assert made
    assert made[0] not in caught.value.message
    assert list(path.parent.iterdir()) == []
