"""The kernels' one parameter, packed as kernels/forward.cuh and backward.cuh declare it; the kernels assert the sizes."""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct, calcsize
from typing import TYPE_CHECKING

from elman.backends.cuda.commands import At

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.cuda.shape import CellShape

_STEPS = "2i 3Q 2q"  # T, B; lengths, offsets, reset; the reset's strides
_ROWS = "2q"  # strides over T and B, in numbers
_LAUNCH = "2i 2Q"  # tiles, first group; mailbox, flags


@lru_cache(maxsize=4096)
def layout(shape: CellShape, is_backward: bool) -> Struct:
    """A launch's parameter: steps, rows, forward I, the launch, two directions, and constants."""
    constants = max(1, shape.constants[is_backward])
    rows = 2 * _ROWS if is_backward else 3 * _ROWS + "q"
    return Struct("@" + _STEPS + rows + _LAUNCH + 2 * f"{addresses(shape, is_backward)}Q i 4x" + f"{constants}f" + " 4x" * (constants % 2))


def addresses(shape: CellShape, is_backward: bool) -> int:
    """How many addresses a direction has, before the number that says whether it is the reverse one."""
    own = max(1, len(shape.own))
    if is_backward:  # grad_output, given, weight_hh, output, kept, grad_kept, own, initial, fresh, grad_final, grad_gates, totals, ...
        return 8 + own + 5 * shape.states
    # projected, given, weight_hh, bias_hh, own, initial, fresh, output, kept, final, x, weight_ih, bias_ih
    return 9 + own + 3 * shape.states


def filled(parameter: Struct, values: Sequence[float | At]) -> tuple[bytes, list[tuple[int, At]]]:
    """A parameter with these values, zeros for the addresses of operands; and where in it these are, in bytes, and of what."""
    params = parameter.pack(*[0 if isinstance(value, At) else value for value in values])
    places = zip(_places(parameter.format), values, strict=True)
    return params, [(place, value) for place, value in places if isinstance(value, At)]


@lru_cache(maxsize=4096)
def _places(form: str) -> list[int]:
    """Where each field of a struct begins, in bytes."""
    fields = "".join(kind * int(count or 1) for count, kind in re.findall(r"(\d*)([a-zA-Z])", form))
    ends = [(kind, calcsize("@" + fields[: at + 1])) for at, kind in enumerate(fields)]
    return [end - calcsize(kind) for kind, end in ends if kind != "x"]
