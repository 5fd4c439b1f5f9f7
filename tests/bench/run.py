"""The gateway's benchmark: every figure it is held to, beside its peers in the same session.

Run by ``make bench``. Owns the order of the measurements and the exit status: 0 unless one of them failed. A target
that is missed is a result and not a failure. Each measurement stands in a module of its own.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import bloat
import deliveries
import idle
import isolation
import lives
import machine
import million
import notice
import onpostgres
import picture
import polls
import reads
import registrations
import soak
from figures import Figure
from harness import BESIDE, disk_write_ms, pinned, start_sides
from report import Report, markdown, table
from session import Session

from tests.printing import report_output

MEASUREMENTS: dict[str, Callable[[Session], list[Figure]]] = {
    "lives": lives.measure,
    "registrations": registrations.measure,
    "polls": polls.measure,
    "deliveries": deliveries.measure,
    "notice": notice.measure,
    "isolation": isolation.measure,
    "million": million.measure,
    "postgres": onpostgres.measure,
    "bloat": bloat.measure,
    "reads": reads.measure,
    "idle": idle.measure,
    "soak": soak.measure,
}

UNASKED = [name for name in MEASUREMENTS if name != "soak"]
"""What is measured where nothing is named."""
RECEIVERS = 100
PICTURE = Path(__file__).parents[2] / "gateway" / "manual" / "bench.svg"


def main() -> None:
    options = read_options()
    report = Report.from_json(json.loads(options.read.read_text())) if options.read else measure(options)
    if options.picture:
        PICTURE.write_text(picture.draw(report.figures))
    if options.json:
        print(json.dumps(report.as_json(), ensure_ascii=False))
    elif options.markdown:
        print(markdown(report))
    else:
        print(table(report))
    sys.exit(1 if report.failures else 0)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--runs", type=int, help="of each measurement; 5, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="small counts: whether it works, in about a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--markdown", action="store_true", help="print the manual's table")
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE.name} as well")
    parser.add_argument("--minutes", type=float, default=30, help="how long soak runs; it runs where it is named only")
    parser.add_argument("--postgres", action="store_true", help="have the million tasks on PostgreSQL")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show what --json printed instead of measuring")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers' packages")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Report:
    pinned(BESIDE)()  # the load is made by this process
    runs = options.runs or (1 if options.quick else 5)
    report = Report(machine.describe(), options.quick, {"start": disk_write_ms()}, {}, [], {})
    started_at = time.monotonic()
    for name in options.only or UNASKED:
        others = machine.Others()
        try:
            with start_sides(receivers=RECEIVERS) as sides:
                session = Session(
                    sides=sides,
                    peers_python=options.python,
                    runs=runs,
                    quick=options.quick,
                    minutes=options.minutes,
                    started_at=started_at,
                    postgres=options.postgres,
                    samples=report.samples,
                )
                report.figures += MEASUREMENTS[name](session)
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            traceback.print_exc()
            report.failures[name] = f"{type(error).__name__}: {error}"
        if (share := others.share()) is not None:
            report.others[name] = share
    report.disk_write_ms["end"] = disk_write_ms()
    return report


if __name__ == "__main__":
    with report_output():
        main()
