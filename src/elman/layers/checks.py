"""What is wrong with a call, in one sentence: what was expected, what came, how to mend it. The types of error are torch.nn's.

Meant for when something looks wrong already: ``check_input`` is called after a quick look, and finds out what it was.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYER_AXES = {2: "(T, I)", 3: "(T, B, I)"}
BATCH_FIRST_AXES = {2: "(T, I)", 3: "(B, T, I)"}
CELL_AXES = {1: "(I,)", 2: "(B, I)"}
PACKED_AXES = {2: "(N, I)"}


def wrong_kind(name: str, expected: str, got: object) -> TypeError:
    """The error for an argument that is of no use at all."""
    return TypeError(f"expected {name} to be {expected}, got {type(got).__name__}")


def wrong_module(expected: str, got: object) -> TypeError:
    """The error for something else where one of Elman's modules is due. It is told with its module: torch.nn's go by the same names."""
    kind = type(got)
    module = "torch.nn" if kind.__module__.startswith("torch.nn.") else kind.__module__
    return TypeError(f"expected rnn to be one of Elman's {expected}, got {'' if module == 'builtins' else f'{module}.'}{kind.__name__}")


def check_parameters(names: Sequence[str], params: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise what is wrong with the parameters, if anything is: what was put in their place may be of any kind.

    Args:
        names: what they are called.
        params: what they are.
        shapes: the shapes that they should have.

    Raises:
        RuntimeError: one has the wrong shape, or they differ in dtype or device.
    """
    first = params[0]
    for name, param, shape in zip(names, params, shapes, strict=True):
        if param.shape != shape:
            raise RuntimeError(f"expected {name} of shape {shape}, got {tuple(param.shape)}: it was replaced after construction")
        if param.device != first.device:
            raise RuntimeError(
                f"expected {name} on {first.device}, where {names[0]} is, got {param.device}: move the whole module with .to()"
            )
        if param.dtype is not first.dtype and not _autocasts(param):
            raise RuntimeError(
                f"expected {name} of {first.dtype}, as {names[0]} is, got {param.dtype}: convert the whole module with .to()"
            )


def check_input(x: Tensor, weight: Tensor, input_size: int, axes: dict[int, str], wrong_dtype: type[Exception]) -> None:
    """Raise what is wrong with x, if anything is.

    Args:
        x: the input, or a packed sequence's data.
        weight: the first of the parameters.
        input_size: how many features x should have.
        axes: for each number of dimensions x may have, what they are called.
        wrong_dtype: the type of error for a wrong dtype, in which torch's layers and cells differ.

    Raises:
        ValueError: the number of dimensions is wrong.
        RuntimeError: the number of features or the device is wrong.
    """
    shape = tuple(x.shape)
    if x.dim() not in axes:
        error = RuntimeError if axes is PACKED_AXES else ValueError
        ranks, names = " or ".join(map(str, axes)), " or ".join(axes.values())
        raise error(f"expected x of {ranks} dimensions, {names}, got {x.dim()}: x has shape {shape}")
    if shape[-1] != input_size:
        hint = ""
        if input_size in shape[:-1]:
            hint = f"; if its axis {shape.index(input_size)} is the features, move it last: x.movedim({shape.index(input_size)}, -1)"
        raise RuntimeError(f"expected input of {input_size} features (input_size), got {shape[-1]}: x has shape {shape}{hint}")
    if x.device != weight.device:
        raise RuntimeError(
            f"expected x on {weight.device}, where the parameters are, got {x.device}: move it with x.to({str(weight.device)!r})"
        )
    if x.dtype is not weight.dtype and not _autocasts(x):
        raise wrong_dtype(
            f"expected x of {weight.dtype}, the parameters' dtype, got {x.dtype}: convert x with x.to({weight.dtype})"
            + (f" or the module with .to({x.dtype})" if x.dtype.is_floating_point else "")
        )


def check_no_projection(kind: str, proj_size: object) -> None:
    """Raise a ValueError if there is a proj_size, whatever it is: torch.nn's layers of this kind know the argument and take none."""
    if proj_size is not None:
        raise ValueError(f"expected no proj_size, got {proj_size!r}: an LSTM can project its output, {kind} cannot")


def check_state(name: str, state: Tensor, x: Tensor, expected: tuple[int, ...], axes: str, ranks: Sequence[int] | None = None) -> None:
    """Raise what is wrong with an initial state, if anything is.

    Args:
        name: what it is called.
        state: what was passed.
        x: the input, checked.
        expected: the shape that the state should have.
        axes: what that shape's axes are called.
        ranks: the numbers of dimensions beyond which torch's cells raise a ValueError.

    Raises:
        TypeError: it is no tensor.
        ValueError: its number of dimensions is not in ``ranks``.
        RuntimeError: its shape, dtype or device is wrong otherwise.
    """
    if not isinstance(state, Tensor):
        raise wrong_kind(name, "a tensor", state)
    if state.shape != expected:
        error = RuntimeError if ranks is None or state.dim() in ranks else ValueError
        hint = f": give it its first axis with {name}.unsqueeze(0)" if (1, *state.shape) == expected else ""
        raise error(f"expected {name} of shape {expected}, {axes}, got {tuple(state.shape)}{hint}")
    if state.device != x.device:
        raise RuntimeError(f"expected {name} on {x.device}, where x is, got {state.device}: move it with {name}.to({str(x.device)!r})")
    if state.dtype is not x.dtype and not _autocasts(x):
        raise RuntimeError(f"expected {name} of {x.dtype}, the dtype of x, got {state.dtype}: convert it with {name}.to({x.dtype})")


