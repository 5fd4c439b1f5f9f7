"""The commands that ask a running gateway, over its HTTP API: their words and options.

Must hold no logic, nor open the database. Imports stand inside the commands, so that each loads only what it needs.
Listed by ``gateway.cli.commands``.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.commandline import FiniteRange, examples, now
from gateway.core import terminal

if TYPE_CHECKING:
    from gateway.cli.client import RemoteGateway

_AGO = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>s|min|h|d)", re.ASCII)
_UNITS_MS = {"s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def _client_command(command: Callable[..., None], *, as_operator: bool = False) -> Callable[..., None]:
    """Have a command handed the client of a running gateway, with the options that say which one."""
    tokens = "GATEWAY_OPERATOR_TOKEN, else GATEWAY_TOKEN" if as_operator else "GATEWAY_TOKEN"

    @click.option("--url", help="Where the gateway is; default: GATEWAY_URL, else GATEWAY_HOST and GATEWAY_PORT.")
    @click.option("--token", help=f"Your token at the gateway; default: {tokens}.")
    @click.option("--json", "as_json", is_flag=True, help="Print the API's JSON instead of a table.")
    @click.pass_obj
    @wraps(command)
    def run(config: Path | None, /, url: str | None, token: str | None, **given: Any) -> None:
        from gateway.cli.client import RemoteGateway, find

        with RemoteGateway(*find(os.environ, config, url, token, as_operator=as_operator)) as gateway:
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


def _instant(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Read an instant, or how long ago one was, as the API has it."""
    from gateway.core.clock import from_iso, to_iso

    if text is None:
        return None
    if (ago := _AGO.fullmatch(text)) is not None:
        at = now() - int(ago["count"]) * _UNITS_MS[ago["unit"]]
        if at < 0:
            raise click.BadParameter("that is before 1970.", context, option)
        return to_iso(at)
    try:
        return to_iso(from_iso(text))
    except ValueError as exc:
        message = "write how long ago (90s, 30min, 2h, 7d), or an instant with its zone: 2026-11-23T10:00:00Z."
        raise click.BadParameter(message, context, option) from exc


