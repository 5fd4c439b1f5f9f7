"""``make mutate``: change the guards of the state machine one at a time, and see that a test notices each change.

Owns the command line and the report. Exit 0: the tests pass without a change, they take every branch of the state
machine, and they notice at least 85 % of the changes, in every module.

Its own, and not one of the libraries: most guards are conditions within SQL statements, which none of them reads, and
what is left in Python are comparisons, conditions and exits, a hundred lines on the standard library's syntax tree.
"""

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from tests.mutation import python_guards, sql_guards
from tests.mutation.forked import Collected, Forked, measured, tested
from tests.mutation.python_guards import Mutant
from tests.mutation.selection import Selection
from tests.mutation.targets import COVERED, EQUIVALENT, LEAST_SCORE, MODULES, TESTS, Equivalent

_BASE_LIMIT_S = 3600
_MUTANT_LIMIT_S = 180
_TEST_LIMIT_S = 20
"""What a mutant has in all, and for each test; where the measured run took longer, on a busy machine, so long."""
_MEASURED_TEST_LIMIT_S = 120
_LATE = "time or memory"


@click.command()
@click.option("--only", multiple=True, type=click.Choice(MODULES), help="Mutate this module alone; may be repeated.")
@click.option("--coverage", "only_coverage", is_flag=True, help="Mutate nothing: report the branches that are taken.")
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Try one in so many mutants.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="How many mutants at a time.")
@click.option("--patience", default=1, show_default=True, type=click.IntRange(1), help="Times their time, for each.")
def main(only: tuple[str, ...], only_coverage: bool, every: int, jobs: int, patience: int) -> None:
    """Mutate the guards of the state machine, and report which changes no test notices."""
    work = partial(measured, tests=TESTS, modules=MODULES, reported=COVERED, limit_s=patience * _MEASURED_TEST_LIMIT_S)
    base = Forked(work, patience * _BASE_LIMIT_S)
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
    mutants = [mutant for path in only or MODULES for mutant in _mutants(path)[::every]]
    run = _Run(mutants, Selection(found, MODULES), patience, whole=every == 1)
    run.run(jobs)
    sys.exit(0 if run.report() else 1)


def _mutants(path: str) -> list[Mutant]:
    source = Path(path).read_text("utf-8")
    mutants = [*python_guards.mutants_of(path, source)]
    if path.endswith("sql.py"):
        mutants += sql_guards.mutants_of(path, source)
    return list({mutant.source: mutant for mutant in mutants}.values())


