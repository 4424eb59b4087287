"""A third implementation, so that the kernels cannot share the library's bugs: one sequence at a time, one step at a time, in NumPy.

Forward and the gradients by hand (backpropagation through time), in float64. Written from the equations, with a = W_ih x + b_ih and
q = W_hh h + b_hh, a row of each for every gate, s being the logistic function,

    Elman   h' = f(a + q), f being tanh or relu
    GRU     r = s(a_r + q_r), z = s(a_z + q_z), n = tanh(a_n + r q_n), h' = (1 - z) n + z h
    LSTM    i = s(a_i + q_i), f = s(a_f + q_f), g = tanh(a_g + q_g), o = s(a_o + q_o), c' = f c + i g, h' = o tanh(c')

with a projection h' = W_hr (o tanh(c')) instead, and from nothing else: neither torch nor elman is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
States = tuple[Array, ...]

NOTHING = np.zeros(())  # a gradient of zeros, of any width


@dataclass
class Direction:
    """The parameters of one direction of one layer; or their gradients. P is H where nothing is projected."""

    w_ih: Array  # (G·H, I)
    w_hh: Array  # (G·H, P)
    b_ih: Array  # (G·H,)
    b_hh: Array  # (G·H,)
    w_hr: Array | None = None  # (P, H)

    @property
    def names(self) -> tuple[str, ...]:
        """What there is, in torch's order."""
        return ("w_ih", "w_hh", "b_ih", "b_hh") + (() if self.w_hr is None else ("w_hr",))

    def zeros(self) -> Direction:
        return Direction(*(np.zeros_like(getattr(self, name)) for name in self.names))


@dataclass
class Result:
    """What a batch gives, and the gradients of ``sum(output * d_output)`` plus ``sum(final * d_final)`` for each final state."""

    output: Array  # (T, B, D·P), zero past each sequence's length
    finals: States  # h: (L·D, B, P), c: (L·D, B, H)
    grad_x: Array  # (T, B, I)
    grad_initial: States  # as finals
    grad_layers: list[list[Direction]]


class Cell(ABC):
    """One step and its gradient, of one sequence. The first of the states is the output, before it is projected."""

    @abstractmethod
    def forward(self, a: Array, q: Array, before: States) -> tuple[States, Any]:
        """The states after the step, and what ``backward`` needs."""

    @abstractmethod
    def backward(self, saved: Any, grad_after: States) -> tuple[Array, Array, States]:
        """The gradients of a, of q, and of the states before the step, less what reaches h through q."""


class Elman(Cell):
    def __init__(self, nonlinearity: str) -> None:
        self.nonlinearity = nonlinearity

    def forward(self, a: Array, q: Array, before: States) -> tuple[States, Any]:
        h = np.tanh(a + q) if self.nonlinearity == "tanh" else np.where(a + q > 0, a + q, 0.0)
        return (h,), h

    def backward(self, saved: Any, grad_after: States) -> tuple[Array, Array, States]:
        h = saved
        d = grad_after[0] * (1.0 - h * h if self.nonlinearity == "tanh" else np.where(h > 0, 1.0, 0.0))
        return d, d, (NOTHING,)


class Gru(Cell):
    def forward(self, a: Array, q: Array, before: States) -> tuple[States, Any]:
        (h,) = before
        (a_r, a_z, a_n), (q_r, q_z, q_n) = np.split(a, 3), np.split(q, 3)
        r, z = sigmoid(a_r + q_r), sigmoid(a_z + q_z)
        n = np.tanh(a_n + r * q_n)
        return ((1 - z) * n + z * h,), (r, z, n, q_n, h)

    def backward(self, saved: Any, grad_after: States) -> tuple[Array, Array, States]:
        r, z, n, q_n, h = saved
        (d_h,) = grad_after
        d_n = d_h * (1 - z) * (1 - n * n)
        d_z = d_h * (h - n) * z * (1 - z)
        d_r = d_n * q_n * r * (1 - r)
        return np.concatenate((d_r, d_z, d_n)), np.concatenate((d_r, d_z, d_n * r)), (d_h * z,)


class Lstm(Cell):
    def forward(self, a: Array, q: Array, before: States) -> tuple[States, Any]:
        _, c = before
        a_i, a_f, a_g, a_o = np.split(a + q, 4)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        after = f * c + i * g
        return (o * np.tanh(after), after), (i, f, g, o, c, np.tanh(after))

    def backward(self, saved: Any, grad_after: States) -> tuple[Array, Array, States]:
        i, f, g, o, c, shown = saved
        d_h, d_c = grad_after
        d_c = d_c + d_h * o * (1 - shown * shown)
        d = np.concatenate((d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g), d_h * shown * o * (1 - o)))
        return d, d, (NOTHING, d_c * f)


