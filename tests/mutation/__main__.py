"""``make mutate``: change the guards of the state machine one at a time, and see that a test notices each change.

Owns the command line and the report. Exit 0: the tests pass without a change, they take every branch of the state
machine, and they notice at least 85 % of the changes, in every module.

Its own, and not one of the libraries: most guards are conditions within SQL statements, which none of them reads, and
what is left in Python are comparisons, conditions and exits, a hundred lines on the standard library's syntax tree.
"""

import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import click

from tests.mutation import python_guards, sql_guards
from tests.mutation.forked import Forked, measured, tested
from tests.mutation.python_guards import Mutant
from tests.mutation.selection import Selection
from tests.mutation.targets import COVERED, EQUIVALENT, LEAST_SCORE, MODULES, TESTS, Equivalent

_BASE_LIMIT_S = 900
_MUTANT_LIMIT_S = 180


@click.command()
@click.option("--only", multiple=True, type=click.Choice(MODULES), help="Mutate this module alone; may be repeated.")
@click.option("--coverage", "only_coverage", is_flag=True, help="Mutate nothing: report the branches that are taken.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="How many mutants at a time.")
def main(only: tuple[str, ...], only_coverage: bool, jobs: int) -> None:
    """Mutate the guards of the state machine, and report which changes no test notices."""
    base = Forked(partial(measured, tests=TESTS, modules=MODULES, reported=COVERED), _BASE_LIMIT_S)
    while not base.ended():
        time.sleep(0.1)
    found, output = base.result, base.output
    base.forget()
    if found is None or not found["passed"]:
        sys.exit(f"{output}\nThe tests do not pass as it is: there is nothing to mutate.")
    print(found["report"])
    whole = found["share"] == 100
    if only_coverage or not whole:
        sys.exit(None if whole else "Not every branch of the state machine is taken.")
    mutants = [mutant for path in only or MODULES for mutant in _mutants(path)]
    sys.exit(0 if _run(mutants, Selection(found, MODULES), jobs) else 1)


def _mutants(path: str) -> list[Mutant]:
    source = Path(path).read_text("utf-8")
    mutants = [*python_guards.mutants_of(path, source)]
    if path.endswith("/sql.py"):
        mutants += sql_guards.mutants_of(path, source)
    return list({mutant.source: mutant for mutant in mutants}.values())


def _run(mutants: list[Mutant], selection: Selection, jobs: int) -> bool:
    """Run every mutant; print who survived, and the scores. Return whether they are good enough."""
    started = time.monotonic()
    waiting, running = mutants[::-1], list[tuple[Mutant, list[str], Forked]]()
    survivors: dict[str, list[Mutant]] = {}
    wrong: list[str] = []
    done: Counter[str] = Counter()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                tests = selection.tests(mutant)
                work = partial(tested, path=mutant.path, source=mutant.source, tests=tests)
                running.append((mutant, tests, Forked(work, _MUTANT_LIMIT_S)))
            ended = [one for one in running if one[2].ended()]
            if not ended:
                time.sleep(0.02)
            for one in ended:
                running.remove(one)
                mutant, tests, forked = one
                by, passed = forked.result or ("time or memory", 0)
                if by is None and tests and not passed:
                    sys.exit(f"{forked.output}\nNo test ran.")
                forked.forget()
                equivalent = _equivalent(mutant)
                if by is not None and "::" in by:
                    selection.noticed(mutant, by)
                if by is not None and equivalent is not None:
                    wrong.append(f"called equivalent, but noticed by {by}:\n{_shown(mutant)}")
                if equivalent is not None:
                    continue
                done[mutant.path] += 1
                if done.total() % 100 == 0:
                    print(f"{done.total()} of {len(mutants)} after {time.monotonic() - started:.0f} s", flush=True)
                if by is None:
                    survivors.setdefault(mutant.path, []).append(mutant)
                    print(f"survives {len(tests)} tests: {_shown(mutant)}\n", flush=True)
    finally:
        for _, _, forked in running:
            forked.kill()
            forked.forget()
    met = {_equivalent(mutant) for mutant in mutants}
    paths = {mutant.path for mutant in mutants}
    wrong += [f"matches no mutant: {one}" for one in EQUIVALENT if one.path in paths and one not in met]
    print("\n".join(wrong))
    good = [_score(path, done[path], len(survivors.get(path, ()))) for path in MODULES if done[path]]
    left = sum(map(len, survivors.values()))
    good.append(_score("in all", done.total(), left))
    print(f"{len(met - {None})} more change nothing; {time.monotonic() - started:.0f} s")
    return all(good) and not wrong


def _equivalent(mutant: Mutant) -> Equivalent | None:
    was, now = (" ".join(" ".join(lines).split()) for lines in mutant.changed)
    return next((one for one in EQUIVALENT if (one.path, one.was, one.now) == (mutant.path, was, now)), None)


def _shown(mutant: Mutant) -> str:
    was, now = mutant.changed
    shown = [*(f"- {line}" for line in was), *(f"+ {line}" for line in now)]
    return "\n".join([f"{mutant.path}:{mutant.line} {mutant.what}", *shown])


def _score(name: str, count: int, left: int) -> bool:
    score = (count - left) / count
    print(f"{name:32} {count - left:5} of {count:5} noticed  {score:6.1%}")
    return score >= LEAST_SCORE


main()
