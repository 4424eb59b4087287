"""Runs a cell without Elman: a Python loop over its step, in torch's operators.

The input is projected in one product before the loop, and each gate's recurrent rows are multiplied once a step, those that the step takes
as r.gate in one product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from elman.cells import Cell


class _Named:
    """Values by name."""

    def __init__(self, names: Sequence[str], values: Sequence[Any]) -> None:
        for name, value in zip(names, values, strict=True):
            setattr(self, name, value)


class _Recurrent(_Named):
    """The recurrent parts: by name those of h, called with a gate and a vector the others."""

    def __init__(self, names: Sequence[str], values: Sequence[Any], others: Mapping[str, tuple[Any, Any]]) -> None:
        super().__init__(names, values)
        self._others = others

    def __call__(self, gate: str, v: Any) -> Any:
        return linear(v, *self._others[gate])


class _Zeros:
    """Recurrent parts for a trial step, which record the gates that are multiplied with a vector other than h."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Tensor:
        return torch.zeros(self._shape)

    def __call__(self, gate: str, v: Tensor) -> Tensor:
        self.called.append(gate)
        return torch.zeros(self._shape)


def no_draws(cell: Cell) -> tuple[None, ...]:
    """What a step gets instead of random numbers in evaluation."""
    return (None,) if cell.draws else ()


def gates_of_other_vectors(cell: Cell) -> tuple[str, ...]:
    """The gates whose recurrent rows a cell multiplies with a vector other than h."""
    recurrent = _Zeros(1, 1)
    cell.step(_Zeros(1, 1), recurrent, _Zeros(1, 1), _Zeros(1), *no_draws(cell))
    return tuple(recurrent.called)


class LoopedStep:
    """A step of a cell with its weights.

    Args:
        cell: the equation.
        others: its ``gates_of_other_vectors``.
        weights: its parameters by kind; tensors, or what stands for them.
    """

    def __init__(self, cell: Cell, others: tuple[str, ...], weights: Mapping[str, Any]) -> None:
        self._cell = cell
        gates = cell.recurrent_gates
        self._gates = tuple([gate for gate in gates if gate not in others])
        self._own = _Named(tuple(cell.parameters), [weights[name] for name in cell.parameters])
        self._of_h = self._of_others = None
        if gates:
            matrices, biases = (weights[kind].chunk(len(gates)) for kind in ("weight_hh", "bias_hh"))
            rows = dict(zip(gates, zip(matrices, biases, strict=True), strict=True))
            self._of_others = {gate: rows[gate] for gate in others}
            if self._gates:
                matrices, biases = zip(*[rows[gate] for gate in self._gates], strict=True)
                self._of_h = (torch.cat(matrices), torch.cat(biases)) if others else (weights["weight_hh"], weights["bias_hh"])

    def __call__(self, projected: Any, states: tuple[Any, ...], step_inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The states after the step. ``step_inputs``: (B, 1) or (B, H) each, in the order in which the cell declares them."""
        cell = self._cell
        parts = () if projected is None else projected.chunk(len(cell.input_gates), -1)
        recurrent = () if self._of_h is None else linear(states[0], *self._of_h).chunk(len(self._gates), -1)
        after = cell.step(
            _Named((*cell.input_gates, *cell.step_inputs), (*parts, *step_inputs)),
            _Recurrent(self._gates if recurrent else (), recurrent, self._of_others or {}),
            _Named(cell.states, states),
            self._own,
            *no_draws(cell),
        )
        return after if isinstance(after, tuple) else (after,)


def loop(
    cell: Cell,
    others: tuple[str, ...],
    weights: Mapping[str, Tensor],
    hidden_size: int,
    x: Tensor,
    step_inputs: Sequence[Tensor],
    take: Callable[..., tuple[Tensor, ...]] = LoopedStep.__call__,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs of a layer, (T, B, H), and its final states.

    Args:
        cell: the equation.
        others: its ``gates_of_other_vectors``.
        weights: its parameters by kind.
        hidden_size: H.
        x: (T, B, I).
        step_inputs: (T, B, 1) or (T, B, H) each.
        take: takes a ``LoopedStep`` and its arguments, as its call does.
    """
    step, outputs = LoopedStep(cell, others, weights), []
    projected = linear(x, weights["weight_ih"], weights["bias_ih"]) if cell.input_gates else [None] * x.shape[0]
    states = (x.new_zeros(x.shape[1], hidden_size),) * len(cell.states)
    for t in range(x.shape[0]):
        states = take(step, projected[t], states, [each[t] for each in step_inputs])
        outputs.append(states[0])
    return torch.stack(outputs), states
