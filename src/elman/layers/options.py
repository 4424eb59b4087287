"""Checks a constructor's arguments: sizes, flags, probabilities, the nonlinearity."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from elman.cells import NONLINEARITIES
from elman.layers.errors import and_torchs, brief

# What torch.nn checks as well, in words that an error quotes.
_TORCHS_SIZES = {"input_size", "hidden_size", "num_layers"}
_TORCHS_FLAGS = {"bias", "batch_first"}


def as_int(value: object) -> int | None:
    """An integer of any type as an int: NumPy's, a tensor of one element, an object with ``__index__``. None for all else, bools too."""
    if type(value) is int:
        return value
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and (value.dtype is torch.bool or value.dim())):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_size(name: str, size: object, least: int, wrong_size: type[Exception] = ValueError) -> int:
    """A size as an int.

    Raises:
        TypeError: it is not an integer.
        Exception: of the type ``wrong_size``: it is below ``least`` or does not fit into 64 bits.
    """
    number = as_int(size)
    if number is None:
        kind = type(size).__name__
        message = f"expected {name} to be an int, got {brief(size)} of type {kind}"
        raise TypeError(and_torchs(message, f"{name} should be of type int, got: {kind}") if name in _TORCHS_SIZES else message)
    if number < least:
        message = f"expected {name} to be at least {least}, got {number}"
        raise wrong_size(and_torchs(message, f"{name} must be greater than zero") if least == 1 and name in _TORCHS_SIZES else message)
    if number >= 2**63:
        raise wrong_size(f"expected {name} to be below 2**63, got {number}")
    return number


def as_finite(name: str, value: object) -> float:
    """A finite number as a float. Raises a TypeError if it is something else."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # an int may be too large
            if math.isfinite(number := float(value)):
                return number
    raise TypeError(f"expected {name} to be a finite number, got {brief(value)}")


def as_projection(proj_size: object, hidden_size: int) -> int:
    """P as an int, 0 for no projection. Raises a TypeError if it is not an integer, a ValueError if it is not from 0 to below H."""
    number = as_size("proj_size", proj_size, 0)
    if number >= hidden_size:
        raise ValueError(f"expected proj_size to be below hidden_size, {hidden_size}, got {number}: leave it out for no projection")
    return number


def check_no_projection(proj_size: object) -> None:
    """Raise a ValueError if there is a proj_size, even 0: torch.nn's RNN and GRU know the argument but do not accept it."""
    if proj_size is not None:
        raise ValueError(f"expected no proj_size, got {brief(proj_size)}: only an LSTM can project its output")


def as_nonlinearity(nonlinearity: object, error: type[Exception]) -> str:
    """The name of a nonlinearity. Raises an error of the given type if it is unknown."""
    if not isinstance(nonlinearity, str) or nonlinearity not in NONLINEARITIES:
        raise error(f"expected nonlinearity to be one of {', '.join(map(repr, NONLINEARITIES))}, got {brief(nonlinearity)}")
    return nonlinearity


def as_flag(name: str, flag: object) -> bool:
    """A flag. Raises a TypeError if it is not a bool."""
    if not isinstance(flag, bool):
        message = f"expected {name} to be True or False, got {brief(flag)}"
        words = f"{name} should be of type bool, got: {type(flag).__name__}"
        raise TypeError(and_torchs(message, words) if name in _TORCHS_FLAGS else message)
    return flag


def as_truth(name: str, value: object) -> bool:
    """The value as a bool, where torch.nn accepts any object that converts to one. Raises a TypeError if it does not convert."""
    try:
        return bool(value)
    except (RuntimeError, ValueError):  # an array or a tensor of several
        raise TypeError(f"expected {name} to be True or False, got {type(value).__name__}") from None


def as_probability(name: str, probability: float) -> float:
    """A probability as a float. Raises a ValueError if it is not a number from 0 to 1."""
    if not isinstance(probability, Real) or isinstance(probability, bool) or not 0 <= probability <= 1:
        raise ValueError(f"expected {name} to be a probability, a number from 0 to 1, got {brief(probability)}")
    return float(probability)


def check_placement(device: object, dtype: object) -> None:
    """Raise a TypeError if these are not a device and a dtype as torch's factories take them."""
    try:
        torch.empty(0, device=device, dtype=dtype)  # type: ignore[call-overload]
    except TypeError:
        try:
            torch.empty(0, dtype=dtype)  # type: ignore[call-overload]
        except TypeError:
            name = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")  # of "float32", numpy.float32, numpy.dtype("float32")
            hint = f": pass torch.{name}" if isinstance(getattr(torch, name, None), torch.dtype) else ""
            raise TypeError(f"expected dtype to be a torch.dtype or None, got {brief(dtype)}{hint}") from None
        raise TypeError(f"expected device to be a torch.device, its name or None, got {brief(device)}") from None
