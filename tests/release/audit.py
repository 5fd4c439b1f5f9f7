"""``make audit``: ask what is known against the packages of the locks, and tell "nothing" from "nobody was asked".

``pip-audit`` itself ends well where its service knows none of the packages, as a mirror of PyPI that has files only. So
its exit code is not enough: who is not told of is not cleared. Two services are asked, the second where the first does
not tell of all. Exit codes: 0 nothing is known against any package, 1 something is, 3 somebody could not be asked.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Verdict", "ask_pip_audit", "main", "verdict"]

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-build.lock")
SERVICES = ("pypi", "osv")
CLEAR, FOUND, NOT_ASKED = 0, 1, 3
LIMIT_S = 300
_UPGRADE = "make lock UPGRADE=1 pins newer versions: run the tests with them, and ask again."
_ELSEWHERE = "Ask again from a machine that reaches PyPI itself (a mirror may have its files alone) or OSV."


class Verdict(NamedTuple):
    """What came of it: an exit code, and what to print."""

    code: int
    lines: list[str]


Ask = Callable[[str, str], tuple[list[Any] | None, str]]
"""Of a service's and a lock's name: pip-audit's rows, or None and why there are none."""


def ask_pip_audit(service: str, lock: str, *more: str, tool: Path | None = None) -> tuple[list[Any] | None, str]:
    """Run pip-audit on one lock."""
    tool = tool or Path(sys.executable).with_name("pip-audit")
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        words = ("--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json", f"--output={told}")
        words += (f"--cache-dir={folder}",)  # what was told yesterday is not asked
        done = subprocess.run(
            [tool, *words, f"--vulnerability-service={service}", *more, "--requirement", lock],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if not told.exists():  # it failed before it had an answer: exit code 1, as where it found something
            return None, (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
        return json.loads(told.read_text("utf-8"))["dependencies"], ""


def verdict(locks: Iterable[str], services: Sequence[str], ask: Ask) -> Verdict:
    """Ask the services about each lock in turn, until one has told of each package."""
    found: dict[str, set[str]] = {}
    told, silent, lines = set[str](), set[str](), list[str]()
    for lock in locks:
        heard = False
        for service in services:
            rows, why = ask(service, lock)
            if rows is None:
                lines.append(f"{service} could not be asked about {lock}: {why}")
                continue
            heard = True
            skipped = {row["name"] for row in rows if "skip_reason" in row}
            told |= {row["name"] for row in rows} - skipped
            silent |= skipped
            for row in rows:
                for one in row.get("vulns", []):
                    fixed = ", ".join(one["fix_versions"]) or "-"
                    found.setdefault(row["name"], set()).add(f"{one['id']}, fixed in: {fixed}")
            if not skipped:
                break
        silent |= set() if heard else {f"all of {lock}"}
    silent -= told
    if silent:
        lines.append(f"No service told of: {', '.join(sorted(silent))}")
    for name, known in sorted(found.items()):
        lines += [f"{name}: {one}" for one in sorted(known)]
    if found:
        return Verdict(FOUND, [*lines, f"{len(found)} packages have known vulnerabilities. {_UPGRADE}"])
    if silent or not told:
        return Verdict(NOT_ASKED, [*lines, f"Not all could be asked about: of those this says nothing. {_ELSEWHERE}"])
    return Verdict(CLEAR, [*lines, f"{len(told)} packages were asked about; nothing is known against them."])


def main() -> int:
    """Ask about the locks of what runs and of what builds it."""
    code, lines = verdict(LOCKS, SERVICES, ask_pip_audit)
    print(*lines, sep="\n", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
