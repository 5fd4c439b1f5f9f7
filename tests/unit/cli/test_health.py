"""A container's health check: where it asks, and what it makes of the answer."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.health import check, config_of
from gateway.config.load import load, load_some
from gateway.core.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("environ", "text", "expected"),
    [
        ({}, "", ("127.0.0.1", 8080)),
        ({"GATEWAY_HOST_DEFAULT": "0.0.0.0"}, "", ("0.0.0.0", 8080)),
        ({"GATEWAY_HOST_DEFAULT": "0.0.0.0"}, 'host = "10.0.0.1"\nport = 9', ("10.0.0.1", 9)),
        ({"GATEWAY_HOST_DEFAULT": "0.0.0.0", "GATEWAY_HOST": "::1"}, 'host = "10.0.0.1"', ("::1", 8080)),
        ({"GATEWAY_PORT": "81", "GATEWAY_PROT": "82", "GATEWAY_DRAIN_S": "x"}, "frobnicate = 1", ("127.0.0.1", 81)),
        ({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT_DEFAULT": "82"}, "", ("0.0.0.0", 82)),
    ],
)
def test_where_it_listens(tmp_path: Path, environ: dict[str, str], text: str, expected: tuple[str, int]) -> None:
    """The environment, else the file, else the image's default, else ours; no other setting matters."""
    path = tmp_path / "gateway.toml"
    path.write_text(text, "utf-8")
    for found in (
        load_some(environ, path, ("host", "port")),
        load_some(environ | {"GATEWAY_CONFIG": str(path)}, None, ("host", "port")),
    ):
        assert (found["host"], found["port"]) == expected


def test_a_default_is_a_setting_as_any(tmp_path: Path) -> None:
    """It is checked, and told by its name; there is none for what has no default, and none of a misspelt setting."""
    with pytest.raises(ConfigError) as caught:
        load({"GATEWAY_HOST_DEFAULT": "0.0.0.0"})
    assert caught.value.problems[0].startswith("GATEWAY_HOST_DEFAULT: got '0.0.0.0' and no token")
    with pytest.raises(ConfigError) as caught:
        load_some({"GATEWAY_PORT_DEFAULT": "x"}, None, ("port",))
    assert caught.value.problems == ("GATEWAY_PORT_DEFAULT: got 'x'; write a whole number from 0 to 65535",)
    for name in ("GATEWAY_TOKEN_DEFAULT", "GATEWAY_PROT_DEFAULT"):
        with pytest.raises(ConfigError, match=f"{name}: no such setting"):
            load({name: "x"})
    assert load({"GATEWAY_HOST_DEFAULT": "0.0.0.0", "GATEWAY_TOKEN": "t"}).host == "0.0.0.0"


@pytest.mark.parametrize("words", [["--config", "etc/gw.toml", "serve"], ["--config=etc/gw.toml", "serve"], ["serve"]])
def test_the_file_that_a_process_was_given(words: list[str]) -> None:
    """Its command line says which; where it names none, or there is no such process, there is none."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("another process's command line is read from /proc")
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert config_of(process.pid) == (Path("etc/gw.toml") if len(words[0]) > 5 else None)
        process.communicate(b"\n")
    assert config_of(process.pid) is None


def test_settings_that_cannot_be_read_are_no_health(tmp_path: Path) -> None:
    """The reason is told, as for everything else that is not well."""
    problem = check({}, tmp_path / "missing.toml")
    assert problem is not None
    assert "missing.toml" in problem
