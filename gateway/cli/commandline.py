"""How a command line is run: what is raised on purpose becomes a message and an exit code.

Owns the standard files around a command, and the type of option that click lacks; what an exit code means stands in
``gateway.core.errors``. Must not know what a command does. Called by ``gateway.cli.commands``.
"""

import io
import math
import os
import sys
from typing import Any

import click

from gateway.core import terminal
from gateway.core.errors import ConfigError, GatewayError, OutputClosed


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines to copy."""
    return "\n".join(("\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)))


class FiniteRange(click.FloatRange):
    """A number between bounds. click lets NaN pass: it compares false with either bound, and then with every other."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def now() -> int:
    """Return the machine's time, in milliseconds."""
    from gateway.core.clock import SystemClock  # here, as most commands tell no time

    return SystemClock().now()


def run_command(command: click.Command, name: str) -> None:
    """Run the command that the process was started with; returns where it is done, else ends the process."""
    _open_missing()
    try:
        with terminal.standard_output():
            command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _fail(error.exit_code, shown.getvalue())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ConfigError as error:
        _fail(error.exit_code, "\n  ".join(["The settings cannot be used:", *error.problems]))
    except OutputClosed as error:
        sys.exit(error.exit_code)
    except GatewayError as error:
        _fail(error.exit_code, error.message)


def _open_missing() -> None:
    """Open the null device in the place of each standard file that was closed before the process began.

    Else the next file that is opened takes its number: a log line would go into the database, and the event loop's
    library aborts when it closes a file that has one of these numbers.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def tell(line: str) -> None:
    """Print a line on standard error, escaped; where that cannot be written the command goes on all the same."""
    try:
        click.echo(terminal.printable(line), err=True)
    except OSError:
        terminal.discard(sys.stderr)


def _fail(exit_code: int, message: str) -> None:
    """End with the code; say why, where standard error can be written."""
    for line in message.splitlines():
        tell(line)
    sys.exit(exit_code)
