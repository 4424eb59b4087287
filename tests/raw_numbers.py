"""What a raw call of the kernels must leave in memory, and how far from it rounding may lead. NumPy in float64, for test_fuzz.

Unlike ``oracle`` it takes the operands of the very call: the backward pass starts from whatever lies in ``output`` and ``hidden``. A
gradient is then a polynomial of what it is computed from, and the same polynomial of the magnitudes bounds its rounding: k roundings on
the longest way from an operand to the result err by at most gamma(k) times that (N. J. Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd ed. 2002, section 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bounds import TANH_ULPS
from raw import WEIGHTS

if TYPE_CHECKING:
    from raw import Call

Values = dict[str, np.ndarray]

TINY = {0: 2.0**-149, 1: 2.0**-1074}  # what an underflow may lose
U = {0: 2.0**-24, 1: 2.0**-53}


def gamma(n: int, u: float) -> float:
    """The relative error of n roundings of relative size u."""
    return n * u / (1 - n * u)


def activation(call: Call, values: Values) -> tuple[Values, Values]:
    """The expected values by operand, and the errors allowed."""
    expected = _activate(call, values.get("source", np.empty(0)))
    return {"target": expected}, {"target": _activation_error(call, expected)}


def forward(call: Call, values: Values, alive: list[int]) -> tuple[Values, Values]:
    """The same for a network; ``alive`` counts the rows of each step. Sequences come and go as (rows, columns)."""
    B, H, L, D, u = call["B"], call["H"], call["L"], call["D"], U[call["number"]]
    first = np.concatenate(([0], np.cumsum(alive)))
    layer, error = values["x"], np.zeros_like(values["x"])
    initial = values.get("initial", np.zeros(L * D * B * H)).reshape(L * D, B, H)
    final, final_error = np.zeros((2, L * D, B, H))
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for index in range(L):
        out, out_error = np.zeros((2, first[-1], D * H))
        for d in range(D):
            w_ih, w_hh, b_ih, b_hh = _weights(values, index * D + d, H)
            n = layer.shape[1] + H + 3
            h, e = initial[index * D + d].copy(), np.zeros((B, H))
            for t in _order(len(alive), d):
                rows, live = slice(first[t], first[t + 1]), slice(alive[t])
                x, e_x = layer[rows], error[rows]
                a = x @ w_ih.T + h[live] @ w_hh.T + b_ih + b_hh
                passed = e_x @ np.abs(w_ih).T + e[live] @ np.abs(w_hh).T
                magnitude = np.abs(x) @ np.abs(w_ih).T + np.abs(h[live]) @ np.abs(w_hh).T + np.abs(b_ih) + np.abs(b_hh) + passed
                h[live] = _activate(call, a)
                e[live] = passed + gamma(n, u) * magnitude + n * TINY[call["number"]]
                e[live] += _activation_error(call, h[live])
                out[rows, d * H : (d + 1) * H], out_error[rows, d * H : (d + 1) * H] = h[live], e[live]
            final[index * D + d], final_error[index * D + d] = h, e
        layer, error = out, out_error
        kept.append((out, out_error))
    hidden, hidden_error = (np.concatenate([np.empty(0), *(pair[i].ravel() for pair in kept[:-1])]) for i in (0, 1))
    return (
        {"output": layer, "final": final.ravel(), "hidden": hidden},
        {"output": error, "final": final_error.ravel(), "hidden": hidden_error},
    )


def backward(call: Call, values: Values, alive: list[int]) -> tuple[Values, Values]:
    expected, magnitude = _backward(call, values, alive, False), _backward(call, values, alive, True)
    T, I, H, L, D = (call[name] for name in ("T", "I", "H", "L", "D"))  # noqa: E741
    roundings = L * (T * (H + 6) + D * (H + I) + sum(alive) + 8)
    bound, tiny = gamma(roundings, U[call["number"]]), roundings * TINY[call["number"]]
    return expected, {name: bound * value + tiny for name, value in magnitude.items()}


def _backward(call: Call, values: Values, alive: list[int], magnitudes: bool) -> Values:
    """The gradients; or the same polynomial with every number and every sign made positive."""
    B, H, L, D = call["B"], call["H"], call["L"], call["D"]
    number = np.abs if magnitudes else lambda array: array
    first, width = np.concatenate(([0], np.cumsum(alive))), D * H
    initial = values.get("initial", np.zeros(L * D * B * H)).reshape(L * D, B, H)
    d_final = number(values.get("d_final", np.zeros(L * D * B * H))).reshape(L * D, B, H)
    hidden = values.get("hidden", np.empty(0)).reshape(L - 1, first[-1], width)
    layers = [values["x"], *hidden, values["output"]]
    d_out = number(values.get("d_output", np.zeros((first[-1], width))))
    result, d_initial = {}, np.zeros((L * D, B, H))
    for index in reversed(range(L)):
        x, h = layers[index], layers[index + 1]
        d_in = np.zeros(x.shape)
        for d in range(D):
            k, own = index * D + d, slice(d * H, (d + 1) * H)
            w_ih, w_hh, _, _ = _weights(values, k, H)
            w_ih, w_hh = number(w_ih), number(w_hh)
            gradients = [np.zeros(w_ih.shape), np.zeros(w_hh.shape), np.zeros(H)]
            before = np.zeros((first[-1], H))
            state = initial[k].copy()
            for t in _order(len(alive), d):
                before[first[t] : first[t + 1]] = state[: alive[t]]
                state[: alive[t]] = h[first[t] : first[t + 1], own]
            d_h = d_final[k].copy()
            for t in reversed(_order(len(alive), d)):
                rows, live = slice(first[t], first[t + 1]), slice(alive[t])
                d_a = (d_h[live] + d_out[rows, own]) * _slope(call, h[rows, own], magnitudes)
                gradients[0] += d_a.T @ number(x[rows])
                gradients[1] += d_a.T @ number(before[rows])
                gradients[2] += d_a.sum(0)
                d_in[rows] += d_a @ w_ih
                d_h[live] = d_a @ w_hh
            d_initial[k] = d_h
            result |= {f"d {name} {k}": value for name, value in zip(WEIGHTS, (*gradients, gradients[2]), strict=True)}
        d_out = d_in
    return result | {"d_x": d_out, "d_initial": d_initial.ravel()}


def _weights(values: Values, k: int, H: int) -> tuple[np.ndarray, ...]:
    columns = 0 if f"w_ih {k}" not in values else values[f"w_ih {k}"].shape[1]
    shapes = ((H, columns), (H, H), (H,), (H,))
    return tuple(values.get(f"{name} {k}", np.zeros(shape)) for name, shape in zip(WEIGHTS, shapes, strict=True))


def _order(steps: int, direction: int) -> list[int]:
    return list(range(steps)) if direction == 0 else list(range(steps - 1, -1, -1))


def _activate(call: Call, a: np.ndarray) -> np.ndarray:
    return np.tanh(a) if call["cell"] == 0 else np.maximum(a, 0.0)


def _activation_error(call: Call, h: np.ndarray) -> np.ndarray:
    return (TANH_ULPS * 2 * U[call["number"]] * np.abs(h) + TANH_ULPS * TINY[call["number"]]) * (call["cell"] == 0)


def _slope(call: Call, h: np.ndarray, magnitudes: bool) -> np.ndarray:
    if call["cell"] == 1:
        return np.where(h > 0, 1.0, 0.0)
    return 1 + h * h if magnitudes else 1 - h * h
