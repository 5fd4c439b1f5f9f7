"""``make attack``: let everybody who is hostile at one gateway of 256 MB, while an innocent client works.

Owns the command line and the report. Exit 0: nothing of the innocent's was lost or wrong, its times stayed within five
times what they were when it was alone, and the gateway lived, answered and ended as it must. Each attacker's module
says what it imitates; ``--only`` sets some of them at it alone.
"""

import random
import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import click
import uvloop

from tests.attack.harness import LIMIT_BYTES, MOST_TIMES_CALM, Run, play
from tests.attack.hostile import ATTACKERS
from tests.printing import report_output

_CALM_S = 30.0
_AT_ONCE = 11  # all at once fill a processor with requests, which says nothing of what holds up whom


@click.command()
@click.option("--minutes", default=10.0, help="How long they attack.", show_default=True)
@click.option(
    "--calm", "calm_s", default=_CALM_S, help="How many seconds the innocent is alone before.", show_default=True
)
@click.option("--at-once", default=_AT_ONCE, help="How many of them at a time, in turn.", show_default=True)
@click.option("--only", multiple=True, type=click.Choice(sorted(ATTACKERS)), help="One of them; may be given again.")
@click.option("--each", is_flag=True, help="One after the other, each at a gateway of its own.")
@click.option("--seed", default=None, type=int, help="Of what they draw; without it a new one is drawn.")
def main(minutes: float, calm_s: float, at_once: int, only: tuple[str, ...], seed: int | None, *, each: bool) -> None:
    """Attack one gateway, and say whether it has held."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    names = only or tuple(ATTACKERS)
    held = [
        _attack(group, at_once, seed, calm_s, minutes * 60)
        for group in ([(name,) for name in names] if each else [names])
    ]
    sys.exit(0 if all(held) else 1)


def _attack(names: tuple[str, ...], at_once: int, seed: int, calm_s: float, attack_s: float) -> bool:
    folder = Path(mkdtemp(prefix="gateway-attack-"))
    click.echo(f"{len(names)} attacker(s), {attack_s:.0f} s, seed {seed}: {', '.join(names)}", err=True)
    began = time.monotonic()
    run = uvloop.run(play(folder, names, seed=seed, calm_s=calm_s, attack_s=attack_s, at_once=at_once))
    if _report(run, time.monotonic() - began):
        shutil.rmtree(folder)
        return True
    only = " ".join(f"--only {name}" for name in names) if len(names) < len(ATTACKERS) else ""
    click.echo(f"FAILED. The files are in {folder}. Again:")
    click.echo(f"  make attack ARGS='--seed {seed} --minutes {attack_s / 60:g} --at-once {at_once} {only}'\n")
    return False


def _report(run: Run, took_s: float) -> bool:
    for name in run.names:
        did = ", ".join(f"{what} {count:,}" for what, count in sorted(run.did.get(name, {}).items()))
        click.echo(f"  {name:<20} {did}")
    him = run.innocent
    again = sum(him.arrived.values()) - len(him.arrived)
    click.echo(f"innocent    {len(him.promised):,} webhooks owed, {len(him.arrived):,} came, {again} more than once")
    peak_mb, limit_mb = run.peak_bytes / 2**20, LIMIT_BYTES / 2**20
    click.echo(f"memory      {peak_mb:.0f} MB at most of {limit_mb:.0f} (limited by: {run.how_limited})")
    broken = list(run.broken)
    for what, calm, attack, within in run.times():
        click.echo(
            f"p99 {what:<22} {calm * 1000:9.1f} ms calm  {attack * 1000:9.1f} ms under attack  {attack / calm:6.1f} x"
        )
        if not within:
            broken.append(f"{what}: its p99 is {attack / calm:.1f} times what it was, more than {MOST_TIMES_CALM:g}")
    click.echo(f"seconds     {took_s:.0f}")
    for sentence in broken:
        click.echo(f"BROKEN: {sentence}")
    return not broken


if __name__ == "__main__":
    with report_output():
        main()