class _Run:
    """All mutants, so many at a time; and what came of them."""

    def __init__(self, mutants: Sequence[Mutant], selection: Selection, patience: int, *, whole: bool) -> None:
        self._mutants = mutants
        self._patience = patience
        self._whole = whole
        self._selection = selection
        self._started = time.monotonic()
        self._done: Counter[str] = Counter()
        self._survived: Counter[str] = Counter()
        self._late: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._shown = os.fdopen(os.dup(1), "w")  # also where a fork's own output is kept apart

    def run(self, jobs: int) -> None:
        """Let every mutant meet its tests, put in its place where that will do; print who survives."""
        collected = Collected(self._selection.at_import, lambda its: [*self._meet(self._mutants, jobs, its.tested)])
        forked = Forked(partial(collected.run, tests=TESTS, limit_s=_TEST_LIMIT_S), math.inf)
        while not forked.ended():
            time.sleep(0.1)
        met, output = forked.result, forked.output
        forked.forget()
        if met is None:
            sys.exit(output)
        self._say(f"{len(self._mutants) - len(met)} have to be imported")
        left = [*self._mutants]
        for number, by in sorted(met, reverse=True):
            self._ended(left.pop(number), by)
        for number, by in self._meet(left, jobs, tested):
            self._ended(left[number], by)

    def _meet(self, mutants: Sequence[Mutant], jobs: int, meet: Callable[..., Any]) -> Iterator[tuple[int, str | None]]:
        """Yield by what each is noticed, None: by nothing; not of those that have to meet their tests otherwise."""
        waiting = [*enumerate(mutants)][::-1]
        running: list[tuple[int, list[str], Forked]] = []
        count = 0
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    number, mutant = waiting.pop()
                    tests = self._selection.tests(mutant)
                    took_s = self._selection.seconds(tests)
                    limit_s = self._patience * max([_TEST_LIMIT_S, *took_s])
                    work = partial(meet, mutant=mutant, tests=tests, limit_s=limit_s)
                    running.append((number, tests, Forked(work, self._patience * max(_MUTANT_LIMIT_S, sum(took_s)))))
                ended = [one for one in running if one[2].ended()]
                for one in ended:
                    running.remove(one)
                    number, tests, forked = one
                    count += 1
                    if count % 100 == 0:
                        self._say(f"{count} of {len(mutants)} after {time.monotonic() - self._started:.0f} s")
                    if forked.result is not False:
                        yield number, self._noticed(mutants[number], tests, forked)
                    forked.forget()
                if not ended:
                    time.sleep(0.005)
        finally:
            for _, _, forked in running:
                forked.kill()
                forked.forget()

    def _noticed(self, mutant: Mutant, tests: list[str], forked: Forked) -> str | None:
        by, passed = forked.result or (_LATE, 0)
        if by is None and tests and not passed:
            sys.exit(f"{forked.output}\nNo test ran.")
        if by == _LATE:
            self._say(f"does not end: {_shown(mutant)}\n")
        elif by is None and _equivalent(mutant) is None:
            self._say(f"survives {len(tests)} tests: {_shown(mutant)}\n")
        elif by in tests:
            self._selection.noticed(mutant, by)
        return by

    def _ended(self, mutant: Mutant, by: str | None) -> None:
        if _equivalent(mutant) is not None:
            if by is not None:
                self._wrong.append(f"called equivalent, but noticed by {by}: {_shown(mutant)}")
            return
        self._done[mutant.path] += 1
        self._late[mutant.path] += by == _LATE
        self._survived[mutant.path] += by is None

    def _say(self, text: str) -> None:
        print(text, file=self._shown, flush=True)

    def report(self) -> bool:
        """Print the scores; return whether they are good enough."""
        met = {_equivalent(mutant) for mutant in self._mutants}
        paths = {mutant.path for mutant in self._mutants}
        if self._whole:
            self._wrong += [f"matches no mutant: {one}" for one in EQUIVALENT if one.path in paths and one not in met]
        print("\n".join(self._wrong))
        scores = [
            (path, self._done[path], self._survived[path], self._late[path]) for path in MODULES if self._done[path]
        ]
        scores.append(("in all", self._done.total(), self._survived.total(), self._late.total()))
        good = [_score(*score) for score in scores]
        print(f"{len(met - {None})} more change nothing; {time.monotonic() - self._started:.0f} s")
        return all(good) and not self._wrong


def _equivalent(mutant: Mutant) -> Equivalent | None:
    was, now = (" ".join(" ".join(lines).split()) for lines in mutant.changed)
    return next((one for one in EQUIVALENT if (one.path, one.was, one.now) == (mutant.path, was, now)), None)


def _shown(mutant: Mutant) -> str:
    was, now = mutant.changed
    shown = [*(f"- {line}" for line in was), *(f"+ {line}" for line in now)]
    return "\n".join([f"{mutant.path}:{mutant.line} {mutant.what}", *shown])


def _score(name: str, count: int, left: int, late: int) -> bool:
    score = (count - left) / count
    # On a busy machine it may be that which took the time: then more patience tells.
    how = f"  {late} by time or memory alone" if late else ""
    print(f"{name:40} {count - left:5} of {count:5} noticed  {score:6.1%}{how}")
    return score >= LEAST_SCORE


main()
