"""Runs a stack over sequences: as a whole, or layer by layer if dropout applies between layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.backends import Operands, Stack, Traced, choose, registry
from elman.backends.savable import savable_operands

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        states, params: as ``Operands`` has them.
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


def run_step_unchecked(stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """``run_unchecked`` for a single step: x and the states lack the axes that ``stack.left_out`` says. The final states, or None."""
    for backend in registry.BACKENDS:
        finals = backend.run_step_unchecked(stack, x, states, params)
        if finals is not None:
            return finals
    return None


def run(
    stack: Stack, operands: Operands, *, dropout: float = 0.0, training: bool = False, batch_first: bool = False
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run ``stack``, on the first backend that takes the call.

    Args:
        stack: what to run.
        operands: what to run it on.
        dropout: the probability with which an output of any layer but the last is zeroed, in training only.
        training: whether dropout acts.
        batch_first: a hint: x is a transposed view of a (B, T, I) tensor; the output should have the same layout.

    Returns:
        The outputs, (T, B, D·H) or packed (N, D·H), and the final states, shaped like ``states``. With a projection, P for H.
    """
    operands = savable_operands(operands)
    if not (dropout and training and stack.num_layers > 1):
        return choose(stack, operands).run(stack, operands, batch_first)
    x, finals = operands.x, []
    for index, layer in enumerate(stack.layers):
        own = operands.of_layer(stack, index, _drop(x, dropout) if index else x)
        # Only the first layer's input and the last layer's output may lie batch first: what is between them is ours.
        x, final = choose(layer, own).run(layer, own, batch_first and index == stack.num_layers - 1)
        finals.append(final)
    return x, _join(finals)


def trace(stack: Stack, operands: Operands, *, dropout: float = 0.0, training: bool = False) -> Traced:
    """Run ``stack`` over x, which is not packed, and return all intermediate values: each layer's outputs are those before dropout."""
    operands = savable_operands(operands)
    if not (dropout and training and stack.num_layers > 1):
        return choose(stack, operands).trace(stack, operands)
    parts: list[Traced] = []
    for index, layer in enumerate(stack.layers):
        own = operands.of_layer(stack, index, _drop(parts[-1].hidden[0], dropout) if parts else operands.x)
        parts.append(choose(layer, own).trace(layer, own))
    return Traced(
        torch.cat([part.hidden for part in parts]),
        _join([part.finals for part in parts]),
        {name: torch.cat([part.states[name] for part in parts]) for name in parts[0].states},
        {name: torch.cat([part.gates[name] for part in parts]) for name in parts[0].gates},
    )


def _drop(x: Tensor, dropout: float) -> Tensor:
    """What dropout leaves. The mask is drawn over a contiguous time-major tensor, as torch.nn draws it: the same seed, the same mask."""
    return torch.dropout(x.contiguous(), dropout, True)


def _join(finals: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The layers' final states, above each other."""
    return tuple(torch.cat(state) for state in zip(*finals, strict=True))
