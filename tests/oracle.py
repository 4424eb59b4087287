"""A third implementation, so that the kernels cannot share the library's bugs: one sequence at a time, one step at a time, in NumPy.

Forward and the gradients by hand (backpropagation through time), in float64. Written from the equation

    h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

and from nothing else: neither torch nor elman is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Direction:
    """The parameters of one direction of one layer; or their gradients."""

    w_ih: Array  # (H, I)
    w_hh: Array  # (H, H)
    b_ih: Array  # (H,)
    b_hh: Array  # (H,)

    def zeros(self) -> Direction:
        return Direction(*(np.zeros_like(array) for array in (self.w_ih, self.w_hh, self.b_ih, self.b_hh)))


@dataclass
class Result:
    """What a batch gives, and the gradients of ``sum(output * d_output) + sum(h_n * d_h_n)``."""

    output: Array  # (T, B, D·H), zero past each sequence's length
    h_n: Array  # (L·D, B, H)
    d_x: Array  # (T, B, I)
    d_h_0: Array  # (L·D, B, H)
    d_layers: list[list[Direction]]


def run(
    nonlinearity: str, layers: list[list[Direction]], x: Array, h_0: Array, lengths: list[int], d_output: Array, d_h_n: Array
) -> Result:
    """Run every sequence of a padded batch on its own, forward and backward.

    Args:
        nonlinearity: "tanh" or "relu".
        layers: for each layer its one or two directions.
        x: (T, B, I), anything past a sequence's length.
        h_0: (L·D, B, H).
        lengths: for each sequence its number of steps.
        d_output: (T, B, D·H), the gradient that arrives at the output.
        d_h_n: (L·D, B, H), the gradient that arrives at the final states.
    """
    result = Result(
        output=np.zeros(d_output.shape),
        h_n=np.zeros(h_0.shape),
        d_x=np.zeros(x.shape),
        d_h_0=np.zeros(h_0.shape),
        d_layers=[[direction.zeros() for direction in layer] for layer in layers],
    )
    for row, length in enumerate(lengths):
        _run_sequence(nonlinearity, layers, x[:length, row], h_0[:, row], d_output[:length, row], d_h_n[:, row], row, result)
    return result


def _run_sequence(
    nonlinearity: str, layers: list[list[Direction]], x: Array, h_0: Array, d_output: Array, d_h_n: Array, row: int, result: Result
) -> None:
    """One sequence through all layers; its results go to ``row`` of ``result``, its parameters' gradients are added there."""
    inputs = [x]  # the input of each layer, and at the end the output
    for index, layer in enumerate(layers):
        hidden = []
        for d, weights in enumerate(layer):
            k = index * len(layer) + d
            h = h_0[k]
            states = np.zeros((len(x), len(h)))
            for t in _order(len(x), d):
                h = _activate(nonlinearity, weights.w_ih @ inputs[-1][t] + weights.b_ih + weights.w_hh @ h + weights.b_hh)
                states[t] = h
            result.h_n[k, row] = h
            hidden.append(states)
        inputs.append(np.concatenate(hidden, axis=1))
    result.output[: len(x), row] = inputs[-1]

    d_out = d_output
    for index in reversed(range(len(layers))):
        d_in = np.zeros_like(inputs[index])
        for d, weights in enumerate(layers[index]):
            k = index * len(layers[index]) + d
            size = len(weights.b_hh)
            own = slice(d * size, (d + 1) * size)
            gradient = result.d_layers[index][d]
            d_h = d_h_n[k]
            order = _order(len(x), d)
            for position in reversed(range(len(order))):
                t = order[position]
                h = inputs[index + 1][t, own]
                before = inputs[index + 1][order[position - 1], own] if position else h_0[k]
                d_a = (d_h + d_out[t, own]) * _slope(nonlinearity, h)
                gradient.w_ih += np.outer(d_a, inputs[index][t])
                gradient.w_hh += np.outer(d_a, before)
                gradient.b_ih += d_a
                gradient.b_hh += d_a
                d_in[t] += d_a @ weights.w_ih
                d_h = d_a @ weights.w_hh
            result.d_h_0[k, row] = d_h
        d_out = d_in
    result.d_x[: len(x), row] = d_out


def _order(steps: int, direction: int) -> list[int]:
    """The order in which a direction visits the steps."""
    return list(range(steps)) if direction == 0 else list(range(steps - 1, -1, -1))


def _activate(nonlinearity: str, a: Array) -> Array:
    return np.tanh(a) if nonlinearity == "tanh" else np.where(a > 0, a, 0.0)


def _slope(nonlinearity: str, h: Array) -> Array:
    """The activation's derivative, from its value."""
    return 1.0 - h * h if nonlinearity == "tanh" else np.where(h > 0, 1.0, 0.0)
