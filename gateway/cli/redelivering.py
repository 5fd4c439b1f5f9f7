"""``gateway redeliver --state dead``: all that died within a span, counted, asked about and redelivered.

Owns the question and the progress; which callbacks are meant the API decides. Called by ``asking``.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click

from gateway.cli import commandline
from gateway.cli.client import ApiError, RemoteGateway
from gateway.cli.progress import progress
from gateway.core.clock import SystemClock, to_iso

_LOOK_S = 1.0
_LOOK_SHARE = 10
"""A look at how many are left comes this many times as long after one as that one took."""
_PAUSE_S = 1.0
_FAILURES = 5


def run(gateway: RemoteGateway, which: Mapping[str, Any], *, yes: bool, as_json: bool) -> int:
    """Redeliver those that ``which`` says, after asking; return how many. Raises ApiError, and click's errors."""
    # What dies while this goes on is neither counted nor meant.
    which = {**which, "until": which["until"] or to_iso(SystemClock().now())}
    count = gateway.redeliver_dead(**which, dryRun=True)
    if count == 0:
        if not as_json:
            click.echo("No dead callback is among those.")
        return 0
    many = f"{count:,} dead callback{'s' if count > 1 else ''}"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{many}: give --yes to redeliver without being asked.")
        click.confirm(f"Redeliver {many}?", abort=True, err=True)
    if as_json:
        return _redeliver(gateway, which, count, lambda left: None)
    with progress("callbacks").stage("redeliver", count, 0) as advance:
        shown = 0

        def tell(left: int) -> None:
            nonlocal shown
            if (more := count - left - shown) > 0:
                advance(more)
                shown += more

        done = _redeliver(gateway, which, count, tell)
        tell(0)
    click.echo(f"{done:,} are due again, with a fresh attempt budget.")
    return done


def _redeliver(gateway: RemoteGateway, which: Mapping[str, Any], count: int, tell: Callable[[int], None]) -> int:
    """Ask for those ``count`` until all is done; ``tell`` how many are left. Return how many are redelivered."""
    done = failures = 0
    while True:
        asked = _Redelivering(gateway, which)
        try:
            took_s = 0.0
            while not asked.done.wait(max(_LOOK_S, _LOOK_SHARE * took_s)):
                looked = time.monotonic()
                with suppress(ApiError):  # the request itself is what counts
                    tell(gateway.redeliver_dead(**which, dryRun=True))
                took_s = time.monotonic() - looked
        except KeyboardInterrupt:
            commandline.tell("Stopped: a part may be due again by now; the same command does the rest.")
            raise
        if asked.error is None:
            return done + asked.count
        failures += 1
        if not asked.error.passes or failures == _FAILURES:
            raise asked.error
        time.sleep(asked.error.retry_after_s or _PAUSE_S)
        done = count - gateway.redeliver_dead(**which, dryRun=True)  # a part is done: the same request does the rest


class _Redelivering:
    """The request, under way: the gateway answers once all of it is on disk."""

    def __init__(self, gateway: RemoteGateway, which: Mapping[str, Any]) -> None:
        self.done = threading.Event()
        self.count = 0
        self.error: ApiError | None = None
        self._gateway, self._which = gateway, which
        # A daemon: Ctrl-C waits for nothing, and what is done by then stays done.
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            self.count = self._gateway.redeliver_dead(**self._which)
        except ApiError as error:
            self.error = error
        finally:
            self.done.set()
