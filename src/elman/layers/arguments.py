"""A call's arguments, checked and brought into the form that the scan takes: tensors, time first, with a batch axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from elman.backends import WHOLE, Operands, Spans
from elman.layers.errors import and_torchs, autocasts, check_layout, conversion, wrong_input
from elman.layers.initial_state import check_states, for_all
from elman.layers.packed import check_batch_sizes, check_order, reordered
from elman.layers.spans import as_lengths, as_time_major_reset, wrong_lengths
from elman.layers.step_inputs import as_step_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elman.layers.recurrent import Recurrent
    from elman.layers.single_step import RecurrentCell
    from elman.layers.spans import Lengths, Reset

States: TypeAlias = "tuple[Tensor, ...] | None"

# The axes that x may have, by their number.
_LAYER_AXES = {2: "(T, I)", 3: "(T, B, I)"}
_BATCH_FIRST_AXES = {2: "(T, I)", 3: "(B, T, I)"}
_CELL_AXES = {1: "(I,)", 2: "(B, I)"}
_PACKED_AXES = {2: "(N, I)"}


def of_layer(
    layer: Recurrent[Any],
    x: Tensor | PackedSequence,
    states: States,
    lengths: Lengths | None = None,
    reset: Reset | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Operands:
    """The arguments of a layer's call. ``beside``: the step inputs, by name."""
    params = layer._params()
    if not isinstance(x, Tensor):
        return _of_packed(layer, x, states, params, lengths, reset)
    rank = _check_quickly(x, params[0], layer.input_size, _BATCH_FIRST_AXES if layer.batch_first else _LAYER_AXES, ValueError)
    is_batched = rank == 3
    shape = x.shape
    time, batch_axis = (1, 0) if layer.batch_first and is_batched else (0, 1)
    steps, batch = shape[time], shape[batch_axis] if is_batched else 1
    if steps == 0:
        raise RuntimeError(f"expected at least one step, got none: x has shape {tuple(shape)}")
    if states is not None:
        directions = layer.num_layers * layer.stack.num_directions
        leading, names = ((directions, batch), "(L·D, B, H)") if is_batched else ((directions,), "(L·D, H)")
        states = check_states(layer._state_names, states, x, layer.stack, names, leading)
        if not is_batched:
            states = tuple([state.unsqueeze(1) for state in states])
    spans = WHOLE
    if lengths is not None:
        spans = Spans(lengths=as_lengths(lengths, batch, steps))
    if reset is not None:
        spans = spans.replaced(reset=as_time_major_reset(reset, x, steps, batch if is_batched else None, layer.batch_first))
    if beside is not None:
        each = (shape[:2], "(B, T" if time else "(T, B") if is_batched else (shape[:1], "(T")
        spans = spans.replaced(step_inputs=as_step_inputs(layer.stack, beside, x, *each, time, batch_axis if is_batched else None) or None)
    if layer._learned:
        states, spans = _with_learned_states(layer, states, spans, params, batch)
    if not is_batched:
        x = x.unsqueeze(1)
    return Operands(x.transpose(0, 1) if time else x, states, params, spans)


def _of_packed(
    layer: Recurrent[Any],
    packed: PackedSequence,
    states: States,
    params: tuple[Tensor, ...],
    lengths: Lengths | None,
    reset: Reset | None,
) -> Operands:
    if not isinstance(packed, PackedSequence):
        raise wrong_input("a tensor or a PackedSequence", packed, layer.batch_first)
    if lengths is not None:
        raise wrong_lengths(lengths)
    batch_sizes, batch = check_packed(layer, packed, params)
    x, _, sorted_indices, _ = packed
    if states is not None:
        leading = layer.num_layers * layer.stack.num_directions, batch
        states = reordered(check_states(layer._state_names, states, x, layer.stack, "(L·D, B, H)", leading), sorted_indices)
    spans = Spans(batch_sizes)
    if reset is not None:
        reset = as_time_major_reset(reset, x, len(batch_sizes), batch, layer.batch_first)
        spans = spans.replaced(reset=reset if sorted_indices is None else reset.index_select(1, sorted_indices))
    if layer._learned:
        states, spans = _with_learned_states(layer, states, spans, params, batch)
    return Operands(x, states, params, spans)


def check_packed(layer: Recurrent[Any], packed: PackedSequence, params: tuple[Tensor, ...]) -> tuple[Tensor, int]:
    """Raise an error if a PackedSequence is wrong. Returns its batch sizes, without steps that no sequence has, and B."""
    # torch.nn.LSTM does not look at a PackedSequence as RNN and GRU do, and its operators raise another type.
    wrong_dtype = ValueError if len(layer._state_names) == 1 else RuntimeError
    x, batch_sizes, sorted_indices, unsorted_indices = packed
    check_input(x, params[0], layer.input_size, _PACKED_AXES, wrong_dtype)
    batch_sizes, batch = check_batch_sizes(batch_sizes, x)
    check_order(sorted_indices, unsorted_indices, batch, x)
    return batch_sizes, batch


def _with_learned_states(
    layer: Recurrent[Any], states: States, spans: Spans, params: tuple[Tensor, ...], batch: int
) -> tuple[States, Spans]:
    """The states and the spans, with the learned initial states wherever a sequence starts without given ones."""
    fresh = layer._fresh(params)
    return for_all(fresh, batch) if states is None else states, spans if spans.reset is None else spans.replaced(fresh=fresh)


