"""Runs a stack over sequences: as a whole, or layer by layer if dropout applies between layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.backends import WHOLE, Spans, Stack, Traced, choose, registry
from elman.backends.savable import savable_call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


def run_unchecked(
    stack: Stack,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    dropout: float,
    batch_first: bool,
    step_inputs: tuple[Tensor, ...] = (),
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Run ``stack`` over whole sequences without checks, on a backend that checks every operand itself.

    Args:
        stack: what to run.
        x: as the caller gave it, with batch_first (B, T, I).
        states: one tensor for each of the cell's states; None for zeros.
        params: the flat list of parameters in torch's order.
        dropout: the probability with which an output of any layer but the last is zeroed; 0 outside training.
        batch_first: the layout of x and of the output.
        step_inputs: as ``Spans`` has them, but unchecked.

    Returns:
        The result of ``run``. None, with nothing done, if the arguments must first be checked and then run by ``run``.
    """
    if dropout and stack.num_layers > 1:
        return None
    for backend in registry.BACKENDS:
        done = backend.run_unchecked(stack, x, states, params, batch_first, step_inputs)
        if done is not None:
            return done
    return None


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

    Args:
        stack: what to run.
        x: (T, B, I) with any strides; packed, (N, I).
        states: one tensor for each of the cell's states, (L·D, B, H), or as wide as ``stack.state_sizes`` says; None for zeros.
        params: the flat list of parameters in torch's order.
        dropout: the probability with which an output of any layer but the last is zeroed, in training only.
        training: whether dropout acts.
        spans: which steps of each sequence are run.
        batch_first: a hint: x is a transposed view of a (B, T, I) tensor; the output should have the same layout.

    Returns:
        The outputs, (T, B, D·H) or packed (N, D·H), and the final states, shaped like ``states``. With a projection, P for H.
    """
    x, states, spans = savable_call(x, states, spans)
    if not (dropout and training and stack.num_layers > 1):
        return choose(stack, x, states, params, spans).run(stack, x, states, params, spans, batch_first)
    finals: list[tuple[Tensor, ...]] = []
    for index, (layer, operands) in enumerate(_layers(stack, states, params, spans)):
        x = _drop(x, dropout) if index else x
        # Only the first layer's input and the last layer's output may lie batch first: what is between them is ours.
        x, final = choose(layer, x, *operands).run(layer, x, *operands, batch_first and index == stack.num_layers - 1)
        finals.append(final)
    return x, _join(finals)


def trace(
    stack: Stack,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    *,
    dropout: float = 0.0,
    training: bool = False,
    spans: Spans = WHOLE,
) -> Traced:
    """Run ``stack`` over ``x``, which is not packed, and return all intermediate values: each layer's outputs are those before dropout."""
    x, states, spans = savable_call(x, states, spans)
    if not (dropout and training and stack.num_layers > 1):
        return choose(stack, x, states, params, spans).trace(stack, x, states, params, spans)
    parts: list[Traced] = []
    for layer, operands in _layers(stack, states, params, spans):
        x = _drop(parts[-1].hidden[0], dropout) if parts else x
        parts.append(choose(layer, x, *operands).trace(layer, x, *operands))
    return Traced(
        torch.cat([part.hidden for part in parts]),
        _join([part.finals for part in parts]),
        {name: torch.cat([part.states[name] for part in parts]) for name in parts[0].states},
        {name: torch.cat([part.gates[name] for part in parts]) for name in parts[0].gates},
    )


def _layers(
    stack: Stack, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], spans: Spans
) -> Iterator[tuple[Stack, tuple[tuple[Tensor, ...] | None, Sequence[Tensor], Spans]]]:
    """Each layer as a stack of its own, and what of the states, parameters and spans is its."""
    directions = stack.num_directions
    tensors = directions * stack.tensors_per_direction
    for index, layer in enumerate(stack.layers):
        own = slice(index * directions, (index + 1) * directions)
        yield (
            layer,
            (
                None if states is None else tuple(state[own] for state in states),
                params[index * tensors : (index + 1) * tensors],
                spans.replaced(
                    fresh=None if spans.fresh is None else tuple(state[own] for state in spans.fresh),
                    draws=None if spans.draws is None else tuple(draw[own] for draw in spans.draws),
                ),
            ),
        )


def _drop(x: Tensor, dropout: float) -> Tensor:
    """What dropout leaves. The mask is drawn over a contiguous time-major tensor, as torch.nn draws it: the same seed, the same mask."""
    return torch.dropout(x.contiguous(), dropout, True)


def _join(finals: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The layers' final states, above each other."""
    return tuple(torch.cat(state) for state in zip(*finals, strict=True))
