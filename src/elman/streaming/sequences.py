"""Selects sequences of a stream, by their numbers or a mask. Values that could be either are refused."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elman.layers.errors import check_unmasked


def as_mask(sequences: Any, batch: int) -> Tensor:
    """The sequences that a caller named, as a bool tensor of its own, (B,), on the CPU.

    An environment's ``dones`` come as integers, too, and zeros and ones are numbers of sequences as well as truth values. So a list that
    can be read as a mask is not taken as numbers, and with a batch of one neither is a bare 0 or 1. A set or a range is never a mask.

    Args:
        sequences: a number; numbers in a list, a tuple, a tensor, an array, a set or a range; or truth values in one of the first four.
            With a batch of one also the truth value itself.
        batch: B.

    Raises:
        TypeError: they are neither numbers nor truth values, or may be either: B integers, all of them 0 or 1; with a batch of one also 0
            or 1 itself.
        IndexError: a number is not from 0 to B-1, the mask does not have B values, or there is more than one axis.
        ValueError: a number is there twice.
    """
    bools = "1 bool" if batch == 1 else f"{batch} bools"
    expected = f"expected sequences to be numbers from 0 to {batch - 1}, each once, or a mask of {bools}, got"
    check_unmasked("sequences", sequences)
    unordered = isinstance(sequences, set | frozenset | range)
    if isinstance(sequences, list | tuple | set | frozenset) and len({isinstance(each, bool | np.bool_) for each in sequences}) > 1:
        raise TypeError(f"{expected} {sequences!r}, some of each")
    try:
        given = np.asarray(list(sequences) if unordered else sequences.detach().cpu() if isinstance(sequences, Tensor) else sequences)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{expected} {sequences!r}") from None
    mask = np.zeros(batch, dtype=bool)
    if given.dtype.kind == "b" and not unordered:
        if given.ndim == 0 and batch > 1:
            raise IndexError(f"{expected} {bool(given)}: give one bool for each sequence, or call reset() for all of them")
        if given.ndim and given.shape != mask.shape:
            raise IndexError(f"{expected} a mask of shape {given.shape}{_one_axis(sequences, given)}")
        mask[:] = given
    elif given.ndim > 1:
        raise IndexError(f"{expected} numbers of shape {given.shape}{_one_axis(sequences, given)}")
    elif given.size:
        numbers = given.reshape(-1).tolist()
        shown = numbers[0] if given.ndim == 0 else numbers if len(numbers) <= 8 else f"[{', '.join(map(str, numbers[:8]))}, ...]"
        if not all(isinstance(number, Integral) and not isinstance(number, bool) for number in numbers):
            hint = f": give a mask as bools, {_spellings(sequences, np.ndarray)[0]}" if given.shape == mask.shape else ""
            raise TypeError(f"{expected} {shown!r}{hint}")
        if not unordered and len(numbers) == batch and {0, 1}.issuperset(numbers):
            if given.ndim == 0:
                hint = "this stream has one sequence: call reset(), or reset({0}); give a mask as a bool, bool(sequences)"
                raise TypeError(f"{expected} {shown}, which may be either: {hint}")
            as_bools, as_numbers = _spellings(sequences, np.ndarray)
            which = "which may be either" if set(numbers) == set(range(batch)) else "which is likely a mask"
            raise TypeError(f"{expected} {shown}, {which}: give a mask as bools, {as_bools}, and numbers as a set, {as_numbers}")
        if min(numbers) < 0 or max(numbers) >= batch:
            raise IndexError(f"{expected} {shown}")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{expected} {shown}: give each once, as a set does, {_spellings(sequences, np.ndarray)[1]}")
        mask[numbers] = True
    return torch.from_numpy(mask)


def _one_axis(sequences: Any, given: Any) -> str:
    """How to get the one axis out of what has more: ``mask.nonzero()`` of a tensor is a column, that of an array a tuple of one."""
    if given.size != max(given.shape):
        return ""
    if hasattr(sequences, "flatten"):
        return ": give it one axis with sequences.flatten()"
    return ": give what is in it, sequences[0]" if isinstance(sequences, list | tuple) and len(sequences) == 1 else ""


def _spellings(sequences: Any, array_class: type) -> tuple[str, str]:
    """How to write sequences as a mask, and as numbers, so that neither can be taken for the other."""
    if isinstance(sequences, Tensor):
        return "sequences.bool()", "set(sequences.tolist())"
    if isinstance(sequences, array_class):
        return "sequences.astype(bool)", "set(sequences.tolist())"
    return "list(map(bool, sequences))", "set(sequences)"
