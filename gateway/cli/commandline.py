"""How a program of the package runs its command line: what is raised on purpose becomes a message and an exit code.

Owns the standard files around a command; what an exit code means stands in ``gateway.core.errors``. Must not know what
a command does. Called by ``gateway.cli.commands``.
"""

import io
import sys

import click

from gateway.cli.standardfiles import open_missing
from gateway.core import terminal
from gateway.core.errors import ConfigError, GatewayError, OutputClosed

__all__ = ["run_command"]


def run_command(command: click.Command, name: str) -> None:
    """Run the command that the process was started with; returns where it is done, else ends the process."""
    open_missing()
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


def _fail(exit_code: int, message: str) -> None:
    """End with the code; say why, where standard error can be written."""
    try:
        for line in message.splitlines():
            click.echo(terminal.printable(line), err=True)
    except OSError:
        terminal.discard(sys.stderr)
    sys.exit(exit_code)
