"""The commands: their words and options.

Must hold no logic. What an exit code means stands in ``gateway.core.errors`` and in the help. Imports stand inside the
commands, so that each loads only what it needs. Called by ``gateway.__main__``.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway import __version__
from gateway.cli.commandline import FiniteRange, run_command
from gateway.core import terminal

if TYPE_CHECKING:
    from gateway.cli.client import Client

__all__ = ["main"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


_EXIT_CODES = """\b
Exit codes:
  0  done
  1  refused or failed: the gateway said no, a signature does not verify, a port is taken
  2  the command line, a setting, a secret or the database file is wrong
  3  no gateway answers at the address
"""


class _Commands(click.Group):
    """Loads the simulator only where its options are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "simulate"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "simulate":
            return super().get_command(ctx, cmd_name)
        from gateway.cli.simulate import simulate

        return simulate


@click.group(cls=_Commands, context_settings=_CONTEXT, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="gateway")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; GATEWAY_CONFIG names it too.")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Poll tasks once, in one place, and POST a signed webhook when each one ends."""
    context.obj = config


def main() -> None:
    """Run the command line."""
    run_command(cli, "gateway")


@cli.command()
@click.pass_obj
def serve(config: Path | None, /) -> None:
    """Serve until SIGTERM."""
    from gateway.app.preflight import preflight
    from gateway.core.telemetry import configure_logging

    read = partial(preflight, os.environ, config)
    settings = read()
    configure_logging(settings.log_format, level=settings.log_level)
    from gateway.serve import process

    process.serve(read, settings)


@cli.command()
def demo() -> None:
    """Show the main job with a simulated upstream and a receiver; needs no key and no network."""
    from gateway.cli.demo import run
    from gateway.core.telemetry import configure_logging

    configure_logging("console", level="error")
    sys.exit(run(colour=terminal.use_colour(sys.stdout)))


@cli.command("check-config")
@click.pass_obj
def check_config(config: Path | None, /) -> None:
    """Check all that serve would refuse, report every mistake, and show what would be used."""
    from gateway.app.preflight import preflight
    from gateway.config.settings import SETTINGS
    from gateway.core import private

    settings = preflight(os.environ, config)
    for setting in SETTINGS:
        value = getattr(settings, setting.key)
        shown = "***" if setting.secret and value is not None else _plain(value)
        click.echo(f"{setting.env:<26} {shown}".rstrip())
    for upstream in settings.upstreams:
        words = [upstream.profile.name, upstream.url, _plain(upstream.rate) or "no limit"]
        words += ["no key" if upstream.api_key is None else "key ***", *(["default"] if upstream.default else [])]
        click.echo(f"{f'[upstreams.{upstream.name}]':<26} {'  '.join(words)}")
    for path in settings.secret_files:
        if private.is_exposed(Path(path)):
            click.echo(f"warning: everybody on this machine may read {path}, which holds a secret", err=True)
    for client in settings.clients:
        click.echo(f"{f'[clients.{client.name}]':<26} {'' if client.upstream is None else client.upstream}".rstrip())


@cli.command("make-secret")
@click.option("--ed25519", is_flag=True, help="A key pair: whsk_… to sign with, then whpk_… for receivers.")
@click.option("--token", is_flag=True, help="A client's token, then the line with its hash for the TOML file.")
def make_secret(*, ed25519: bool, token: bool) -> None:
    """Print a new webhook secret (whsec_…)."""
    from gateway import signature
    from gateway.config import tokens

    if ed25519 and token:
        raise click.UsageError("Give one of --ed25519 and --token.")
    if token:
        made = tokens.make_token()
        lines: tuple[str, ...] = (made, f'token_hash = "{tokens.hash_line(made)}"')
    else:
        lines = signature.make_key_pair() if ed25519 else (signature.make_secret(),)
    for line in lines:
        click.echo(line)


@cli.command()
@click.option("--config-of", "pid", type=click.IntRange(1), help="Take --config from this process's command line.")
@click.pass_obj
def health(config: Path | None, /, pid: int | None) -> None:
    """Ask the gateway on this machine whether it makes progress: exit 0, or 1 with the reason; for containers."""
    from gateway.cli.health import check, config_of

    problem = check(os.environ, config or (None if pid is None else config_of(pid)))
    if problem is not None:
        click.echo(terminal.printable(problem), err=True)
        sys.exit(1)


