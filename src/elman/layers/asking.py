"""Calls a layer whose class overrides methods that torch.nn's forward calls: the checks of arguments, the order of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.utils.rnn import PackedSequence

from elman.layers.arguments import check_form
from elman.layers.spans import as_reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from elman.layers.layer import RecurrentLayer

States = tuple[Any, ...] | None


def run_asking(
    layer: RecurrentLayer[Any], run: Callable[..., Any], x: Tensor | PackedSequence, states: States, lengths: Any, reset: Any
) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
    """Run a layer as ``run`` does, and ask its methods what torch.nn's forward asks them, with the same arguments in the same order.

    That is ``check_forward_args`` with the states that the call starts from, ``permute_hidden`` from the order of the batch into the order
    of a PackedSequence, if there are states, and back again in any case.
    """
    check_form(layer, x, states)
    data, batch_sizes, order, back = x if isinstance(x, PackedSequence) else (x, None, None, None)
    is_unbatched = batch_sizes is None and data.dim() == 2
    batch_axis = 0 if layer.batch_first else 1
    if is_unbatched:
        data = data.unsqueeze(batch_axis)
        states = None if states is None else tuple([state.unsqueeze(1) for state in states])
    count = len(layer.stack.state_sizes)
    batch = int(batch_sizes[0]) if batch_sizes is not None else data.shape[batch_axis]
    directions = layer.num_layers * layer.stack.num_directions
    start = states or tuple([data.new_zeros(directions, batch, size) for size in layer.stack.state_sizes])
    if count > 1 and batch_sizes is None:  # an LSTM checks first, and a PackedSequence not at all
        layer.check_forward_args(data, start, batch_sizes)  # type: ignore[arg-type]
    if states is not None:
        start = states = _permuted(layer, states, order)
    if count == 1:
        layer.check_forward_args(data, start[0], batch_sizes)
    if reset is not None:
        steps = len(batch_sizes) if batch_sizes is not None else data.shape[1 - batch_axis]
        reset = as_reset(reset, data, steps, None if is_unbatched else batch, layer.batch_first)
        if is_unbatched:
            reset = reset.unsqueeze(batch_axis)
        elif order is not None:
            reset = reset.index_select(batch_axis, order)
    output, finals = run(layer, data if batch_sizes is None else PackedSequence(data, batch_sizes), states, lengths, reset)
    if is_unbatched:
        output, finals = output.squeeze(batch_axis), tuple([final.squeeze(1) for final in finals])
    finals = _permuted(layer, finals, back)
    return output if batch_sizes is None else PackedSequence(output.data, batch_sizes, order, back), finals


def _permuted(layer: RecurrentLayer[Any], states: tuple[Any, ...], order: Tensor | None) -> tuple[Any, ...]:
    """The states as the layer permutes them: the state of a layer that has one, the tuple of one that has several."""
    return (layer.permute_hidden(states[0], order),) if len(states) == 1 else tuple(layer.permute_hidden(states, order))  # type: ignore[arg-type]
