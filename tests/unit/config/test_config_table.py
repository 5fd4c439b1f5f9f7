"""One table of settings behind all documentation, the shipped file and the commands."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from gateway.cli.commands import cli
from gateway.config.example import example
from gateway.config.load import load
from gateway.config.settings import SETTINGS, Settings
from tests.manual import MANUAL, README, ROOT


def test_table_and_settings_agree() -> None:
    """The table has one row for each field of Settings, in the same order; what follows is no setting."""
    assert (
        *(row.key for row in SETTINGS),
        "upstreams",
        "clients",
        "receivers",
        "webhook_secret_from",
        "secret_files",
    ) == Settings.__struct_fields__


def test_the_shipped_file_is_made_of_the_declarations() -> None:
    """config/gateway.toml is what `gateway config-example` prints, with each setting's sentence right above its key."""
    text = (ROOT / "config" / "gateway.toml").read_text("utf-8")
    assert text == example(), "run: gateway config-example > config/gateway.toml"
    documented = re.findall(r"^# (.+)\n# ([a-z_]+) = ", text, re.MULTILINE)
    assert documented == [(row.doc, row.key) for row in SETTINGS]
    secrets = [row.key for row in SETTINGS if row.secret]
    assert f"({', '.join(secrets)})" in text.partition("# ---")[0].replace("\n# ", " ")


def test_shipped_file_holds_the_defaults(tmp_path: Path) -> None:
    """Using config/gateway.toml changes nothing, and neither does uncommenting all of it."""
    shipped = ROOT / "config" / "gateway.toml"
    text = shipped.read_text("utf-8")
    assert tomllib.loads(text) == {}
    uncommented = tmp_path / "gateway.toml"
    uncommented.write_text(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE), "utf-8")
    assert list(tomllib.loads(uncommented.read_text("utf-8"))) == [row.key for row in SETTINGS]
    assert load({}, shipped) == load({})
    changed = {"upstream_url": None, "upstream_rate": None}  # given they are what the profile says, as seen below
    assert msgspec.structs.replace(load({}, uncommented), **changed) == load({})


def test_shipped_file_names_commands_that_there_are() -> None:
    """Options and all, as they stand in its head."""
    commands = re.findall(r"`gateway (.+?)`", (ROOT / "config" / "gateway.toml").read_text("utf-8"))
    assert "--config FILE serve" in commands
    assert [cli.main([*words.split(), "--help"], standalone_mode=False) for words in commands] == [0] * len(commands)


@pytest.mark.parametrize("path", [README, *sorted(MANUAL.glob("*.md"))], ids=lambda path: path.name)
def test_no_other_variable_is_documented(path: Path) -> None:
    """README and the manual name no GATEWAY_ variable that the gateway would refuse."""
    known = {row.env for row in SETTINGS} | {f"{row.env}_FILE" for row in SETTINGS if row.secret} | {"GATEWAY_CONFIG"}
    known |= {f"{row.env}_DEFAULT" for row in SETTINGS if row.default}
    assert set(re.findall(r"\bGATEWAY_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8"))) <= known
