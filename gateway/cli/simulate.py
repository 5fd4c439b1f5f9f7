"""``gateway simulate``: the simulated upstream as a process of its own. Called by ``commands``.

Prints one line, ``listening on http://HOST:PORT``, once it serves; ends with exit 0 on SIGTERM or SIGINT.
"""

from typing import TYPE_CHECKING, Any

import click

from gateway.cli.commandline import FiniteRange, examples

if TYPE_CHECKING:  # the command line is read without it
    from gateway.core.ratelimit import RateWindow
    from gateway.simulator import SimulatedUpstream

_SHARE, _SIZE, _SECONDS = FiniteRange(0, 1), FiniteRange(0), FiniteRange(0, 1e9)


def _windows(ctx: click.Context, param: click.Parameter, value: str) -> "tuple[RateWindow, ...]":
    from gateway.simulator.scenario import parse_windows

    try:
        return parse_windows(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command(
    help="Serve a simulated upstream to play with. Task ids like sim-success-1500-x carry their own plan.",
    epilog=examples("gateway simulate --port 8081", "gateway simulate --port 8081 --rate 2/1,60/60 --fail-share 0.1"),
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option("--key", "keys", multiple=True, help="A Bearer key to let in, repeatable; none: everybody is let in.")
@click.option("--rate", callback=_windows, default="", help="Limit of recordInfo for each key, such as 2/1,60/60.")
@click.option("--create-rate", callback=_windows, default="", help="Limit of createTask for each key.")
@click.option("--retry-after-header", is_flag=True, help="Send the wait of a 429 as a header too.")
@click.option(
    "--duration-median-s", type=_SECONDS, default=32.0, show_default=True, help="Median duration of created tasks."
)
@click.option(
    "--duration-sigma", type=_SIZE, default=0.35, show_default=True, help="Spread of the lognormal durations."
)
@click.option(
    "--model",
    "models",
    type=(str, _SECONDS),
    multiple=True,
    metavar="MODEL SECONDS",
    help="The median of this model's durations, repeatable; of others: --duration-median-s.",
)
@click.option("--fail-share", type=_SHARE, default=0.0, show_default=True, help="Share of created tasks that fail.")
@click.option("--never-share", type=_SHARE, default=0.0, show_default=True, help="Share that never end.")
@click.option("--seed", type=int, help="Makes durations and faults repeat.")
@click.option("--max-tasks", default=100_000, show_default=True, help="Tasks remembered; the oldest are dropped.")
def simulate(
    host: str,
    port: int,
    duration_median_s: float,
    duration_sigma: float,
    models: tuple[tuple[str, float], ...],
    fail_share: float,
    never_share: float,
    **options: Any,
) -> None:
    import asyncio

    import uvloop
    from msgspec.structs import replace

    from gateway.core.clock import SystemClock
    from gateway.simulator import SimulatedUpstream
    from gateway.simulator.scenario import PlanMix

    plans = PlanMix(median_s=duration_median_s, sigma=duration_sigma, fail_share=fail_share, never_share=never_share)
    of_models = {model: replace(plans, median_s=median_s) for model, median_s in models}
    simulator = SimulatedUpstream(SystemClock(), plans=plans, models=of_models, **options)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(simulator, host, port))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host} port {port}: {error.strerror}") from error


async def _run(simulator: "SimulatedUpstream", host: str, port: int) -> None:
    import asyncio
    import signal

    from gateway.simulator import serve

    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with serve(simulator, host, port) as base_url:
        click.echo(f"listening on {base_url}")
        await stop.wait()
