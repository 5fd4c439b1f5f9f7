"""The commands that run or look after a gateway on this machine: their words and options. And the list of all.

Must hold no logic. What an exit code means stands in ``gateway.core.errors`` and in the help. Imports stand inside the
commands, so that each loads only what it needs. Called by ``gateway.__main__``.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from gateway import __version__
from gateway.cli import asking
from gateway.cli.commandline import FiniteRange, examples, now, run_command, tell
from gateway.cli.simulate import simulate
from gateway.core import terminal

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


_EXIT_CODES = """\b
Exit codes:
  0  done
  1  refused or failed: the gateway said no, a signature does not verify, a port is taken
  2  the command line, a setting, a secret or the database file is wrong
  3  no gateway answers at the address
"""


@click.group(context_settings=_CONTEXT, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="gateway")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; GATEWAY_CONFIG names it too.")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Poll tasks once, in one place, and POST a signed webhook when each one ends."""
    context.obj = config


for _command in (*asking.COMMANDS, simulate):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    run_command(cli, "gateway")


@cli.command(epilog=examples("gateway serve", "gateway --config gateway.toml serve"))
@click.pass_obj
def serve(config: Path | None, /) -> None:
    """Serve until SIGTERM."""
    from gateway.app.preflight import preflight
    from gateway.core.telemetry import configure_logging

    read = partial(preflight, os.environ, config)
    settings = read()
    configure_logging(settings.log_format, level=settings.log_level)
    from gateway.serve import process

    process.serve(read, settings, os.environ)


@cli.command(epilog=examples("gateway demo"))
def demo() -> None:
    """Show the main job with a simulated upstream and a receiver; needs no key and no network."""
    from gateway.cli.demo import run
    from gateway.core.telemetry import configure_logging

    configure_logging("console", level="error")
    sys.exit(run(colour=terminal.use_colour(sys.stdout)))


@cli.command("check-config", epilog=examples("gateway --config gateway.toml check-config"))
@click.pass_obj
def check_config(config: Path | None, /) -> None:
    """Check all that serve would refuse, report every mistake, and show what would be used."""
    from gateway.app.exporting import checked
    from gateway.app.preflight import preflight, warnings
    from gateway.config.receivers import told
    from gateway.config.settings import SETTINGS, written
    from gateway.core.clock import SystemClock

    settings = preflight(os.environ, config)
    for setting in SETTINGS:
        value = getattr(settings, setting.key)
        shown = "***" if setting.secret and value is not None else written(value)
        click.echo(f"{setting.env:<26} {shown}".rstrip())
    for upstream in settings.upstreams:
        words = [upstream.profile.name, upstream.url, written(upstream.rate) or "no limit"]
        words += ["no key" if upstream.api_key is None else "key ***", *(["default"] if upstream.default else [])]
        words += [] if upstream.proxy is None else [f"through {upstream.proxy}"]
        click.echo(f"{f'[upstreams.{upstream.name}]':<26} {'  '.join(words)}")
    for warning in warnings(settings, now() / 1000):
        tell(f"warning: {warning}")
    for receiver in settings.receivers:
        click.echo(f"{'[[receivers]]':<26} {receiver.match}  {'  '.join(told(receiver))}".rstrip())
    exported = checked(os.environ, SystemClock())
    for problem in exported.problems:
        tell(f"warning: {problem}")
    signals = [name for name, on in (("traces", exported.traces), ("metrics", exported.metrics)) if on]
    if signals:
        click.echo(f"{'OTEL_*':<26} {', '.join(signals)}")
    for client in settings.clients:
        click.echo(f"{f'[clients.{client.name}]':<26} {'' if client.upstream is None else client.upstream}".rstrip())


@cli.command("config-example", epilog=examples("gateway config-example > gateway.toml"))
def config_example() -> None:
    """Print a file of settings to begin with: all of them, each with its default, commented out."""
    from gateway.config.example import example

    click.echo(example(), nl=False)


