"""The operators ``torch.ops.elman.scan`` and ``program`` in ONNX: nodes RNN, GRU and LSTM, layer by layer.

Projections, resets and cells of your own, which these nodes lack, become the cell's equation in a Scan node. Only for
``torch.onnx.export``.

Source: ONNX operators, RNN (22), GRU (22), LSTM (22).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from elman.backends.reference import alive_steps, cut_steps, mix
from elman.cells import take_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.operands import Operands
    from elman.backends.stack import Stack


class _Node(NamedTuple):
    """A node's name, where each of its gates stands among ours, and what it is to be told besides its sizes."""

    name: str
    gates: tuple[int, ...]
    activations: tuple[str, ...] = ()
    attributes: tuple[tuple[str, int], ...] = ()


_NODES = {
    "rnn_tanh": _Node("RNN", (0,), ("Tanh",)),
    "rnn_relu": _Node("RNN", (0,), ("Relu",)),
    "gru": _Node("GRU", (1, 0, 2), attributes=(("linear_before_reset", 1),)),  # z, r, h
    "lstm": _Node("LSTM", (0, 3, 1, 2)),  # i, o, f, c
}


def run(stack: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs and final states, as operators that ``torch.onnx.export`` turns into ONNX's."""
    x, spans = operands.x, operands.spans
    if spans.batch_sizes is not None:
        raise RuntimeError(
            "expected padded sequences, since ONNX has no packed ones, got a PackedSequence: call the network with lengths=..."
        )
    finals: list[tuple[Tensor, ...]] = []
    is_node = spans.reset is None and not stack.proj_size and stack.cell.name in _NODES
    for index, layer in enumerate(stack.layers):
        x, last = (_node if is_node else _scan)(layer, operands.of_layer(stack, index, x))
        finals.append(last)
    return x, tuple([torch.cat(state) for state in zip(*finals, strict=True)])


def _node(layer: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer as one node."""
    x, states, params, spans = operands
    node, directions, width = _NODES[layer.cell.name], layer.num_directions, layer.hidden_size
    steps, batch, _ = x.shape
    weights = {kind: _reordered(torch.stack(each), node.gates) for kind, each in _by_kind(layer, params).items()}
    initial: Sequence[Tensor | None] = states or ()
    output, *finals = torch.onnx.ops.symbolic_multi_out(
        node.name,
        [
            x,
            weights["weight_ih"],
            weights["weight_hh"],
            torch.cat((weights["bias_ih"], weights["bias_hh"]), 1) if layer.bias else None,
            None if spans.lengths is None else spans.lengths.to(torch.int32),
            *initial,
        ],
        {
            "hidden_size": width,
            "direction": "bidirectional" if layer.bidirectional else "forward",
            **({"activations": list(node.activations) * directions} if node.activations else {}),
            **dict(node.attributes),
        },
        dtypes=[x.dtype] * (1 + len(layer.cell.states)),
        shapes=[(steps, directions, batch, width), *[(directions, batch, width)] * len(layer.cell.states)],
    )
    if spans.lengths is not None and states is not None:  # ONNX does not say what becomes of the state of a sequence without steps
        none = (spans.lengths == 0).unsqueeze(1).to(x.device)
        finals = list(mix(none, states, tuple(finals)))
    return output.transpose(1, 2).flatten(2), tuple(finals)


def _by_kind(layer: Stack, params: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Each kind of parameter, for each direction."""
    tensors = layer.tensors_per_direction
    return {kind: list(params[i::tensors]) for i, kind in enumerate(layer.kinds)}


def _reordered(params: Tensor, gates: Sequence[int]) -> Tensor:
    """A parameter of each direction, (D, G·H, ...), with its gates in ONNX's order."""
    if len(gates) == 1:
        return params
    chunks = params.chunk(len(gates), 1)
    return torch.cat([chunks[gate] for gate in gates], 1)


def _scan(layer: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer as the cell's equation, step by step. The numbers are those of the reference."""
    x, states, params, spans = operands
    batch = x.shape[1]
    alive = alive_steps(spans, batch, x)
    zeros = tuple([x.new_zeros(batch, size) for size in layer.state_sizes])
    columns, finals = [], []
    for direction, reverse in enumerate((False, True)[: layer.num_directions]):
        weights = {kind: each[direction] for kind, each in _by_kind(layer, params).items()}
        initial = zeros if states is None else tuple([state[direction] for state in states])
        fresh = tuple([state[direction].expand(batch, -1) for state in spans.fresh or ()])
        has_inputs = "weight_ih" in weights
        steps = [linear(x, weights.pop("weight_ih"), weights.pop("bias_ih", None)) if has_inputs else x, *(spans.step_inputs or ())]
        if alive is not None:
            steps.append(alive)
        if spans.reset is not None:
            steps.append(cut_steps(spans.reset, alive, reverse))
        if reverse:
            steps = [each.flip(0) for each in steps]
        output, *last = _steps(layer, steps, initial, fresh, weights, has_inputs, alive is not None, spans.reset is not None)
        columns.append(output.flip(0) if reverse else output)
        finals.append(tuple(last))
    return torch.cat(columns, -1), tuple([torch.stack(state) for state in zip(*finals, strict=True)])


def _steps(
    layer: Stack,
    steps: Sequence[Tensor],
    initial: tuple[Tensor, ...],
    fresh: tuple[Tensor, ...],
    weights: dict[str, Tensor],
    has_inputs: bool,
    is_ragged: bool,
    is_cut: bool,
) -> tuple[Tensor, ...]:
    """The outputs of one direction and its final states.

    Args:
        steps: what each step is given: projected, (T, B, G·H), or x, if the cell has no inputs; the step inputs; alive, (T, B, 1); cuts,
            (T, B, 1).
    """
    count, kinds, beside = len(initial), list(weights), 1 + len(layer.cell.step_inputs)

    def step(*operands: Tensor) -> tuple[Tensor, ...]:
        states, given = operands[:count], operands[count : count + len(steps)]
        projected, step_inputs, masks = given[0] if has_inputs else None, given[1:beside], given[beside:]
        rest = operands[count + len(steps) :]
        if is_cut:
            states = mix(masks[-1], rest[len(kinds) :], states) if fresh else tuple([state.masked_fill(masks[-1], 0) for state in states])
        before = states
        states = take_step(layer.cell, projected, states, dict(zip(kinds, rest, strict=False)), step_inputs)
        if is_ragged:
            states = mix(masks[0], states, before)
        output = states[0].masked_fill(~masks[0], 0) if is_ragged else states[0].clone()
        return *states, output

    results: Any = torch.ops.higher_order.scan(step, list(initial), list(steps), [*weights.values(), *fresh])
    return results[-1], *results[:-1]