@cli.command("copy-database")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.pass_obj
def copy_database(config: Path | None, /, source: str, target: str) -> None:
    """Copy a database into another, empty one, while no gateway uses either; again, to go on where it was stopped.

    Each is written as in GATEWAY_DATABASE_URL: sqlite:///gateway.db, postgresql://user@host/database. The password is
    that of GATEWAY_DATABASE_PASSWORD, where none stands in the URL.
    """
    from gateway.cli.copydatabase import run
    from gateway.config.load import load_some
    from gateway.core.telemetry import configure_logging

    configure_logging("console", level="error")
    run(source, target, load_some(os.environ, config, ("database_password",))["database_password"])


def _client_command(command: Callable[..., None]) -> Callable[..., None]:
    """Have a command handed the client of a running gateway, with the options that say which one."""

    @click.option("--url", help="Where the gateway is; default: GATEWAY_URL, else GATEWAY_HOST and GATEWAY_PORT.")
    @click.option("--token", help="Your token at the gateway; default: GATEWAY_TOKEN.")
    @click.option("--json", "as_json", is_flag=True, help="Print the API's JSON instead of a table.")
    @click.pass_obj
    @wraps(command)
    def run(config: Path | None, /, url: str | None, token: str | None, **given: Any) -> None:
        from gateway.cli.client import Client, find

        with Client(*find(os.environ, config, url, token)) as gateway:
            command(gateway, **given)

    return run


def _metadata(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    """Read the option's JSON as the API will, so that both give the same reasons."""
    from gateway.api.schema import read_metadata
    from gateway.core.errors import InvalidJson, InvalidRequest

    try:
        return None if text is None else read_metadata(text.encode("utf-8", "surrogateescape"))
    except InvalidRequest as exc:
        raise click.BadParameter(exc.message.removeprefix("metadata: "), param_hint="--metadata") from exc
    except InvalidJson as exc:
        reason = exc.message.partition(": ")[2]
        raise click.BadParameter(f"not JSON: {reason}", param_hint="--metadata") from exc


@cli.command()
@click.argument("task_id", metavar="TASK")
@click.argument("callback_url", metavar="URL")
@click.option("--metadata", callback=_metadata, help="A JSON object that the webhook echoes.")
@click.option("--timeout-seconds", "timeoutSeconds", type=int, help="Give up after this long; default 86400.")
@click.option("--upstream", help="Whose task it is; default: your client's upstream, or the gateway's.")
@click.option("--model", help="Which model works on it: the first poll is then made when it pays.")
@click.option("--format", type=click.Choice(["standard", "record"]), help="What the webhook holds; default: standard.")
@_client_command
def register(gateway: "Client", /, task_id: str, callback_url: str, as_json: bool, **members: Any) -> None:
    """Register a callback URL for a task."""
    _show(gateway.register(taskId=task_id, callbackUrl=callback_url, **members), as_json)


@cli.command("list")
@click.option("--state", type=click.Choice(["waiting", "pending", "delivered", "dead", "cancelled"]))
@click.option("--task", "taskId", help="Only callbacks of this task.")
@click.option("--client", help="Only callbacks of this client; for the operator.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", help="The next page, as the page before named it.")
@_client_command
def list_callbacks(gateway: "Client", /, as_json: bool, **query: Any) -> None:
    """List callbacks, newest first."""
    from gateway.cli.tables import callback_table

    page = gateway.list_callbacks(**query)
    if as_json:
        click.echo(json.dumps(page, indent=2))
        return
    reasons = _reasons(gateway, page["data"])
    click.echo(callback_table(page["data"], now=_now(), reasons=reasons, width=terminal.width()))
    if page["nextCursor"]:
        click.echo(f"\nmore: --cursor {terminal.printable(str(page['nextCursor']))}")


@cli.command()
@click.argument("callback_id", metavar="ID")
@_client_command
def show(gateway: "Client", /, callback_id: str, as_json: bool) -> None:
    """Show one callback and its attempts."""
    from gateway.cli.tables import attempt_table, callback_details

    callback = gateway.get(callback_id)
    attempts = gateway.attempts(callback_id)
    if as_json:
        click.echo(json.dumps({**callback, "attemptLog": attempts}, indent=2))
        return
    reasons = _reasons(gateway, [callback])
    click.echo(callback_details(callback, now=_now(), reasons=reasons))
    if attempts:
        click.echo("\n" + attempt_table(attempts, width=terminal.width()))


@cli.command()
@click.argument("callback_id", metavar="ID")
@_client_command
def redeliver(gateway: "Client", /, callback_id: str, as_json: bool) -> None:
    """Send a callback's webhook again, with a fresh attempt budget."""
    _show(gateway.redeliver(callback_id), as_json)


@cli.command()
@click.argument("callback_id", metavar="ID")
@_client_command
def cancel(gateway: "Client", /, callback_id: str, as_json: bool) -> None:
    """Cancel a callback that has not been delivered."""
    gateway.cancel(callback_id)
    _show(gateway.get(callback_id), as_json)


_secrets_option = click.option(
    "--secret", "secrets", multiple=True, help="whsec_… or whpk_…; default: the gateway's own, where it can be read."
)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True)
@_secrets_option
@click.option(
    "--answer",
    default="204",
    show_default=True,
    help="What a verified webhook gets: a status (500, 410, …), slow[:SECONDS] or hang. Several with commas: one for "
    "each time the same webhook comes, the last from there on (500,slow,204).",
)
@click.pass_obj
def listen(config: Path | None, /, host: str, port: int, secrets: tuple[str, ...], answer: str) -> None:
    """Receive webhooks, verify each one and print it; answer as told, to see the gateway try again."""
    from gateway.cli.listen import run
    from gateway.cli.receiver import parse_answers

    try:
        answers = parse_answers(answer)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--answer") from exc
    run(_secrets(config, secrets), host, port, answers, colour=terminal.use_colour(sys.stdout))