@cli.command(
    epilog=examples(
        "source <(gateway completion bash)",
        "gateway completion zsh > ~/.zfunc/_gateway",
        "gateway completion fish > ~/.config/fish/completions/gateway.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what has a shell complete commands, options and their values."""
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None  # noqa: S101 - click knows these three
    click.echo(completer(cli, {}, "gateway", "_GATEWAY_COMPLETE").source())


@cli.command("make-secret", epilog=examples("gateway make-secret", "gateway make-secret --token"))
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


@cli.command(epilog=examples("gateway health", "gateway health --config-of 1"))
@click.option("--config-of", "pid", type=click.IntRange(1), help="Take --config from this process's command line.")
@click.pass_obj
def health(config: Path | None, /, pid: int | None) -> None:
    """Ask the gateway on this machine whether it makes progress: exit 0, or 1 with the reason; for containers."""
    from gateway.cli.health import check, config_of

    problem = check(os.environ, config or (None if pid is None else config_of(pid)))
    if problem is not None:
        tell(problem)
        sys.exit(1)


@cli.command(
    "copy-database",
    epilog=examples("gateway copy-database sqlite:///gateway.db postgresql://gateway@db.example.com/gateway"),
)
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


_secrets_option = click.option(
    "--secret", "secrets", multiple=True, help="whsec_… or whpk_…; default: the gateway's own, where it can be read."
)


@cli.command(epilog=examples("gateway listen --port 9000", "gateway listen --answer 503,slow,204"))
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


@cli.command(epilog=examples("gateway verify body.json headers.txt"))
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
    verified = verify_saved(*saved, _secrets(config, secrets), now() / 1000, tolerance_seconds)
    click.echo(f"verified: {verified.webhook_id}, signed at {verified.timestamp_s}")


@cli.command(
    "send-test",
    epilog=examples(
        "gateway send-test https://app.example.com/hooks",
        "GATEWAY_CALLBACK_ALLOW=127.0.0.1 gateway send-test http://127.0.0.1:9000/hooks --kind failed --format record",
    ),
)
@click.argument("url", metavar="URL")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["succeeded", "failed", "abandoned"]),
    help="Only samples of this kind, repeatable; default: one of each.",
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["standard", "record"]),
    default="standard",
    show_default=True,
    help="What the samples hold.",
)
@click.option("--client", help="Sign with the secrets, and send the headers, of this client's table.")
@_secrets_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@click.pass_obj
def send_test(
    config: Path | None,
    /,
    url: str,
    kinds: tuple[str, ...],
    fmt: str,
    client: str | None,
    secrets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send signed samples to a receiver, as the gateway would, and say what it did; then see that it refuses bad ones.

    No gateway need run: this command signs and sends itself, with the settings of the one on this machine. It ends
    with 1 where a sample would not be delivered, or a badly signed one is taken.
    """
    from gateway.cli.sendtest import run, show
    from gateway.config.load import load
    from gateway.config.receivers import table_of
    from gateway.signature import parse_secrets

    settings = load(os.environ, config)
    found = next((one for one in settings.clients if one.name == client), None)
    if client is not None and found is None:
        names = ", ".join(one.name for one in settings.clients) or "none"
        raise click.BadParameter(f"there is no table [clients.{client}]; there is: {names}.", param_hint="--client")
    table = table_of(settings.receivers, url)
    of_table = None if table is None or secrets else table.secret
    own = of_table or (None if found is None or secrets else found.webhook_secret)
    keys = parse_secrets(" ".join(own)) if own else _secrets(config, secrets)
    tried = run(settings, url, keys, found, kinds or ("succeeded", "failed", "abandoned"), fmt)
    if as_json:
        click.echo(json.dumps({"url": url, "tried": [one.as_json() for one in tried]}, indent=2))
    else:
        signed_with = "--secret" if secrets else f"client {client}'s secret" if own else "the gateway's secret"
        if table is not None and of_table:
            signed_with = f"{table.secret_file}"
        show(tried, url, signed_with)
    if not all(one.good for one in tried):
        sys.exit(1)


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
