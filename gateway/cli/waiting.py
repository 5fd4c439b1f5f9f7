"""``gateway register --wait``: what becomes of a callback, shown until its webhook is delivered or dead.

Owns how often the gateway is asked, and for how long one that does not answer is waited for. Called by ``asking``.
"""

import sys
import time
from typing import Any

import click

from gateway.cli.client import ApiError, RemoteGateway
from gateway.cli.commandline import tell
from gateway.cli.tables import duration, waits_for
from gateway.core import terminal
from gateway.core.clock import SystemClock, from_iso

_ENDED = ("delivered", "dead", "cancelled")
_TICK_S = 1.0
_LONG_S = 60.0
"""After a minute it is asked half as often, after two a third, and so on."""
_SELDOM_S = 5.0
_PATIENCE_S = 60.0
"""A gateway that is restarted is back by then."""


def wait(gateway: RemoteGateway, callback: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Return the callback once nothing more becomes of it. ``quiet``: show nothing on the way.

    Raises ApiError: Unreachable where no gateway has answered for a minute.
    """
    shown = _NoProgress() if quiet else _StatusLine() if sys.stdout.isatty() else _ChangeLines()
    clock = SystemClock()
    started = heard = clock.monotonic()
    ask_at = started
    trouble: str | None = None
    try:
        while callback["state"] not in _ENDED:
            now = clock.monotonic()
            if now >= ask_at:
                try:
                    callback, trouble, heard = gateway.get(callback["id"]), None, clock.monotonic()
                    pause_s = min(_TICK_S * (1 + (now - started) // _LONG_S), _SELDOM_S)
                except ApiError as error:
                    if not error.passes or clock.monotonic() - heard > _PATIENCE_S:
                        raise
                    trouble, pause_s = error.message, max(error.retry_after_s or 0.0, _TICK_S)
                ask_at = now + pause_s
            shown.show(_progress(callback, clock, trouble), callback)
            if callback["state"] not in _ENDED:
                time.sleep(_TICK_S)
    except KeyboardInterrupt:
        shown.end()
        its_id = callback["id"]
        tell(
            f"{its_id} stays registered: the gateway goes on without this command. "
            f"`gateway show {its_id}` tells how it is, `gateway cancel {its_id}` ends it."
        )
        raise
    shown.end()
    return callback


def _progress(callback: dict[str, Any], clock: SystemClock, trouble: str | None) -> str:
    """Say where a callback stands, in one printable line."""
    now = clock.now()
    task = callback["task"]
    age_s = max((now - from_iso(callback["createdAt"])) / 1000, 0.0)
    words = [f"{callback['state']} for {duration(age_s)}"]
    if callback["state"] == "waiting":
        words.append(f"task {task['state']}, {task['polls']} polls")
    if next_step := waits_for(callback, now):
        words.append(f"next {next_step}")
    error = callback["lastError"] or task["lastError"]
    words += [str(one) for one in (error, trouble) if one]
    return terminal.printable("; ".join(words))


class _NoProgress:
    """Shows nothing."""

    def show(self, text: str, callback: dict[str, Any]) -> None:
        """Show how it is now."""

    def end(self) -> None:
        """Leave the line that is shown."""


class _StatusLine(_NoProgress):
    """On a terminal: one line that is written over."""

    def show(self, text: str, callback: dict[str, Any]) -> None:
        columns = terminal.width() or 80
        click.echo(f"\r{terminal.cut(text, columns - 1)}\x1b[K", nl=False)
        sys.stdout.flush()

    def end(self) -> None:
        click.echo()


class _ChangeLines(_NoProgress):
    """Elsewhere: a line for each change, but not for each poll."""

    def __init__(self) -> None:
        self._last: Any = None

    def show(self, text: str, callback: dict[str, Any]) -> None:
        task = callback["task"]
        now = callback["state"], callback["attempts"], callback["lastError"], task["state"], task["lastError"]
        if now != self._last:
            self._last = now
            click.echo(text)
            sys.stdout.flush()
