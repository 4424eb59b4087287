"""Checks ``lengths`` and ``reset``, which say which steps of a batch belong to which sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from elman.backends.kernel_backend import is_recorded
from elman.backends.spans import flat_list
from elman.layers.errors import ARRAYS, brief, brief_numbers, check_device, check_layout, check_memory, check_unmasked, wrong_kind
from elman.layers.options import as_int

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Lengths: TypeAlias = "Tensor | npt.NDArray[np.integer[Any]] | Sequence[int] | int"
    Reset: TypeAlias = "Tensor | npt.NDArray[np.bool_]"


def wrong_lengths(lengths: object) -> ValueError:
    """The error for lengths that came with a PackedSequence."""
    return ValueError(f"expected no lengths with a PackedSequence, which has its own, got {brief_numbers(lengths)}: leave lengths out")


def as_lengths(lengths: Lengths, batch: int, steps: int) -> Tensor:
    """The lengths of the sequences in memory of their own, checked, since they index memory: (B,), int64, on the CPU, contiguous.

    Args:
        lengths: as the caller gave them.
        batch: B.
        steps: T.

    Raises:
        TypeError: they are not a list, tuple, tensor or array of integers.
        RuntimeError: they are not B, or one is not from 0 to T.
    """

    def wrong_count(got: object) -> RuntimeError:  # only now: in a text a compiler's symbol is a constant
        return RuntimeError(f"expected {batch} length{'' if batch == 1 else 's'}, one for each sequence of x, got {got}")

    check_unmasked("lengths", lengths)
    lengths = _as_traceable(lengths)
    if isinstance(lengths, ARRAYS):
        if isinstance(lengths, Tensor):
            check_layout("lengths", lengths)
        if not _is_integer(lengths) and lengths.shape != (0,):  # of no numbers only their count can be wrong
            convert = "lengths.long()" if isinstance(lengths, Tensor) else "lengths.astype(int)"
            mask = lengths.dtype in (torch.bool, np.bool_)
            hint = "count a mask's steps with its sum over time" if mask else f"if they are whole numbers, convert them with {convert}"
            raise TypeError(f"expected lengths of an integer dtype, got {lengths.dtype}: {hint}")
        if lengths.ndim == 0 and batch == 1:
            lengths = lengths.reshape(1)
        if lengths.ndim != 1:
            raise wrong_count(f"{brief_numbers(lengths)}: give it one axis with lengths.reshape(-1)")
        if lengths.shape[0] != batch:
            raise wrong_count(f"{lengths.shape[0]}: lengths is {brief_numbers(lengths)}")
        if isinstance(lengths, Tensor):
            if hides_numbers():
                return _recorded_lengths(lengths, steps)
            if lengths.is_meta:
                raise RuntimeError("expected lengths with numbers, got a tensor on the meta device, which has none: give them as a list")
            lengths = in_memory("lengths", lengths)
            if torch._C._are_functorch_transforms_active():  # each of vmap's examples may have its own
                _check_range(flat_list(lengths), steps, lengths)
                return lengths.to("cpu", torch.int64, copy=True)
        numbers = lengths.tolist()
    elif isinstance(lengths, (list, tuple)):
        numbers = []
        for length in lengths:
            number = as_int(length)
            if number is None:
                kind = type(length).__name__
                if isinstance(length, bool):
                    raise TypeError(f"expected lengths to be integers, got {length}: count a mask's steps with its sum over time")
                raise TypeError(f"expected lengths to be integers, got {brief(length)} of type {kind}: lengths is {brief_numbers(lengths)}")
            numbers.append(number)
        if len(numbers) != batch:
            raise wrong_count(f"{len(numbers)}: lengths is {brief_numbers(numbers)}")
    elif batch == 1 and (number := as_int(lengths)) is not None:
        numbers = [number]
    else:
        raise wrong_kind("lengths", f"a list, a tuple, a tensor or a NumPy array of {batch} integers, one for each sequence of x", lengths)
    _check_range(numbers, steps, lengths)
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _check_range(numbers: Sequence[int], steps: int, lengths: Lengths) -> None:
    for number in numbers:
        if not 0 <= number <= steps:
            raise RuntimeError(f"expected lengths from 0 to {steps}, the steps of x, got {number}: lengths is {brief_numbers(lengths)}")


def _recorded_lengths(lengths: Tensor, steps: int) -> Tensor:
    """Lengths of a call that is being recorded, when they must not be read: the recording checks them when it runs."""
    traced = torch._C._get_tracing_state() is not None  # there the number of steps is a tensor
    # T in words: in a text a compiler's symbol becomes a constant, and every other number of steps is compiled anew.
    torch._assert_async(((lengths >= 0) & (lengths <= steps)).all(), "expected lengths from 0 to T, the steps of x")
    lengths = lengths.to("cpu", torch.int64, copy=True).contiguous()
    # A trace leaves out what has no result, so that there the numbers are looked up: one outside the table is an error.
    return torch.arange(steps + 1, device="cpu").index_select(0, lengths) if traced else lengths


def as_reset(reset: Reset, x: Tensor, steps: int, batch: int | None, batch_first: bool) -> Tensor:
    """The reset as a tensor, laid out as the caller gave it, checked.

    Args:
        reset: as the caller gave it.
        x: the input, checked.
        steps: T.
        batch: B; None if x is unbatched.
        batch_first: whether the reset should be (B, T) instead of (T, B).

    Raises:
        TypeError: it is not a tensor or an array of bools.
        RuntimeError: its shape, layout or device is wrong.
    """
    shape: tuple[int | None, ...]
    shape, axes = ((batch, steps), "(B, T)") if batch_first else ((steps, batch), "(T, B)")
    if batch is None:
        shape, axes = (steps,), "(T,)"
    expected = "a bool tensor or NumPy array, True where a fresh sequence begins"
    check_unmasked("reset", reset)
    reset = _as_traceable(reset)
    if not isinstance(reset, ARRAYS):
        hint = ": convert it with torch.tensor(reset)"
        step = as_int(reset[0] if isinstance(reset, (list, tuple)) and reset else reset)
        if step is not None:  # a step's number
            place = f":, {step}" if batch_first and batch is not None else step
            make, mark = f"reset = torch.zeros{shape}.bool()", f"reset[{place}] = True"
            expected = f"a bool tensor or NumPy array of shape {shape}, {axes}, True where a fresh sequence begins"
            hint = f": make it with {make}, and mark step {step} with {mark}"
        raise TypeError(f"{wrong_kind('reset', expected, reset)}{hint if step is not None or isinstance(reset, (list, tuple)) else ''}")
    if reset.dtype not in (torch.bool, np.bool_):
        convert = "reset.bool()" if isinstance(reset, Tensor) else "reset.astype(bool)"
        raise TypeError(
            f"expected reset to be {expected}, got {reset.dtype}: if it holds 1 there and 0 elsewhere, convert it with {convert}"
        )
    transposed = "reset.t()" if isinstance(reset, Tensor) else "reset.T"
    if isinstance(reset, np.ndarray):
        reset = torch.tensor(np.ascontiguousarray(reset).reshape(reset.shape), device=x.device)
    check_layout("reset", reset)
    if reset.shape != shape:
        hint = f": transpose it with {transposed}" if tuple(reset.shape[::-1]) == shape else ""
        if tuple(reset.shape) == (steps,) and batch:
            repeated = "torch.as_tensor(reset)" + ("" if batch_first else "[:, None]")
            hint = f": if each sequence begins anew at these steps, repeat it with {repeated}.expand{shape}"
        raise RuntimeError(f"expected reset of shape {shape}, {axes}, got {tuple(reset.shape)}{hint}")
    check_device("reset", reset, x)
    return in_memory("reset", reset)


def as_time_major_reset(reset: Reset, x: Tensor, steps: int, batch: int | None, batch_first: bool) -> Tensor:
    """The reset as the scan takes it, (T, B), checked as by ``as_reset``."""
    checked = as_reset(reset, x, steps, batch, batch_first)
    if batch is None:
        return checked.unsqueeze(1)
    return checked.t() if batch_first else checked


def in_memory(name: str, given: Tensor) -> Tensor:
    """What was given, where it can be read. Raises a RuntimeError if its memory has been freed."""
    if hides_numbers():
        return given
    check_memory(name, given)
    return given.clone() if given._is_zerotensor() else given


def hides_numbers() -> bool:
    """Whether this call is recorded or traced, to be run again with other numbers, so that numbers must not be read."""
    return is_recorded() or torch._C._get_tracing_state() is not None


def _as_traceable(given: Any) -> Any:
    """What was given; under torch.compile, which cannot read an array's dtype, an array as a tensor."""
    return torch.as_tensor(given) if torch.compiler.is_compiling() and isinstance(given, np.ndarray) else given


def _is_integer(numbers: Tensor | npt.NDArray[Any]) -> bool:
    if isinstance(numbers, np.ndarray):
        return numbers.dtype.kind in "iu"
    dtype = numbers.dtype
    return not (dtype is torch.bool or dtype.is_floating_point or dtype.is_complex or numbers.is_quantized)
