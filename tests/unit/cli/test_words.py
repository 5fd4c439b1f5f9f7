"""What the help of the commands says, and what a shell completes: read from the commands themselves."""

import re
import shlex
from pathlib import Path

import click
import pytest

from gateway.cli.commands import cli

NAMES = sorted(cli.commands)


def help_of(command: click.Command, name: str) -> str:
    return command.get_help(click.Context(command, info_name=name, parent=click.Context(cli, info_name="gateway")))


def examples_of(name: str) -> list[str]:
    """Return the command lines that a command's help shows, without what a shell does around them."""
    shown = re.split(r"\n  Examples?:\n", help_of(cli.commands[name], name))
    assert len(shown) == 2, f"{name}: give its epilog examples(…)"
    lines = [line.strip() for line in shown[1].splitlines()]
    around = r"^source <\((.*)\)$|^(?:cat \S+ \| |GATEWAY_\S+ )(.*)$"
    return [re.sub(around, r"\1\2", line.partition(" > ")[0]) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_each_help_has_examples_that_can_be_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is of this command, and its words are ones that the command takes."""
    monkeypatch.chdir(tmp_path)
    for path in ("body.json", "headers.txt", "tasks.csv", "tasks.jsonl"):
        (tmp_path / path).touch()
    for line in examples_of(name):
        gateway, *words = shlex.split(line)
        assert gateway == "gateway"
        with cli.make_context("gateway", words, resilient_parsing=False) as context:
            named, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
            assert named == name
            assert command is not None
            command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("name", NAMES)
def test_each_command_and_option_says_what_it_is_for(name: str) -> None:
    """A command has its sentence, and an option too, but for those that show all by their values."""
    command = cli.commands[name]
    assert (command.help or "").strip().endswith((".", "…)."))
    silent = {"host", "port", "state", "limit", "help"}
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help and option.name not in silent] == []


def test_nothing_large_is_loaded_for_the_help() -> None:
    """The command line is read without the parts that only some commands need: they take longer than it does."""
    import subprocess
    import sys

    heavy = ("httpx", "starlette", "uvicorn", "uvloop", "asyncio", "msgspec", "prometheus_client")
    look = f"import sys; from gateway.cli.commands import cli; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "[]"
