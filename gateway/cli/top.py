"""``gateway top``: what a gateway does now, drawn anew every few seconds until q or Ctrl-C.

Owns the terminal meanwhile: its other screen, its keys and its size, all of which it has back at the end. Asks over
HTTP alone. Called by ``asking``.
"""

import json
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from gateway.cli.client import ApiError, RemoteGateway
from gateway.cli.figures import Figures, Scrape, figures
from gateway.cli.topview import lines
from gateway.core import terminal
from gateway.core.clock import SystemClock

_ONCE_S = 1.0
"""Between the two looks of a single print."""
_LOOK_S = 0.1
"""How soon a key, or another size of the terminal, is noticed."""
_OWED = 200
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"
"""Around a drawing: terminals that know it show all of it at once, others pass it over."""
_REST_OF_LINE = "\x1b[K"


def run(gateway: RemoteGateway, interval_s: float, *, once: bool, as_json: bool) -> None:
    """Show it until told to stop, or where ``once``, or where no terminal is, one time. Raises ApiError then."""
    if once or as_json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        before = _look(gateway)
        time.sleep(_ONCE_S)
        found = _figures(gateway, before, _look(gateway))
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        else:
            click.echo("\n".join(lines(found, now=SystemClock().now(), width=terminal.width())))
        return
    watcher = _Watcher(gateway, interval_s)
    try:
        with _screen() as keys:
            _show(gateway.url, watcher, keys)
    except KeyboardInterrupt:
        pass  # it is how it is meant to end


def _show(url: str, watcher: "_Watcher", keys: int | None) -> None:
    drawn: Any = None
    while True:
        size = os.get_terminal_size(sys.stdout.fileno())
        state = watcher.changes, size
        if state != drawn:
            drawn = state
            _draw(_frame(url, watcher, size.columns), size)
        if keys is None:
            time.sleep(_LOOK_S)
        elif select.select([keys], [], [], _LOOK_S)[0] and (not (typed := os.read(keys, 64)) or b"q" in typed.lower()):
            return


def _frame(url: str, watcher: "_Watcher", columns: int) -> list[str]:
    now = time.strftime("%H:%M:%S")
    head = [terminal.printable(f"gateway top  {url}  {now}  q ends")]
    if watcher.trouble is not None:
        head.append(terminal.printable(f"NO ANSWER  {watcher.trouble}"))
    found = watcher.found
    below = [] if found is None else lines(found, now=SystemClock().now(), width=columns)
    return [*head, "", *below]


def _draw(shown: list[str], size: os.terminal_size) -> None:
    if len(shown) > size.lines:
        shown = [*shown[: size.lines - 1], f"… {len(shown) - size.lines + 1} lines more"]
    text = "\r\n".join(terminal.cut(line, size.columns) + _REST_OF_LINE for line in shown)
    click.echo(f"{_BEGIN}{text}{_END}", nl=False)
    sys.stdout.flush()


class _Watcher:
    """Asks the gateway in a thread of its own, so that keys are heard while an answer takes long."""

    def __init__(self, gateway: RemoteGateway, interval_s: float) -> None:
        self.found: Figures | None = None
        self.trouble: str | None = None
        self.changes = 0
        self._gateway, self._interval_s = gateway, interval_s
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        before: Scrape | None = None
        while True:
            try:
                now = _look(self._gateway)
                self.found = _figures(self._gateway, before or now, now)
                self.trouble, before = None, now
            except ApiError as error:
                self.trouble = error.message
            self.changes += 1
            time.sleep(self._interval_s)


def _look(gateway: RemoteGateway) -> Scrape:
    text = gateway.metrics()
    try:
        return Scrape.of(SystemClock().monotonic(), text)
    except ValueError:
        raise ApiError(f"{gateway.url} answers with no metrics: it is no gateway.") from None


def _figures(gateway: RemoteGateway, before: Scrape, now: Scrape) -> Figures:
    owed: list[dict[str, Any]] = []
    unknown = None
    try:
        owed = gateway.list_callbacks(state="pending", limit=_OWED)["data"]
    except ApiError as error:
        if error.status is None:
            raise
        unknown = error.message
    return figures(before, now, gateway.reasons(), owed, unknown)


@contextmanager
def _screen() -> Iterator[int | None]:
    """Have the terminal's other screen, and its keys one by one; yield the file they come from."""
    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    mode = None if keys is None else termios.tcgetattr(keys)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # not without the end of this block
    try:
        if keys is not None:
            tty.setcbreak(keys)
        click.echo(_ENTER, nl=False)
        yield keys
    finally:
        if keys is not None and mode is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, mode)
        click.echo(_LEAVE, nl=False)
        sys.stdout.flush()
