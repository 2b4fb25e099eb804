"""The type of options that take a number of some unit."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of numbers without ``nan``, which no comparison refuses, and ``inf``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See :meth:`click.ParamType.convert`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
