"""Checks that two libraries computed the same thing: a time means nothing if the answer is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from elman.bench.case import Arrays

TOLERANCE = 1e-4
"""How far an array may be from torch's, as a share of the largest magnitude in torch's.

It is to tell a wrong network (a missing bias, a swapped gate, a gradient not added up: wrong by a tenth or more) from a right one in
float32, whose sums over up to a thousand steps differ by some 1e-6. How accurate Elman is has tests of its own.
"""


class WrongAnswerError(RuntimeError):
    """A contestant's numbers are not torch's."""


ROUNDING = 32
"""How many times torch's own rounding error another library's may be, where that is more than ``TOLERANCE``."""


def check(who: str, got: Arrays, expected: Arrays, rounded: Arrays | None = None) -> None:
    """Raise unless ``got`` has the arrays, shapes and, within ``TOLERANCE``, the numbers of ``expected``.

    Args:
        who: whose numbers they are, for the error.
        got: the numbers.
        expected: torch's.
        rounded: torch's in float32, where ``expected`` are those in float64: some gradients are ill-conditioned, as those of a layer norm
            over numbers that hardly differ.

    Raises:
        WrongAnswerError: it has not; says which array, and by how much it is off.
    """
    if got.keys() != expected.keys():
        raise WrongAnswerError(f"{who} computed {sorted(got)}, torch {sorted(expected)}")
    for name, reference in expected.items():
        if got[name].shape != reference.shape:
            raise WrongAnswerError(f"{who}: {name} has shape {got[name].shape}, torch's {reference.shape}")
        largest = np.abs(reference).max(initial=0.0)
        difference = np.abs(got[name] - reference).max(initial=0.0)
        error = 0.0 if rounded is None else np.abs(rounded[name] - reference).max(initial=0.0)
        if not difference <= max(TOLERANCE * largest, ROUNDING * error):  # NaN is wrong too
            raise WrongAnswerError(f"{who}: {name} is {difference:.3g} away from torch's, whose largest value is {largest:.3g}")