def of_cell(cell: RecurrentCell[Any], x: Tensor, states: States, beside: Mapping[str, Any] | None = None) -> Operands:
    """The arguments of a cell's call, but without an axis of time: x, (B, I), and the states, (B, H). ``beside``: the step inputs, by name,
    which are those of a sequence of one step.
    """
    params = cell._params()
    is_batched = _check_quickly(x, params[0], cell.input_size, _CELL_AXES, RuntimeError) == 2
    if states is not None:
        axes = "(B, H)" if is_batched else "(H,)"
        states = check_states(cell._state_names, states, x, cell.stack, axes, x.shape[:-1], ranks=(1, 2))
    spans = WHOLE
    if beside is not None:
        given = as_step_inputs(cell.stack, beside, x, x.shape[:-1], "(B" if is_batched else "(", 0, 0)
        spans = Spans(step_inputs=tuple([(each if is_batched else each.unsqueeze(0)).unsqueeze(0) for each in given]) or None)
    if not is_batched:
        x = x.unsqueeze(0)
        states = None if states is None else tuple([state.unsqueeze(0) for state in states])
    return Operands(x, states, params, spans)


def _check_quickly(x: Any, weight: Tensor, input_size: int, axes: Mapping[int, str], wrong_dtype: type[Exception]) -> int:
    """``check_input``, at the cost of a few comparisons if nothing is wrong. Returns the number of axes."""
    if not isinstance(x, Tensor):
        raise wrong_input("a tensor", x)
    check_layout("x", x)
    shape = x.shape
    rank = len(shape)
    if (
        rank not in axes
        or shape[-1] != input_size
        or x.dtype is not weight.dtype
        or not ((x.is_cpu and weight.is_cpu) or x.device == weight.device)
    ):
        check_input(x, weight, input_size, axes, wrong_dtype)
    return rank


def check_input(x: Tensor, weight: Tensor, input_size: int, axes: Mapping[int, str], wrong_dtype: type[Exception]) -> None:
    """Raise an error if x is wrong.

    Args:
        x: the input, or a PackedSequence's data.
        weight: the first of the parameters.
        input_size: I.
        axes: the names of the axes that x may have, by their number.
        wrong_dtype: the type of error for a wrong dtype, in which torch's layers and cells differ.

    Raises:
        TypeError: it is not a tensor.
        ValueError: the number of dimensions is wrong.
        RuntimeError: the number of features, the layout or the device is wrong.
    """
    _check_axes(x, axes)
    shape = tuple(x.shape)
    if shape[-1] != input_size:
        hint = ""
        if input_size in shape[:-1]:
            hint = f"; if its axis {shape.index(input_size)} is the features, move it last: x.movedim({shape.index(input_size)}, -1)"
        if axes is _CELL_AXES:
            words = f"input has inconsistent input_size: got {shape[-1]} expected {input_size}"
        else:
            words = f"input.size(-1) must be equal to input_size. Expected {input_size}, got {shape[-1]}"
        read = ", read as unbatched, (T, I)" if x.dim() == 2 and axes in (_LAYER_AXES, _BATCH_FIRST_AXES) else ""
        message = f"expected input of {input_size} features (input_size), got {shape[-1]}: x has shape {shape}{read}{hint}"
        raise RuntimeError(and_torchs(message, words))
    if x.device != weight.device:
        raise RuntimeError(
            f"expected x on {weight.device}, where the parameters are, got {x.device}: move it with x.to({str(weight.device)!r})"
        )
    if x.dtype is not weight.dtype and (torch.float64 in (x.dtype, weight.dtype) or not autocasts(x)):  # float64 autocast leaves alone
        message = f"expected x of {weight.dtype}, the parameters' dtype, got {x.dtype}: convert x with {conversion('x', x, weight.dtype)}"
        if x.dtype.is_floating_point:
            message += f" or the module with .to({x.dtype})"
        words = f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
        words += f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        raise wrong_dtype(message if axes is _CELL_AXES else and_torchs(message, words))


def _check_axes(x: Any, axes: Mapping[int, str]) -> None:
    if not isinstance(x, Tensor):
        raise wrong_input("a tensor", x)
    check_layout("x", x)
    if x.dim() not in axes:
        error = RuntimeError if axes is _PACKED_AXES else ValueError
        ranks, names = " or ".join(map(str, axes)), " or ".join(axes.values())
        raise error(f"expected x of {ranks} dimensions, {names}, got {x.dim()}: x has shape {tuple(x.shape)}")


def check_form(layer: Recurrent[Any], x: Any, states: tuple[Any, ...] | None) -> None:
    """Raise the error of a call for what torch.nn's forward refuses before it asks its methods: kinds and numbers of axes."""
    is_batched = True
    if isinstance(x, PackedSequence):
        data, batch_sizes, sorted_indices, unsorted_indices = x
        _check_axes(data, _PACKED_AXES)
        batch = check_batch_sizes(batch_sizes, data)[1]
        check_order(sorted_indices, unsorted_indices, batch, data)
    elif isinstance(x, Tensor):
        _check_axes(x, _BATCH_FIRST_AXES if layer.batch_first else _LAYER_AXES)
        data, is_batched = x, x.dim() == 3
        batch = x.shape[0 if layer.batch_first else 1]
    else:
        raise wrong_input("a tensor or a PackedSequence", x, layer.batch_first)
    rank = 3 if is_batched else 2
    if states is not None and not all(isinstance(state, Tensor) and state.dim() == rank for state in states):
        leading: tuple[int, ...] = (layer.num_layers * layer.stack.num_directions, batch)[: rank - 1]
        check_states(layer._state_names, states, data, layer.stack, "(L·D, B, H)" if is_batched else "(L·D, H)", leading)
