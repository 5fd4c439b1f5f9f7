"""Option types that click lacks. Called by ``gateway.cli.commands`` and ``gateway.cli.simulate``."""

import math
from typing import Any

import click

__all__ = ["FiniteRange"]


class FiniteRange(click.FloatRange):
    """A number between bounds. click lets NaN pass: it compares false with either bound, and then with every other."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
