"""Which rows of a stream: their numbers, or a mask; what may be either is refused."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from elman.layers.errors import check_unmasked


def as_mask(rows: Any, batch_size: int) -> Tensor:
    """Raise what is wrong with rows, if anything is; else say which they are.

    An environment's ``dones`` come as integers, too, and zeros and ones are row numbers as well as truth values. So a list that can be read
    as a mask is no list of numbers, and of a single row neither is a bare 0 or 1. A set or a range is never a mask.

    Args:
        rows: a number; numbers in a list, a tuple, a tensor, an array, a set or a range; or truth values in one of the first four. Of a
            single row also the truth value itself.
        batch_size: B, how many rows there are.

    Returns:
        A bool tensor of its own, (B,), on the CPU.

    Raises:
        TypeError: they are neither numbers nor truth values, or may be either: B integers, all of them 0 or 1; of a single row also 0 or
            1 itself.
        IndexError: a number is not from 0 to B-1, the mask has not B values, or rows have more than one axis.
        ValueError: a number is there twice.
    """
    import numpy as np  # not before: it takes as long to import as all of ours

    bools = "1 bool" if batch_size == 1 else f"{batch_size} bools"
    expected = f"expected rows to be numbers from 0 to {batch_size - 1}, each once, or a mask of {bools}, got"
    check_unmasked("rows", rows)
    unordered = isinstance(rows, set | frozenset | range)
    if isinstance(rows, list | tuple | set | frozenset) and len({isinstance(row, bool | np.bool_) for row in rows}) > 1:
        raise TypeError(f"{expected} {rows!r}, some of each")
    try:
        given = np.asarray(list(rows) if unordered else rows.detach().cpu() if isinstance(rows, Tensor) else rows)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{expected} {rows!r}") from None
    mask = np.zeros(batch_size, dtype=bool)
    if given.dtype.kind == "b" and not unordered:
        if given.ndim == 0 and batch_size > 1:
            raise IndexError(f"{expected} {bool(given)}: give one bool for each row, or call reset() for all rows")
        if given.ndim and given.shape != mask.shape:
            raise IndexError(f"{expected} a mask of shape {given.shape}{_one_axis(rows, given)}")
        mask[:] = given
    elif given.ndim > 1:
        raise IndexError(f"{expected} numbers of shape {given.shape}{_one_axis(rows, given)}")
    elif given.size:
        numbers = given.reshape(-1).tolist()
        shown = numbers[0] if given.ndim == 0 else numbers if len(numbers) <= 8 else f"[{', '.join(map(str, numbers[:8]))}, ...]"
        if not all(isinstance(number, Integral) and not isinstance(number, bool) for number in numbers):
            hint = f": give a mask as bools, {_spellings(rows, np.ndarray)[0]}" if given.shape == mask.shape else ""
            raise TypeError(f"{expected} {shown!r}{hint}")
        if not unordered and len(numbers) == batch_size and {0, 1}.issuperset(numbers):
            if given.ndim == 0:
                hint = f"give a mask as a bool, bool(rows), and the only row by reset() or as a set, {{{shown}}}"
                raise TypeError(f"{expected} {shown}, which may be either: {hint}")
            as_bools, as_numbers = _spellings(rows, np.ndarray)
            which = "which may be either" if set(numbers) == set(range(batch_size)) else "which is likely a mask"
            raise TypeError(f"{expected} {shown}, {which}: give a mask as bools, {as_bools}, and numbers as a set, {as_numbers}")
        if min(numbers) < 0 or max(numbers) >= batch_size:
            raise IndexError(f"{expected} {shown}")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{expected} {shown}: give each once, as a set does, {_spellings(rows, np.ndarray)[1]}")
        mask[numbers] = True
    return torch.from_numpy(mask)


def _one_axis(rows: Any, given: Any) -> str:
    """How to get the one axis out of what has more: ``mask.nonzero()`` of a tensor is a column, that of an array a tuple of one."""
    if given.size != max(given.shape):
        return ""
    if hasattr(rows, "flatten"):
        return ": give it one axis with rows.flatten()"
    return ": give what is in it, rows[0]" if isinstance(rows, list | tuple) and len(rows) == 1 else ""


def _spellings(rows: Any, array_class: type) -> tuple[str, str]:
    """How to write rows as a mask, and as numbers, so that nobody can take one for the other."""
    if isinstance(rows, Tensor):
        return "rows.bool()", "set(rows.tolist())"
    if isinstance(rows, array_class):
        return "rows.astype(bool)", "set(rows.tolist())"
    return "list(map(bool, rows))", "set(rows)"