def check_batch_sizes(batch_sizes: Tensor, x: Tensor) -> Tensor:
    """Raise what is wrong with a PackedSequence's batch sizes, which index memory.

    Args:
        batch_sizes: how many rows are alive at each step.
        x: the packed rows, (N, I).

    Returns:
        The batch sizes, contiguous, less the steps at the end that have no row.

    Raises:
        RuntimeError: they are no list of ints on the CPU, not one step's, growing, negative, or their sum is not N.
    """
    mend = ": make PackedSequences with torch.nn.utils.rnn.pack_padded_sequence"
    if batch_sizes.dim() != 1 or batch_sizes.dtype is not torch.int64 or batch_sizes.device.type != "cpu":
        got = f"{batch_sizes.dtype} of shape {tuple(batch_sizes.shape)} on {batch_sizes.device}"
        raise RuntimeError(f"expected batch_sizes of one axis, torch.int64, on the CPU, got {got}{mend}")
    sizes = batch_sizes.tolist()
    if not any(sizes):
        raise RuntimeError(f"expected at least one step with a row, got none: batch_sizes is {_fold(sizes)}{mend}")
    if sizes[-1] < 0 or sizes != sorted(sizes, reverse=True):
        raise RuntimeError(f"expected batch_sizes that never grow nor fall below 0, got {_fold(sizes)}{mend}")
    if sum(sizes) != x.shape[0]:
        raise RuntimeError(
            f"expected {sum(sizes)} packed rows, the sum of batch_sizes, got {x.shape[0]}: x has shape {tuple(x.shape)}{mend}"
        )
    return batch_sizes[: len(sizes) - sizes.count(0)].contiguous()


def wrong_lengths(lengths: object) -> ValueError:
    """The error for lengths that came with a PackedSequence."""
    return ValueError(f"expected no lengths with a PackedSequence, which has its own, got {_shown(lengths)}: leave lengths out")


def as_lengths(lengths: Tensor | Sequence[int], rows: int, steps: int) -> Tensor:
    """Raise what is wrong with the rows' lengths, which index memory.

    Args:
        lengths: what was passed.
        rows: how many rows x has.
        steps: how many steps x has.

    Returns:
        The lengths in memory of their own: int64 on the CPU, contiguous.

    Raises:
        TypeError: they are no list, tuple or tensor of integers.
        RuntimeError: they are not one for each row, or one is not from 0 to the number of steps.
    """
    expected = f"expected {rows} lengths, one for each row of x"
    if isinstance(lengths, Tensor):
        if lengths.dtype is torch.bool or lengths.is_floating_point() or lengths.is_complex():
            hint = "count a mask's steps with its sum over time" if lengths.dtype is torch.bool else "convert them with lengths.long()"
            raise TypeError(f"expected lengths of an integer dtype, got {lengths.dtype}: {hint}")
        if lengths.dim() != 1:
            raise RuntimeError(f"{expected}, got {_shown(lengths)}: give it one axis with lengths.reshape(-1)")
        if lengths.shape[0] != rows:
            raise RuntimeError(f"{expected}, got {lengths.shape[0]}: lengths is {_shown(lengths)}")
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():  # who records this may not know the numbers yet
            told = f"expected lengths from 0 to {steps}, the steps of x"
            torch._assert_async(((lengths >= 0) & (lengths <= steps)).all(), told)
            return lengths.to("cpu", torch.int64, copy=True).contiguous()
        numbers = lengths.tolist()
    elif isinstance(lengths, list | tuple):
        numbers = list(lengths)
        for number in numbers:
            if not isinstance(number, Integral) or isinstance(number, bool):
                raise TypeError(
                    f"expected lengths to be integers, got {number!r} of type {type(number).__name__}: lengths is {_shown(numbers)}"
                )
        if len(numbers) != rows:
            raise RuntimeError(f"{expected}, got {len(numbers)}: lengths is {_shown(numbers)}")
    else:
        raise wrong_kind("lengths", "a list, a tuple or a tensor of integers", lengths)
    for number in numbers:
        if not 0 <= number <= steps:
            raise RuntimeError(f"expected lengths from 0 to {steps}, the steps of x, got {number}: lengths is {_shown(numbers)}")
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def check_reset(reset: Tensor, x: Tensor, expected: tuple[int, ...], axes: str) -> None:
    """Raise what is wrong with a reset, if anything is.

    Args:
        reset: what was passed.
        x: the input, checked.
        expected: the shape that the reset should have.
        axes: what that shape's axes are called.

    Raises:
        TypeError: it is no bool tensor.
        RuntimeError: its shape or device is wrong.
    """
    if not isinstance(reset, Tensor):
        raise wrong_kind("reset", "a bool tensor", reset)
    if reset.dtype is not torch.bool:
        raise TypeError(f"expected reset to be a bool tensor, got {reset.dtype}: convert it with reset.bool()")
    if reset.shape != expected:
        hint = ": transpose it with reset.t()" if tuple(reset.shape[::-1]) == expected else ""
        raise RuntimeError(f"expected reset of shape {expected}, {axes}, got {tuple(reset.shape)}{hint}")
    if reset.device != x.device:
        raise RuntimeError(f"expected reset on {x.device}, where x is, got {reset.device}: move it with reset.to({str(x.device)!r})")


def _autocasts(x: Tensor) -> bool:
    """Whether torch will bring dtypes together by itself."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _shown(lengths: object) -> str:
    """Lengths, whatever they are, in one line."""
    if isinstance(lengths, Tensor):
        return _fold(lengths.tolist()) if lengths.dim() == 1 else f"a tensor of shape {tuple(lengths.shape)}"
    return _fold(list(lengths)) if isinstance(lengths, list | tuple) else repr(lengths)


def _fold(sizes: Sequence[object]) -> str:
    return str(sizes) if len(sizes) <= 8 else f"[{', '.join(map(str, sizes[:8]))}, ...]"
