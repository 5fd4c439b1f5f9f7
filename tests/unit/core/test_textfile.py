"""Files that an operator names: whatever stands there, reading it ends, and soon."""

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.preflight import preflight
from gateway.config import secretfile
from gateway.config.load import load
from gateway.core import textfile
from gateway.core.errors import ConfigError, SecretError
from gateway.core.private import is_exposed
from gateway.core.textfile import read_text


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_PATIENCE_S", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def make(path: Path, kind: str) -> None:
    if kind == "a link that leads nowhere":
        path.symlink_to("nowhere")
    elif kind == "a link in a circle":
        path.symlink_to(path.name)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a pipe that nobody writes into":
        os.mkfifo(path)
    elif kind == "an endless device":
        path.symlink_to("/dev/zero")
    elif kind == "an empty device":
        path.symlink_to(os.devnull)
    elif kind == "no text":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        path.write_bytes(b"")


KINDS = [
    "a link that leads nowhere",
    "a link in a circle",
    "a folder",
    "a pipe that nobody writes into",
    "an endless device",
    "an empty device",
    "no text",
    "nothing",
]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", KINDS)
def test_the_webhook_secrets_file(path: Path, kind: str) -> None:
    """It is found to be none before a start listens, and the words name it; never is another one made in its place."""
    make(path, kind)
    with pytest.raises(SecretError, match=str(path)) as refused:
        secretfile.read(path)
    assert refused.value.exit_code == 2
    assert path.is_symlink() or path.exists()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variable", ["GATEWAY_TOKEN_FILE", "GATEWAY_CONFIG", "GATEWAY_PROFILES"])
def test_files_that_settings_name(tmp_path: Path, variable: str, kind: str) -> None:
    """Each is a mistake like others; an empty file of settings sets nothing, and one profile is no profile."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "mine.toml"
    make(path, kind)
    named = folder if variable == "GATEWAY_PROFILES" else path
    environ = {
        "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
        "GATEWAY_UPSTREAM_API_KEY": "k",
        variable: str(named),
    }
    if variable == "GATEWAY_CONFIG" and kind in ("nothing", "an empty device"):
        preflight(environ, None)
        return
    with pytest.raises(ConfigError) as refused:
        preflight(environ, None)
    (problem, *_) = refused.value.problems
    assert str(path) in problem


def test_a_pipe_that_is_written_into_is_read(path: Path) -> None:
    """As a shell's ``<(…)`` is, however many pieces it comes in."""
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(3):
                file.write(b"a" * 100_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert read_text(path) == "a" * 300_000
    finally:
        writer.join()


def test_a_byte_order_mark_does_not_count(path: Path) -> None:
    """Editors on Windows write one."""
    path.write_bytes(b"\xef\xbb\xbfa")
    assert read_text(path) == "a"


def test_the_files_that_hold_secrets_are_known(tmp_path: Path) -> None:
    """Those that variables name, those that tables name, and the file of settings where a secret stands in it."""
    names = ("key", "token", "shop", "headers")
    for name in names:
        (tmp_path / name).write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" if name == "shop" else "a:b")
    toml = tmp_path / "gateway.toml"
    hash_line = "sha256:" + "0" * 64
    tables = (
        f'[upstreams.runway]\napi_key_file = "{tmp_path}/key"\n[clients.shop]\ntoken_hash = "{hash_line}"\n'
        f'webhook_secret_file = "{tmp_path}/shop"\nheaders_file = "{tmp_path}/headers"\n'
    )
    environ = {"GATEWAY_TOKEN_FILE": f"{tmp_path}/token"}
    toml.write_text(tables)
    named = {f"{tmp_path}/{name}" for name in names}
    assert set(load(environ, toml).secret_files) == named
    toml.write_text(f'operator_token = "gwt_operator"\n{tables}')
    assert set(load(environ, toml).secret_files) == {*named, str(toml)}
    toml.write_text("port = 1\n")
    assert load({}, toml).secret_files == ()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize(
    ("mode", "folder_mode", "exposed"),
    [(0o600, 0o755, False), (0o640, 0o755, False), (0o644, 0o755, True), (0o604, 0o711, True), (0o644, 0o700, False)],
)
def test_a_file_that_everybody_may_read_is_exposed(
    open_folder: Path, mode: int, folder_mode: int, exposed: bool
) -> None:
    """A group may be meant to read it; and nobody gets at it in a folder that is closed to others."""
    path = open_folder / "secret"
    path.touch()
    path.chmod(mode)
    open_folder.chmod(folder_mode)
    assert is_exposed(path) is exposed
    assert not is_exposed(open_folder / "nothing")
    link = open_folder / "link"
    link.symlink_to(path)
    assert is_exposed(link) is exposed
