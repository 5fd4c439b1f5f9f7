"""The law of a callback's log: all of its attempts, but those that did not count between two others that did not."""

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["is_whole", "stay"]

_INTERRUPTED = "interrupted"


def stay(log: Sequence[tuple[int, str]]) -> list[int]:
    """Return the numbers of those that stay, of attempts' numbers and results in their order."""
    results = ["", *(result for _, result in log), ""]
    around = zip(results, results[1:], results[2:], strict=False)
    return [number for (number, _), three in zip(log, around, strict=True) if three != (_INTERRUPTED,) * 3]


def is_whole(log: Sequence[tuple[int, str]], attempts: int) -> bool:
    """Whether a log has all of so many attempts that stay."""
    if not attempts or not log:
        return not attempts and not log
    numbers = [number for number, _ in log]
    follow = all(
        number == before + 1 or (number > before and result == was == _INTERRUPTED)
        for (before, was), (number, result) in pairwise(log)
    )
    return numbers[0] == 1 and numbers[-1] == attempts and follow and stay(log) == numbers
