"""Runs a stack over sequences: whole where a backend can take it whole, cut where dropout acts between layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.backends import WHOLE, Spans, Stack, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def run(
    stack: Stack,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    *,
    dropout: float = 0.0,
    training: bool = False,
    spans: Spans = WHOLE,
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run ``stack`` over ``x``, on the first backend that takes the call.

    The arguments have been checked by ``layers``.

    Args:
        stack: what to run.
        x: (T, B, I) with any strides; packed, (N, I).
        states: one tensor for each of the cell's states, (L·D, B, H), or as wide as ``stack.state_sizes`` says; None for zeros.
        params: the flat list of parameters in torch's order.
        dropout: the probability with which an output of any layer but the last is zeroed, in training only.
        training: whether dropout acts.
        spans: which steps of each row are run.
        batch_first: a hint: x is a transposed view of a (B, T, I) tensor, and the output is best laid out likewise.

    Returns:
        The outputs, (T, B, D·H) or packed (N, D·H), and the final states, shaped like ``states``. With a projection, P for H.
    """
    if dropout and training and stack.num_layers > 1:
        return _run_with_dropout(stack, x, states, params, dropout, spans, batch_first)
    return choose(stack, x, states, params, spans).run(stack, x, states, params, spans, batch_first)


def _run_with_dropout(
    stack: Stack,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    dropout: float,
    spans: Spans,
    batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    directions = stack.num_directions
    tensors = directions * stack.tensors_per_direction
    finals: list[tuple[Tensor, ...]] = []
    for index, layer in enumerate(stack.layers):
        if index:
            # The mask is drawn over a contiguous time-major tensor, as torch.nn draws it: the same seed gives the same mask.
            x = torch.dropout(x.contiguous(), dropout, True)
        layer_states = None if states is None else tuple(state[index * directions : (index + 1) * directions] for state in states)
        layer_params = params[index * tensors : (index + 1) * tensors]
        backend = choose(layer, x, layer_states, layer_params, spans)
        # Only the first layer's input and the last layer's output may lie batch first: what is between them is ours.
        x, final = backend.run(layer, x, layer_states, layer_params, spans, batch_first and index == stack.num_layers - 1)
        finals.append(final)
    return x, tuple(torch.cat(state) for state in zip(*finals, strict=True))
