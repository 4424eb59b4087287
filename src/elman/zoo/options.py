"""The options of cells, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from elman.layers.errors import brief
from elman.layers.options import as_finite, as_size

if TYPE_CHECKING:
    from collections.abc import Iterable


def as_number(name: str, value: object, least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> float:
    """An option that is a number.

    Args:
        name: the option's name.
        value: as the caller gave it.
        least, most: the range that it may be in.
        above: what it must exceed.

    Raises:
        TypeError: it is not a finite number.
        ValueError: it is out of range.
    """
    number = as_finite(name, value)
    if not (least <= number <= most and number > above):
        if math.isinf(most):
            expected = f"above {above:g}" if math.isinf(least) else f"at least {least:g}"
        else:
            expected = f"above {above:g} and at most {most:g}" if math.isinf(least) else f"from {least:g} to {most:g}"
        raise ValueError(f"expected {name} to be {expected}, got {number:g}")
    return number


def as_choice(name: str, value: object, known: Iterable[str]) -> str:
    """An option that is one of several words. Raises a ValueError if it is none of them."""
    words = list(known)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, words))}, got {brief(value)}")
    return value


def as_steps(name: str, value: object) -> int | None:
    """An option that is a number of steps, at least 3, or None. Raises a TypeError or a ValueError if it is neither."""
    return None if value is None else as_size(name, value, 3)


def as_switch(name: str, value: object) -> bool:
    """An option that is True or False. Raises a TypeError if it is something else."""
    if not isinstance(value, bool):
        raise TypeError(f"expected {name} to be True or False, got {brief(value)}")
    return value
