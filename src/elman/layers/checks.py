"""What is wrong with a call, in one sentence: what was expected, what came, how to mend it. The types of error are torch.nn's.

Meant for when something looks wrong already: ``check_input`` is called after a quick look, and finds out what it was.
"""

from __future__ import annotations

import operator
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from elman.cells import NONLINEARITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Lengths: TypeAlias = "Tensor | npt.NDArray[np.integer[Any]] | Sequence[int] | int"
    Reset: TypeAlias = "Tensor | npt.NDArray[np.bool_]"

_ARRAYS = (Tensor, np.ndarray)
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


def check_unmasked(name: str, array: object) -> None:
    """Raise a TypeError if an array is masked: torch would read what is below the mask."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"expected {name} without a mask, got a masked array: pass {name}.filled(...), with a value for what is masked")


def as_int(value: object) -> int | None:
    """An integer of any kind as an int: NumPy's, a tensor of one, what has ``__index__``. None if it is none; a bool is none."""
    if type(value) is int:
        return value
    if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and (value.dtype is torch.bool or value.dim())):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_size(name: str, size: object, least: int, unfit: type[Exception] = ValueError) -> int:
    """A size as an int.

    Raises:
        TypeError: it is no integer.
        Exception: of the type ``unfit``: it is below ``least`` or beyond 64 bits.
    """
    number = as_int(size)
    if number is None:
        raise TypeError(f"expected {name} to be an int, got {brief(size)} of type {type(size).__name__}")
    if number < least:
        raise unfit(f"expected {name} to be at least {least}, got {number}")
    if number >= 2**63:
        raise unfit(f"expected {name} to be below 2**63, got {number}")
    return number


def as_nonlinearity(nonlinearity: object, error: type[Exception]) -> str:
    """The name of a nonlinearity. Raises an error of this type if there is none of this name."""
    if not isinstance(nonlinearity, str) or nonlinearity not in NONLINEARITIES:
        raise error(f"expected nonlinearity to be one of {', '.join(map(repr, NONLINEARITIES))}, got {brief(nonlinearity)}")
    return nonlinearity


def as_flag(name: str, flag: object) -> bool:
    """A flag. Raises a TypeError if it is no bool."""
    if not isinstance(flag, bool):
        raise TypeError(f"expected {name} to be True or False, got {brief(flag)}")
    return flag


def as_truth(name: str, value: object) -> bool:
    """What stands for True or False, where torch.nn takes anything that does. Raises a TypeError if it does not."""
    try:
        return bool(value)
    except (RuntimeError, ValueError):  # an array or a tensor of several
        raise TypeError(f"expected {name} to be True or False, got {type(value).__name__}") from None


def as_probability(name: str, probability: float) -> float:
    """A probability as a float. Raises a ValueError if it is none."""
    if not isinstance(probability, Real) or isinstance(probability, bool) or not 0 <= probability <= 1:
        raise ValueError(f"expected {name} to be a probability, a number from 0 to 1, got {brief(probability)}")
    return float(probability)


def check_layout(name: str, tensor: Tensor) -> None:
    """Raise a RuntimeError if a tensor is no plain array of numbers: nested, sparse or in oneDNN's layout."""
    if tensor.is_nested:
        raise RuntimeError(
            f"expected {name} to be a tensor with one size for each axis, got a nested tensor: "
            "pad it with torch.nested.to_padded_tensor and pass lengths=, or pack its parts with torch.nn.utils.rnn.pack_sequence"
        )
    if tensor.layout is not torch.strided:
        raise RuntimeError(f"expected {name} to be dense, torch.strided, got {tensor.layout}: convert it with {name}.to_dense()")