CELLS: dict[str, Cell] = {"rnn_tanh": Elman("tanh"), "rnn_relu": Elman("relu"), "gru": Gru(), "lstm": Lstm()}


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def run(
    cell: str, layers: list[list[Direction]], x: Array, initial: States, lengths: list[int], grad_output: Array, grad_finals: States
) -> Result:
    """Run every sequence of a padded batch on its own, forward and backward.

    Args:
        cell: one of ``CELLS``.
        layers: for each layer its one or two directions.
        x: (T, B, I), anything past a sequence's length.
        initial: for each state (L·D, B, its width).
        lengths: for each sequence its number of steps.
        d_output: (T, B, D·P), the gradient that arrives at the output.
        d_finals: for each state (L·D, B, its width), the gradient that arrives at the final ones.
    """
    result = Result(
        output=np.zeros(grad_output.shape),
        finals=tuple(np.zeros(state.shape) for state in initial),
        grad_x=np.zeros(x.shape),
        grad_initial=tuple(np.zeros(state.shape) for state in initial),
        grad_layers=[[direction.zeros() for direction in layer] for layer in layers],
    )
    for b, length in enumerate(lengths):
        grads = grad_output[:length, b], tuple(state[:, b] for state in grad_finals)
        _run_sequence(CELLS[cell], layers, x[:length, b], tuple(state[:, b] for state in initial), *grads, b, result)
    return result


def _run_sequence(
    cell: Cell, layers: list[list[Direction]], x: Array, initial: States, grad_output: Array, grad_finals: States, b: int, result: Result
) -> None:
    """One sequence through all layers; its results go to ``b`` of ``result``, its parameters' gradients are added there."""
    inputs = [x]  # the input of each layer, and at the end the output
    saved: list[list[dict[int, Any]]] = []  # for each layer, direction and step
    unprojected: list[list[dict[int, Array]]] = []
    for index, layer in enumerate(layers):
        hidden = []
        saved.append([{} for _ in layer])
        unprojected.append([{} for _ in layer])
        for d, weights in enumerate(layer):
            k = index * len(layer) + d
            states = tuple(state[k] for state in initial)
            outputs = np.zeros((len(x), len(states[0])))
            for t in order(len(x), d):
                a = weights.w_ih @ inputs[-1][t] + weights.b_ih
                q = weights.w_hh @ states[0] + weights.b_hh
                states, saved[-1][d][t] = cell.forward(a, q, states)
                if weights.w_hr is not None:
                    unprojected[-1][d][t] = states[0]
                    states = (weights.w_hr @ states[0], *states[1:])
                outputs[t] = states[0]
            for final, state in zip(result.finals, states, strict=True):
                final[k, b] = state
            hidden.append(outputs)
        inputs.append(np.concatenate(hidden, axis=1))
    result.output[: len(x), b] = inputs[-1]

    grad_out = grad_output
    for index in reversed(range(len(layers))):
        grad_in = np.zeros_like(inputs[index])
        for d, weights in enumerate(layers[index]):
            k = index * len(layers[index]) + d
            width = weights.w_hh.shape[1]
            own = slice(d * width, (d + 1) * width)
            gradient = result.grad_layers[index][d]
            grad_states = tuple(state[k] for state in grad_finals)
            steps = order(len(x), d)
            for position in reversed(range(len(steps))):
                t = steps[position]
                before = inputs[index + 1][steps[position - 1], own] if position else initial[0][k]
                d_h, *others = grad_states
                d_h = d_h + grad_out[t, own]
                if weights.w_hr is not None:
                    gradient.w_hr += np.outer(d_h, unprojected[index][d][t])
                    d_h = d_h @ weights.w_hr
                d_a, d_q, direct = cell.backward(saved[index][d][t], (d_h, *others))
                gradient.w_ih += np.outer(d_a, inputs[index][t])
                gradient.w_hh += np.outer(d_q, before)
                gradient.b_ih += d_a
                gradient.b_hh += d_q
                grad_in[t] += d_a @ weights.w_ih
                through = d_q @ weights.w_hh
                grad_states = (direct[0] + through, *direct[1:])
            for grad_state, state in zip(result.grad_initial, grad_states, strict=True):
                grad_state[k, b] = state
        grad_out = grad_in
    result.grad_x[: len(x), b] = grad_out


def order(steps: int, direction: int) -> list[int]:
    """The order in which a direction visits the steps."""
    return list(range(steps)) if direction == 0 else list(range(steps - 1, -1, -1))