def _receiver(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Refuse what cannot be read; which callbacks are meant, the gateway knows."""
    from gateway.core.search import sought

    try:
        if text is not None:
            sought(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} {exc}.", context, option) from exc
    return text


@click.command(
    epilog=examples(
        "gateway register task_xxx https://app.example.com/hooks",
        "gateway register task_xxx https://app.example.com/hooks --wait",
        "gateway register task_xxx https://app.example.com/hooks --metadata '{\"orderId\": 7}'",
    )
)
@click.argument("task_id", metavar="TASK")
@click.argument("callback_url", metavar="URL")
@click.option("--metadata", callback=_metadata, help="A JSON object that the webhook echoes.")
@click.option("--timeout-seconds", "timeoutSeconds", type=int, help="Abandon it after this long; default 86400.")
@click.option("--upstream", help="Whose task it is; default: your client's upstream, or the gateway's.")
@click.option("--model", help="Which model works on it: the first poll is then made when it pays.")
@click.option("--format", type=click.Choice(["standard", "record"]), help="What the webhook holds; default: standard.")
@click.option("--wait", is_flag=True, help="Show what becomes of it, until its webhook is delivered or dead.")
@_client_command
def register(
    gateway: "RemoteGateway", /, task_id: str, callback_url: str, as_json: bool, wait: bool, **members: Any
) -> None:
    """Register a callback URL for a task.

    With --wait it ends with 0 where the task succeeded and its webhook was delivered, else with 1.
    """
    callback = gateway.register(taskId=task_id, callbackUrl=callback_url, **members)
    if wait:
        from gateway.cli.waiting import wait as wait_for

        callback = wait_for(gateway, callback, quiet=as_json)
    _show(callback, as_json)
    if wait and (callback["state"], callback["task"]["state"]) != ("delivered", "success"):
        sys.exit(1)


@click.command(
    "import",
    epilog=examples(
        "gateway import tasks.csv --report refused.csv",
        "cat tasks.jsonl | gateway import - --callback-url https://app.example.com/hooks",
    ),
)
@click.argument("file", type=click.File("rb"))
@click.option("--callback-url", metavar="URL", help="Where the webhooks of lines without a callbackUrl go.")
@click.option("--report", type=click.Path(path_type=Path), help="Write what was refused here, as CSV.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    help="What has been registered, to go on from there; default: FILE.imported, and of standard input none.",
)
@_client_command
def import_file(
    gateway: "RemoteGateway",
    /,
    file: Any,
    callback_url: str | None,
    report: Path | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Register all tasks of a file: CSV with a header, or a JSON object a line; - is standard input.

    The columns, and the members of an object, are those of a registration: taskId, callbackUrl, metadata,
    timeoutSeconds, upstream, model and format; a column may be metadata.NAME, too. However it ends, the same command
    goes on from there and registers nothing twice.
    """
    from gateway.cli.importing import Import, refuse_one_file, run
    from gateway.cli.journal import Journal

    if journal is None and file.name != "<stdin>":
        journal = Path(f"{file.name}.imported")
    refuse_one_file({"FILE": Path(file.name), "--report": report, "--journal": journal})
    try:
        asked = Import(file.read(), file.name, callback_url, report, as_json)
    except OSError as exc:
        raise click.UsageError(f"FILE cannot be read: {exc.strerror}.") from exc
    with closing(Journal(journal, gateway.url, gateway.token)) as kept:
        done = run(gateway, asked, kept)
    if as_json:
        click.echo(json.dumps(done, indent=2))
    if done["refused"]:
        sys.exit(1)


@click.command("list", epilog=examples("gateway list --state dead", "gateway list --task task_xxx --json"))
@click.option("--state", type=click.Choice(["waiting", "pending", "delivered", "dead", "cancelled"]))
@click.option("--task", "taskId", help="Only callbacks of this task.")
@click.option("--client", help="Only callbacks of this client; for the operator.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", help="The next page, as the page before named it.")
@_client_command
def list_callbacks(gateway: "RemoteGateway", /, as_json: bool, **query: Any) -> None:
    """List callbacks, newest first."""
    from gateway.cli.tables import callback_table

    page = gateway.list_callbacks(**query)
    if as_json:
        click.echo(json.dumps(page, indent=2))
        return
    reasons = _reasons(gateway, page["data"])
    click.echo(callback_table(page["data"], now=now(), reasons=reasons, width=terminal.width()))
    if page["nextCursor"]:
        click.echo(f"\nmore: --cursor {terminal.printable(str(page['nextCursor']))}")


@click.command(epilog=examples("gateway show cb_01m83xj8806rph1h63g1e98972"))
@click.argument("callback_id", metavar="ID")
@_client_command
def show(gateway: "RemoteGateway", /, callback_id: str, as_json: bool) -> None:
    """Show one callback and its attempts."""
    from gateway.cli.tables import attempt_table, callback_details

    callback = gateway.get(callback_id)
    attempts = gateway.attempts(callback_id)
    if as_json:
        click.echo(json.dumps({**callback, "attemptLog": attempts}, indent=2))
        return
    reasons = _reasons(gateway, [callback])
    click.echo(callback_details(callback, now=now(), reasons=reasons))
    if attempts:
        click.echo("\n" + attempt_table(attempts, width=terminal.width()))


@click.command(
    epilog=examples(
        "gateway redeliver cb_01m83xj8806rph1h63g1e98972",
        "gateway redeliver --state dead --since 2h",
        "gateway redeliver --state dead --since 2026-11-23T10:00:00Z --receiver https://app.example.com --yes",
    )
)
@click.argument("callback_id", metavar="[ID]", required=False)
@click.option("--state", type=click.Choice(["dead"]), help="All callbacks in this state, in the place of one.")
@click.option("--since", callback=_instant, help="Those that died since then: 90s, 30min, 2h, 7d ago, or an instant.")
@click.option("--until", callback=_instant, help="Those that died before then; default: now.")
@click.option("--receiver", metavar="URL", callback=_receiver, help="Those whose callback URLs begin with this.")
@click.option("--client", help="Those of this client; for the operator.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_client_command
def redeliver(
    gateway: "RemoteGateway", /, callback_id: str | None, state: str | None, yes: bool, as_json: bool, **which: Any
) -> None:
    """Send a callback's webhook again, with a fresh attempt budget; or those of all that are dead."""
    if (callback_id is None) == (state is None):
        raise click.UsageError("Give one ID, or --state dead for all that are dead.")
    if callback_id is not None:
        if yes or any(value is not None for value in which.values()):
            raise click.UsageError("An ID names one callback: the other options go with --state dead.")
        _show(gateway.redeliver(callback_id), as_json)
        return
    from gateway.cli.redelivering import run

    count = run(gateway, which, yes=yes, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"count": count}))


@click.command(epilog=examples("gateway cancel cb_01m83xj8806rph1h63g1e98972"))
@click.argument("callback_id", metavar="ID")
@_client_command
def cancel(gateway: "RemoteGateway", /, callback_id: str, as_json: bool) -> None:
    """Cancel a callback that has not been delivered."""
    gateway.cancel(callback_id)
    _show(gateway.get(callback_id), as_json)


@click.command(epilog=examples("gateway top", "gateway top --once --json"))
@click.option(
    "--interval", type=FiniteRange(0.2, 3600), default=2, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Print it one time; so where the output is no terminal.")
@partial(_client_command, as_operator=True)
def top(gateway: "RemoteGateway", /, interval: float, once: bool, as_json: bool) -> None:
    """Show what a gateway does now, until q or Ctrl-C; with the operator's token all receivers, too."""
    from gateway.cli.top import run

    run(gateway, interval, once=once, as_json=as_json)


def _show(callback: dict[str, Any], as_json: bool) -> None:
    from gateway.cli.tables import callback_details

    click.echo(json.dumps(callback, indent=2) if as_json else callback_details(callback, now=now()))


def _reasons(gateway: "RemoteGateway", callbacks: list[dict[str, Any]]) -> list[str]:
    """Ask the gateway what is wrong with its upstreams, where a callback waits for one."""
    return gateway.reasons() if any(callback["state"] == "waiting" for callback in callbacks) else []


COMMANDS: tuple[click.Command, ...] = (register, import_file, list_callbacks, show, redeliver, cancel, top)
