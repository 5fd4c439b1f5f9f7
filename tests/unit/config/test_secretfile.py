"""The secret that is made on the first start: who may read it, and that it stays the same."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import secretfile
from gateway.config.secretfile import make, read, secret_path
from gateway.core.errors import SecretError
from gateway.core.model import CallbackState
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
    made = make(path, {})
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
    make(path, {})
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_later_starts_find_the_same(path: Path) -> None:
    """A restart signs with the secret of the first start, and leaves the file alone."""
    first = make(path, {})
    before = path.stat()
    assert read(path) == first
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_two_files_get_two_secrets(tmp_path: Path) -> None:
    """Each gateway has a secret of its own."""
    assert make(tmp_path / "a.secret", {}) != make(tmp_path / "b.secret", {})


def test_what_an_operator_wrote_is_read(path: Path) -> None:
    """Several secrets and white space around them are an operator's right."""
    first, second = make_secret(), make_secret()
    path.write_text(f"  {first} {second}\n\n", "utf-8")
    assert read(path) == f"{first} {second}"


def test_a_bom_does_not_count(path: Path) -> None:
    """What an editor put before the secret is none of it."""
    secret = make_secret()
    path.write_text(f"{secret}\n", "utf-8-sig")
    assert read(path) == secret


def test_reading_makes_nothing(path: Path) -> None:
    """A command that only verifies finds None where there is no file, and makes none."""
    assert read(path) is None
    assert not path.exists()


def test_what_is_configured_counts_first(path: Path) -> None:
    """Then the database's place is not even asked for; without it the file's secrets count, if there are any."""
    database = path.with_suffix(".db")
    assert secretfile.in_use(["one", "two"], lambda: pytest.fail("asked")) == "one two"
    assert secretfile.in_use(None, lambda: database) is None
    made = make(path, {})
    assert secretfile.in_use(None, lambda: database) == made


def test_of_two_that_start_together_one_secret_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that loses the race for the file takes the winner's secret instead of replacing it."""
    winner = make_secret()
    link = os.link

    def lose(source: Path, target: Path) -> None:
        path.write_text(winner + "\n", "utf-8")
        link(source, target)

    monkeypatch.setattr(os, "link", lose)
    assert make(path, {}) == winner
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "gateway make-secret > "),
        (b"", "is empty. Put it back from your backup, or set GATEWAY_WEBHOOK_SECRET"),
        (b" \n", "is empty"),
        (b"whsec_c2hvcnQ=", "cannot be used: the secret has 5 bytes"),
        (b"whpk_" + b"A" * 43 + b"=", "cannot be used: "),
        (None, "let this user read the file"),
    ],
    ids=["not text", "empty", "blank", "too short", "public", "a folder"],
)
def test_a_file_that_cannot_be_used(path: Path, content: bytes | None, says: str) -> None:
    """A file that is there but cannot be used is never replaced: the message names it, and what to do."""
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    for use in (read, lambda path: make(path, {})):
        with pytest.raises(SecretError) as caught:
            use(path)
        assert str(path) in caught.value.message
        assert says in caught.value.message
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("state", [CallbackState.WAITING, CallbackState.PENDING, CallbackState.DEAD])
def test_none_is_made_where_webhooks_are_owed(path: Path, state: CallbackState) -> None:
    """A lost secret is not remade in silence: receivers would refuse what is signed with another one."""
    with pytest.raises(SecretError) as caught:
        make(path, {CallbackState.DELIVERED: 1, state: 7})
    assert f"owes webhooks (7 {state.value})" in caught.value.message
    assert "Put it back from your backup, or set GATEWAY_WEBHOOK_SECRET" in caught.value.message
    assert f"To choose a new one: gateway make-secret > {path}" in caught.value.message
    assert list(path.parent.iterdir()) == []


def test_one_is_made_where_nothing_is_owed(path: Path) -> None:
    """What was delivered or cancelled needs no signature any more."""
    assert make(path, {CallbackState.DELIVERED: 3, CallbackState.CANCELLED: 1, CallbackState.DEAD: 0})


def test_a_link_that_leads_nowhere(path: Path) -> None:
    """A volume that is not mounted, say: it is told by whoever reads it, and not tried for ever."""
    path.symlink_to(path.parent / "mount" / "gateway.secret")
    for use in (read, lambda path: make(path, {})):
        with pytest.raises(SecretError, match="leads to a file that is not there"):
            use(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_draft_that_was_left_behind(path: Path) -> None:
    """Of a process that was killed, with this one's number: neither its text nor its mode is kept."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text("not a secret", "utf-8")
    draft.chmod(0o644)
    assert parse_secrets(make(path, {}))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("folder", ["missing", "data"])
def test_a_folder_that_is_none(tmp_path: Path, folder: str) -> None:
    """A missing folder and a path through a file are told as any other, with no error of the clean-up on top."""
    (tmp_path / "data").write_text("x", "utf-8")
    with pytest.raises(SecretError):
        make(tmp_path / folder / "gateway.secret", {})
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_disk_that_fails_leaves_nothing_behind(path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails half-way no file is left, above all none that holds half a secret; its text is not told."""
    made = []

    def new() -> str:
        made.append(make_secret())
        return made[-1]

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secretfile, "make_secret", new)
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(SecretError, match="No space left") as caught:
        make(path, {})
    assert made
    assert made[0] not in caught.value.message
    assert list(path.parent.iterdir()) == []