def as_parameters(names: Sequence[str], params: Sequence[object], shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Raise what is wrong with the parameters, if anything is: what was put in their place may be of any kind.

    Args:
        names: what they are called.
        params: what they are.
        shapes: the shapes that they should have.

    Returns:
        The parameters.

    Raises:
        TypeError: one is no tensor.
        RuntimeError: one has the wrong shape or layout, or they differ in dtype or device.
    """
    first: Tensor | None = None
    for name, param, shape in zip(names, params, shapes, strict=True):
        if not isinstance(param, Tensor):
            got = "None" if param is None else type(param).__name__
            hint = ": it was deleted or set to None" if param is None else ""
            if name.startswith("bias"):
                hint = ": for a network without biases, build one with bias=False"
            raise TypeError(f"expected {name} to be a tensor of shape {shape}, got {got}{hint}")
        first = param if first is None else first
        check_layout(name, param)
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
    return tuple(params)  # type: ignore[arg-type]  # they have been looked at


def check_input(x: Tensor, weight: Tensor, input_size: int, axes: dict[int, str], wrong_dtype: type[Exception]) -> None:
    """Raise what is wrong with x, if anything is.

    Args:
        x: the input, or a packed sequence's data.
        weight: the first of the parameters.
        input_size: how many features x should have.
        axes: for each number of dimensions x may have, what they are called.
        wrong_dtype: the type of error for a wrong dtype, in which torch's layers and cells differ.

    Raises:
        TypeError: it is no tensor.
        ValueError: the number of dimensions is wrong.
        RuntimeError: the number of features, the layout or the device is wrong.
    """
    if not isinstance(x, Tensor):
        raise wrong_kind("x", "a tensor", x)
    check_layout("x", x)
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
            f"expected x of {weight.dtype}, the parameters' dtype, got {x.dtype}: convert x with {_conversion('x', x, weight.dtype)}"
            + (f" or the module with .to({x.dtype})" if x.dtype.is_floating_point else "")
        )


def _conversion(name: str, tensor: Tensor, dtype: torch.dtype) -> str:
    """How a tensor is brought to a dtype."""
    return f"{name}.dequantize()" if tensor.is_quantized else f"{name}.to({dtype})"


def brief(value: object) -> str:
    """A value in a line: how it prints, or of what type it is where that takes more."""
    text = repr(value)
    return text if "\n" not in text and len(text) <= 100 else f"a value of type {type(value).__name__}"


def check_no_projection(kind: str, proj_size: object) -> None:
    """Raise a ValueError if there is a proj_size, whatever it is: torch.nn's layers of this kind know the argument and take none."""
    if proj_size is not None:
        raise ValueError(f"expected no proj_size, got {brief(proj_size)}: an LSTM can project its output, {kind} cannot")


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
    check_layout(name, state)
    if state.shape != expected:
        error = RuntimeError if ranks is None or state.dim() in ranks else ValueError
        hint = f": give it its first axis with {name}.unsqueeze(0)" if (1, *state.shape) == expected else ""
        raise error(f"expected {name} of shape {expected}, {axes}, got {tuple(state.shape)}{hint}")
    if state.device != x.device:
        raise RuntimeError(f"expected {name} on {x.device}, where x is, got {state.device}: move it with {name}.to({str(x.device)!r})")
    if state.dtype is not x.dtype and not _autocasts(x):
        raise RuntimeError(
            f"expected {name} of {x.dtype}, the dtype of x, got {state.dtype}: convert it with {_conversion(name, state, x.dtype)}"
        )


_PACK = ": make PackedSequences with torch.nn.utils.rnn.pack_padded_sequence"


def check_batch_sizes(batch_sizes: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Raise what is wrong with a PackedSequence's batch sizes, which index memory.

    Args:
        batch_sizes: how many rows are alive at each step.
        x: the packed rows, (N, I).

    Returns:
        The batch sizes, contiguous, less the steps at the end that have no row; and how many rows there are.

    Raises:
        TypeError: they are no tensor.
        RuntimeError: they are no list of ints on the CPU, not one step's, growing, negative, or their sum is not N.
    """
    if not isinstance(batch_sizes, Tensor):
        raise wrong_kind("batch_sizes", "a tensor", batch_sizes)
    check_layout("batch_sizes", batch_sizes)
    if batch_sizes.dim() != 1 or batch_sizes.dtype is not torch.int64 or batch_sizes.device.type != "cpu":
        got = f"{batch_sizes.dtype} of shape {tuple(batch_sizes.shape)} on {batch_sizes.device}"
        raise RuntimeError(f"expected batch_sizes of one axis, torch.int64, on the CPU, got {got}{_PACK}")
    sizes = batch_sizes.tolist()
    if not any(sizes):
        raise RuntimeError(f"expected at least one step with a row, got none: batch_sizes is {_fold(sizes)}{_PACK}")
    if sizes[-1] < 0 or sizes != sorted(sizes, reverse=True):
        raise RuntimeError(f"expected batch_sizes that never grow nor fall below 0, got {_fold(sizes)}{_PACK}")
    if sum(sizes) != x.shape[0]:
        raise RuntimeError(
            f"expected {sum(sizes)} packed rows, the sum of batch_sizes, got {x.shape[0]}: x has shape {tuple(x.shape)}{_PACK}"
        )
    rows: Any = sizes[0]
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace would write the number down for all calls
        rows = batch_sizes[0]
    return (batch_sizes[: len(sizes) - sizes.count(0)] if sizes[-1] == 0 else batch_sizes).contiguous(), rows


def check_order(sorted_indices: Tensor | None, unsorted_indices: Tensor | None, rows: int, x: Tensor) -> None:
    """Raise what is wrong with the indices that a PackedSequence sorts its rows by and puts them back by, if anything is.

    Args:
        sorted_indices: for each row as it is packed, which it was before; None if they were in order.
        unsorted_indices: the way back.
        rows: how many rows are packed.
        x: the packed rows, (N, I).

    Raises:
        TypeError: one is no tensor.
        RuntimeError: there is one without the other, one is not ``rows`` of torch.int64 where x is, or they do not undo each other.
    """
    if sorted_indices is None and unsorted_indices is None:
        return
    found = []
    for name, indices in (("sorted_indices", sorted_indices), ("unsorted_indices", unsorted_indices)):
        if indices is None:
            raise RuntimeError(f"expected both sorted_indices and unsorted_indices or neither, got no {name}{_PACK}")
        if not isinstance(indices, Tensor):
            raise wrong_kind(name, "a tensor", indices)
        check_layout(name, indices)
        if indices.dtype is not torch.int64 or indices.device != x.device or indices.shape != (rows,):
            got = f"{indices.dtype} of shape {tuple(indices.shape)} on {indices.device}"
            raise RuntimeError(f"expected {name} of torch.int64 and shape ({rows},) on {x.device}, where x is, got {got}{_PACK}")
        found.append(indices)
    if not x.is_cpu or is_recorded():  # the numbers are elsewhere, or not known yet
        return
    try:
        undone = torch.equal(found[0].index_select(0, found[1]), torch.arange(rows, device="cpu"))
    except (IndexError, RuntimeError):  # one points outside
        undone = False
    if not undone:
        got = " and ".join(map(_shown, found))
        raise RuntimeError(
            f"expected sorted_indices and unsorted_indices to hold each of the {rows} rows once and to undo each other, got {got}{_PACK}"
        )


def is_recorded() -> bool:
    """Whether somebody records a call, to run it again with other numbers, which are not to be read."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None


def wrong_lengths(lengths: object) -> ValueError:
    """The error for lengths that came with a PackedSequence."""
    return ValueError(f"expected no lengths with a PackedSequence, which has its own, got {_shown(lengths)}: leave lengths out")


def as_lengths(lengths: Lengths, rows: int, steps: int) -> Tensor:
    """Raise what is wrong with the rows' lengths, which index memory.

    Args:
        lengths: what was passed.
        rows: how many rows x has.
        steps: how many steps x has.

    Returns:
        The lengths in memory of their own: int64 on the CPU, contiguous.

    Raises:
        TypeError: they are no list, tuple, tensor or array of integers.
        RuntimeError: they are not one for each row, or one is not from 0 to the number of steps.
    """
    expected = f"expected {rows} lengths, one for each row of x"
    check_unmasked("lengths", lengths)
    lengths = _traceable(lengths)
    if isinstance(lengths, _ARRAYS):
        if isinstance(lengths, Tensor):
            check_layout("lengths", lengths)
        if not _is_integer(lengths) and lengths.shape != (0,):  # of no numbers only their count can be wrong
            convert = "lengths.long()" if isinstance(lengths, Tensor) else "lengths.astype(int)"
            mask = lengths.dtype in (torch.bool, np.bool_)
            hint = "count a mask's steps with its sum over time" if mask else f"if they are whole numbers, convert them with {convert}"
            raise TypeError(f"expected lengths of an integer dtype, got {lengths.dtype}: {hint}")
        if lengths.ndim == 0 and rows == 1:
            lengths = lengths.reshape(1)
        if lengths.ndim != 1:
            raise RuntimeError(f"{expected}, got {_shown(lengths)}: give it one axis with lengths.reshape(-1)")
        if lengths.shape[0] != rows:
            raise RuntimeError(f"{expected}, got {lengths.shape[0]}: lengths is {_shown(lengths)}")
        if isinstance(lengths, Tensor):
            if is_recorded():
                return _recorded_lengths(lengths, steps)
            if lengths.is_meta:
                raise RuntimeError("expected lengths with numbers, got a tensor on the meta device, which has none: give them as a list")
            if torch._C._are_functorch_transforms_active():  # each of vmap's samples may have its own
                _check_range(_unwrapped(lengths).reshape(-1).tolist(), steps, lengths)
                return lengths.to("cpu", torch.int64, copy=True)
        numbers = lengths.tolist()
    elif isinstance(lengths, list | tuple):
        numbers = []
        for given in lengths:
            number = as_int(given)
            if number is None:
                kind = type(given).__name__
                raise TypeError(f"expected lengths to be integers, got {brief(given)} of type {kind}: lengths is {_shown(lengths)}")
            numbers.append(number)
        if len(numbers) != rows:
            raise RuntimeError(f"{expected}, got {len(numbers)}: lengths is {_shown(numbers)}")
    elif rows == 1 and (number := as_int(lengths)) is not None:
        numbers = [number]
    else:
        raise wrong_kind("lengths", "a list, a tuple, a tensor or a NumPy array of integers", lengths)
    _check_range(numbers, steps, lengths)
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _check_range(numbers: Sequence[int], steps: int, lengths: Lengths) -> None:
    for number in numbers:
        if not 0 <= number <= steps:
            raise RuntimeError(f"expected lengths from 0 to {steps}, the steps of x, got {number}: lengths is {_shown(lengths)}")


def _recorded_lengths(lengths: Tensor, steps: int) -> Tensor:
    """The same of lengths whose numbers are not to be read: they are looked at when the record is run."""
    traced = torch._C._get_tracing_state() is not None  # there the number of steps is a tensor
    told = f"expected lengths from 0 to {'T' if traced else steps}, the steps of x"
    torch._assert_async(((lengths >= 0) & (lengths <= steps)).all(), told)
    lengths = lengths.to("cpu", torch.int64, copy=True).contiguous()
    # A trace leaves out what has no result, so that there the numbers are looked up: one outside the table is an error.
    return torch.arange(steps + 1, device="cpu").index_select(0, lengths) if traced else lengths


def as_reset(reset: Reset, x: Tensor, expected: tuple[int, ...], axes: str) -> Tensor:
    """Raise what is wrong with a reset, if anything is.

    Args:
        reset: what was passed.
        x: the input, checked.
        expected: the shape that the reset should have.
        axes: what that shape's axes are called.

    Returns:
        The reset as a tensor.

    Raises:
        TypeError: it is no tensor or array of bools.
        RuntimeError: its shape, layout or device is wrong.
    """
    told = "a bool tensor or NumPy array, True where a fresh sequence begins"
    check_unmasked("reset", reset)
    reset = _traceable(reset)
    if not isinstance(reset, _ARRAYS):
        hint = ": convert it with torch.tensor(reset)" if isinstance(reset, list | tuple) else ""
        raise TypeError(f"{wrong_kind('reset', told, reset)}{hint}")
    if reset.dtype not in (torch.bool, np.bool_):
        convert = "reset.bool()" if isinstance(reset, Tensor) else "reset.astype(bool)"
        raise TypeError(f"expected reset to be {told}, got {reset.dtype}: if it holds 1 there and 0 elsewhere, convert it with {convert}")
    transposed = "reset.t()" if isinstance(reset, Tensor) else "reset.T"
    if isinstance(reset, np.ndarray):
        reset = torch.tensor(np.ascontiguousarray(reset).reshape(reset.shape), device=x.device)
    check_layout("reset", reset)
    if reset.shape != expected:
        hint = f": transpose it with {transposed}" if tuple(reset.shape[::-1]) == expected else ""
        raise RuntimeError(f"expected reset of shape {expected}, {axes}, got {tuple(reset.shape)}{hint}")
    if reset.device != x.device:
        raise RuntimeError(f"expected reset on {x.device}, where x is, got {reset.device}: move it with reset.to({str(x.device)!r})")
    return reset


def _traceable(given: Any) -> Any:
    """An array as a tensor where torch.compile traces, which cannot look at an array's dtype; else the same."""
    return torch.as_tensor(given) if torch.compiler.is_compiling() and isinstance(given, np.ndarray) else given


def _is_integer(numbers: Tensor | npt.NDArray[Any]) -> bool:
    if isinstance(numbers, np.ndarray):
        return numbers.dtype.kind in "iu"
    dtype = numbers.dtype
    return not (dtype is torch.bool or dtype.is_floating_point or dtype.is_complex or numbers.is_quantized)


def _unwrapped(numbers: Tensor) -> Tensor:
    """Under torch.func's transforms the tensor that is mapped over, all samples in one; else the same."""
    while torch._C._functorch.is_functorch_wrapped_tensor(numbers):
        numbers = torch._C._functorch.get_unwrapped(numbers)
    return numbers


def _autocasts(x: Tensor) -> bool:
    """Whether torch will bring dtypes together by itself."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _shown(lengths: object) -> str:
    """Lengths, whatever they are, in one line."""
    if isinstance(lengths, _ARRAYS):
        kind = "an array"
        if isinstance(lengths, Tensor):
            lengths, kind = _unwrapped(lengths), "a tensor"
        if isinstance(lengths, Tensor) and (lengths.is_nested or lengths.layout is not torch.strided or lengths.is_meta):
            return kind
        return _fold(lengths.tolist()) if lengths.ndim == 1 else f"{kind} of shape {tuple(lengths.shape)}"
    return _fold(list(lengths)) if isinstance(lengths, list | tuple) else brief(lengths)


def _fold(sizes: Sequence[object]) -> str:
    return f"[{', '.join([*map(brief, sizes[:8]), *(['...'] if len(sizes) > 8 else [])])}]"
