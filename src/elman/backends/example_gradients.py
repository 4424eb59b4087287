"""Gradients of shared parameters for each of many examples, from one backward pass over all of them.

The kernels give the gate gradients of the whole batch. Those of an example's weights are the products of its own gate gradients with what
the weights were multiplied with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from elman.backends.fold import split

if TYPE_CHECKING:
    from torch import Tensor

    from elman.backends.fold import Form, NodeOperands
    from elman.backends.stack import Stack


def can_split(form: Form, packed: bool, x: Tensor) -> bool:
    """Whether this is known of a call: it is not packed, and what needs a gradient is neither a projection nor what resets start from.

    Not in bfloat16, where an example after another is faster up to H = 64 and has the bits that it has alone (docs/performance.md).
    """
    begin = 1 + form.starts
    needs_fresh = any(form.needs_grad[begin : begin + form.freshes])
    is_known = not needs_fresh and not form.stack.proj_size and form.program is None
    return is_known and not packed and x.dtype is not torch.bfloat16


def example_gradients(
    form: Form, operands: NodeOperands, output: Tensor, hidden: Tensor | None, gates: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of the parameters, as ``form.needs_grad`` says, each with an axis of examples before the others.

    Args:
        form: its examples lie one after another in the batch, and are so many.
        operands: of the whole batch, not packed.
        output, hidden: as ``call.forward`` gave them, the latter (L-1, T, B, D·H).
        gates: the gate gradients, (L·D, T, B, G·H), or twice as wide: of the input's parts, then of the recurrent parts.
    """
    if form.stack.members:
        return _of_members(form, operands, output, hidden, gates)
    stack, x, lengths = form.stack, operands.x, operands.lengths
    if form.batch_first:
        x, output = x.transpose(0, 1), output.transpose(0, 1)
    if lengths is not None:  # NaN in the padding would reach the products
        x = x.masked_fill((torch.arange(x.shape[0]).unsqueeze(1) >= lengths).unsqueeze(-1), 0)
    outputs = [output] if hidden is None else [*hidden.unbind(0), output]
    needs = iter(form.needs_grad[1 + form.starts + form.freshes :])
    width = len(stack.cell.gates) * stack.hidden_size
    gradients: list[Tensor | None] = []
    for index in range(stack.num_layers * stack.num_directions):
        layer = index // stack.num_directions
        below = _by_example(outputs[layer - 1] if layer else x, form.examples)
        before = _by_example(_states_before(stack, operands, outputs[layer], index), form.examples)
        parts = {"ih": _by_example(gates[index][..., :width], form.examples), "hh": _by_example(gates[index][..., -width:], form.examples)}
        others = {"weight_ih": below, "weight_hh": before, "bias_ih": None, "bias_hh": None}
        for kind in stack.kinds:
            part, other = parts[kind[-2:]], others[kind]
            gradients.append(None if not next(needs) else part.sum(1) if other is None else part.mT @ other)
    return tuple(gradients)


def _of_members(form: Form, operands: NodeOperands, output: Tensor, hidden: Tensor | None, gates: Tensor) -> tuple[Tensor | None, ...]:
    """Those of an ensemble, (members, examples, ...), where all tensors have an axis of members first."""
    alone = replace(form, stack=form.stack.of(0))
    of_each = [
        example_gradients(alone, operands.member(alone, m), output[m], None if hidden is None else hidden[m], gates[m])
        for m in range(form.stack.members)
    ]
    return tuple([None if each[0] is None else torch.stack(each) for each in zip(*of_each, strict=True)])


def _by_example(steps: Tensor, examples: int) -> Tensor:
    """All steps of each example, (examples, steps, ...), of a tensor (T, B, ...)."""
    return split(steps.transpose(0, 1), 0, (examples, -1)).flatten(1, 2)


def _states_before(stack: Stack, operands: NodeOperands, output: Tensor, index: int) -> Tensor:
    """The h before every step of one direction of one layer, (T, B, H), in the order of time."""
    direction, width = index % stack.num_directions, stack.state_sizes[0]
    lengths, reset = operands.lengths, operands.reset
    h = output[..., direction * width : (direction + 1) * width]
    start = operands.starts[0][index].unsqueeze(0) if operands.starts else torch.zeros_like(h[:1])
    before = torch.cat((h[1:], start) if direction else (start, h[:-1]))
    steps = torch.arange(len(h)).unsqueeze(1)
    if direction and lengths is not None:
        before = torch.where((steps + 1 == lengths).unsqueeze(-1), start, before)
    if reset is not None:
        cuts = reset if lengths is None else reset & (steps < lengths)
        if direction:
            cuts = torch.cat((cuts[1:], torch.zeros_like(cuts[:1])))
        fresh = operands.fresh[0][index] if operands.fresh else torch.zeros_like(start)
        before = torch.where(cuts.unsqueeze(-1), fresh, before)
    return before