@cli.command()
@click.argument("body", type=click.File("rb"))
@click.argument("headers", type=click.File("rb"))
@_secrets_option
@click.option("--tolerance-seconds", type=FiniteRange(0), default=300, show_default=True, help="How old it may be.")
@click.pass_obj
def verify(config: Path | None, /, body: Any, headers: Any, secrets: tuple[str, ...], tolerance_seconds: float) -> None:
    """Verify a saved webhook: a file with its BODY and one with its HEADERS, a `name: value` a line."""
    from gateway.cli.receiver import verify_saved

    if body is headers:
        raise click.UsageError("Only one of BODY and HEADERS can be standard input.")
    try:
        saved = body.read(), headers.read()
    except OSError as exc:
        raise click.UsageError(f"The files cannot be read: {exc.strerror}.") from exc
    verified = verify_saved(*saved, _secrets(config, secrets), _now() / 1000, tolerance_seconds)
    click.echo(f"verified: {verified.webhook_id}, signed at {verified.timestamp_s}")


def _secrets(config: Path | None, given: tuple[str, ...]) -> Any:
    """Return the secrets named on the command line, else the gateway's own."""
    from gateway.config import secretfile
    from gateway.config.load import load_some
    from gateway.config.settings import database_path
    from gateway.signature import parse_secrets

    if given:
        return parse_secrets(" ".join(given))

    def database() -> Path | None:
        return database_path(load_some(os.environ, config, ("database_url",))["database_url"])

    found = secretfile.in_use(load_some(os.environ, config, ("webhook_secret",))["webhook_secret"], database)
    if found is None:
        path = database()
        found_none = "" if path is None else f": there is no secret in {secretfile.secret_path(path)}"
        raise click.UsageError(f"Give --secret or set GATEWAY_WEBHOOK_SECRET{found_none}.")
    return parse_secrets(found)


def _show(callback: dict[str, Any], as_json: bool) -> None:
    from gateway.cli.tables import callback_details

    click.echo(json.dumps(callback, indent=2) if as_json else callback_details(callback, now=_now()))


def _reasons(gateway: "Client", callbacks: list[dict[str, Any]]) -> list[str]:
    """Ask the gateway what is wrong with its upstreams, where a callback waits for one."""
    return gateway.reasons() if any(callback["state"] == "waiting" for callback in callbacks) else []


def _now() -> int:
    from gateway.core.clock import SystemClock

    return SystemClock().now()


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_plain(item) for item in value)
    if hasattr(value, "window_s"):
        return f"{value.limit}/{value.window_s:g}"
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
