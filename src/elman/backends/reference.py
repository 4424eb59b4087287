"""The specification: a stack of layers in plain torch.

Nothing is written in place and nothing depends on a tensor's values, so that it runs on any device and in any dtype, is differentiable to
any order, and passes through torch's transforms (vmap, jvp, grad). It is not fast: a Python loop over the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch.nn.functional import linear

from elman.backends.backend import Backend
from elman.backends.spans import WHOLE, Spans, Traced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.stack import Stack
    from elman.cells import Cell


@final
class ReferenceBackend(Backend):
    name = "reference"

    def refuses(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
    ) -> str | None:
        return None

    def run(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
        batch_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows_at = None if spans.batch_sizes is None else spans.batch_sizes.tolist()
        rows = x.shape[1] if rows_at is None else rows_at[0]
        zeros = tuple(x.new_zeros(rows, size) for size in stack.state_sizes)  # of x's dtype, which autocast changes from layer to layer
        tensors = stack.tensors_per_direction
        finals: list[tuple[Tensor, ...]] = []
        for _ in range(stack.num_layers):
            outputs: list[Tensor] = []
            for reverse in (False, True)[: stack.num_directions]:
                k = len(finals)
                w_ih, w_hh, *rest = params[k * tensors : (k + 1) * tensors]
                w_hr = rest.pop() if stack.proj_size else None
                b_ih, b_hh = rest or (None, None)
                initial = zeros if states is None else tuple(state[k] for state in states)
                projected = linear(x, w_ih, b_ih)
                steps = projected.unbind(0) if rows_at is None else torch.split(projected, rows_at)
                hidden, last = _unroll(stack.cell, steps, w_hh, b_hh, w_hr, initial, reverse)
                outputs.append(torch.stack(hidden) if rows_at is None else torch.cat(hidden))
                finals.append(last)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return x, tuple(torch.stack(state) for state in zip(*finals, strict=True))

    def trace(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
    ) -> Traced:
        raise NotImplementedError


def _unroll(
    cell: Cell,
    projected: Sequence[Tensor],
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    initial: tuple[Tensor, ...],
    reverse: bool,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """One direction of one layer.

    Args:
        cell: the equation of a step.
        projected: for each step the projected input of the rows that are alive, (rows, G·H), in the order of time.
        w_hh: (G·H, H); with a projection, (G·H, P).
        b_hh: (G·H,) or None.
        w_hr: the projection, (P, H), or None.
        initial: the initial states, each (B, H); with a projection the first is (B, P).
        reverse: whether to go from the last step to the first.

    Returns:
        The first state of each step in the order of time, and each row's states after its last step, shaped like the initial ones.
    """
    steps = projected[::-1] if reverse else projected
    alive = steps[0].shape[0]
    states = tuple(state[:alive] for state in initial)
    ended: list[tuple[Tensor, ...]] = []
    hidden: list[Tensor] = []
    for step in steps:
        rows = step.shape[0]
        if rows < alive:  # the shortest sequences have ended: put their states aside
            ended.append(tuple(state[rows:] for state in states))
            states = tuple(state[:rows] for state in states)
        elif rows > alive:  # going backwards, shorter sequences begin
            states = tuple(torch.cat((state, fresh[alive:rows])) for state, fresh in zip(states, initial, strict=True))
        alive = rows
        states = cell.step(cell.activate(step, linear(states[0], w_hh, b_hh)), states)
        if w_hr is not None:
            states = (linear(states[0], w_hr), *states[1:])
        hidden.append(states[0])
    if ended:
        states = tuple(torch.cat(parts) for parts in zip(states, *reversed(ended), strict=True))
    return hidden[::-1] if reverse else hidden, states
