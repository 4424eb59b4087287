"""How far a float32 run may be from a float64 run of the same numbers: derived, not chosen.

A sum of n products in any order, with or without fused multiply-adds, is off by at most gamma(n) times the sum of the products'
magnitudes, gamma(n) = n·u / (1 - n·u), u = 2^-24 (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. 2002,
section 3.1).
The rest is how an error that is already there passes on, step after step, in the forward and in the backward direction:

- through a matrix W: each element by |W| e, and no more than its row's 2-norm times the error's 2-norm; the vector's 2-norm by that of W.
  The first is sharp for one step, the second over many, since |W| grows where W does not; both hold, so the smaller is taken;
- through tanh and relu: by the largest slope in reach, which is at most 1; tanh adds its own error, at most ``TANH_ULPS`` units in the last
  place;
- through a product: |a b - A B| <= |A| e_b + |B| e_a + e_a e_b.

Everything is computed with the magnitudes of the actual run, so the bound is as small as the numbers allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from oracle import Array, Direction

U = 2.0**-24
TINY = 2.0**-149  # what underflow may lose
TANH_ULPS = 4.0


def gamma(n: int) -> float:
    """The relative error of n roundings."""
    return n * U / (1 - n * U)


@dataclass
class Approx:
    """Vectors in float64 along the last axis, and how far a float32 computation of them may be: for each element, and as a 2-norm."""

    value: Array  # (..., n)
    error: Array  # (..., n)
    norm: Array  # (...)

    @staticmethod
    def of(value: Array, error: Array) -> Approx:
        return Approx(value, error, np.linalg.norm(error, axis=-1))

    @staticmethod
    def exact(value: Array) -> Approx:
        return Approx.of(value, np.zeros_like(value))

    @property
    def reach(self) -> Array:
        """The largest magnitude that a computed element may have."""
        return np.abs(self.value) + self.error

    def through(self, w: Array) -> Approx:
        """``w @ value``, with no rounding of its own."""
        error = np.minimum(self.error @ np.abs(w).T, np.multiply.outer(self.norm, np.linalg.norm(w, axis=1)))
        norm = np.minimum(np.linalg.norm(w, 2) * self.norm, np.linalg.norm(error, axis=-1))
        return Approx(self.value @ w.T, error, norm)

    def plus(self, other: Approx) -> Approx:
        return Approx(self.value + other.value, self.error + other.error, self.norm + other.norm)

    def times(self, other: Approx) -> Approx:
        error = np.abs(self.value) * other.error + np.abs(other.value) * self.error + self.error * other.error
        return Approx.of(self.value * other.value, error)

    def rounded(self, by: Array) -> Approx:
        """The same with a rounding error of at most ``by`` for each element."""
        return Approx(self.value, self.error + by, self.norm + np.linalg.norm(by, axis=-1))


@dataclass
class Bounds:
    """For each result of ``oracle.run`` the largest error that float32 may have; same shapes."""

    output: Array
    h_n: Array
    d_x: Array
    d_h_0: Array
    d_layers: list[list[Direction]]


def run(
    nonlinearity: str, layers: list[list[Direction]], x: Array, h_0: Array, lengths: list[int], d_output: Array, d_h_n: Array
) -> Bounds:
    """The bounds for what ``oracle.run`` computes from the same arguments, all of them exact in float32."""
    bounds = Bounds(
        output=np.zeros(d_output.shape),
        h_n=np.zeros(h_0.shape),
        d_x=np.zeros(x.shape),
        d_h_0=np.zeros(h_0.shape),
        d_layers=[[direction.zeros() for direction in layer] for layer in layers],
    )
    terms = [[_Terms.like(direction) for direction in layer] for layer in layers]
    for row, length in enumerate(lengths):
        _run_sequence(nonlinearity, layers, x[:length, row], h_0[:, row], d_output[:length, row], d_h_n[:, row], row, bounds, terms)
    for layer_bounds, layer_terms in zip(bounds.d_layers, terms, strict=True):
        for direction, term in zip(layer_bounds, layer_terms, strict=True):
            term.finish(direction, gamma(sum(lengths) + 2))
    return bounds


@dataclass
class _Terms:
    """A parameter's gradient is a sum over steps and rows: its terms' errors, and their magnitudes, to which rounding is relative."""

    error: Direction
    magnitude: Direction

    @staticmethod
    def like(direction: Direction) -> _Terms:
        return _Terms(direction.zeros(), direction.zeros())

    def add(self, d_a: Approx, x: Approx, before: Approx) -> None:
        for name, other in (("w_ih", x), ("w_hh", before)):
            error = np.outer(np.abs(d_a.value), other.error) + np.outer(d_a.error, other.reach)
            getattr(self.error, name)[...] += error
            getattr(self.magnitude, name)[...] += np.outer(d_a.reach, other.reach)
        for name in ("b_ih", "b_hh"):
            getattr(self.error, name)[...] += d_a.error
            getattr(self.magnitude, name)[...] += d_a.reach

    def finish(self, bounds: Direction, rounding: float) -> None:
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            getattr(bounds, name)[...] = getattr(self.error, name) + rounding * getattr(self.magnitude, name) + TINY


def _run_sequence(
    nonlinearity: str,
    layers: list[list[Direction]],
    x: Array,
    h_0: Array,
    d_output: Array,
    d_h_n: Array,
    row: int,
    bounds: Bounds,
    terms: list[list[_Terms]],
) -> None:
    steps = len(x)
    inputs: list[list[Approx]] = [[Approx.exact(step) for step in x]]
    slopes: list[list[list[Approx]]] = []
    hidden: list[list[list[Approx]]] = []
    for index, layer in enumerate(layers):
        slopes.append([])
        hidden.append([])
        for d, weights in enumerate(layer):
            k = index * len(layer) + d
            h = Approx.exact(h_0[k])
            states, slope = [h] * steps, [h] * steps
            for t in _order(steps, d):
                a = _preactivation(weights, inputs[-1][t], h)
                h, slope[t] = _activate(nonlinearity, a)
                states[t] = h
            bounds.h_n[k, row] = h.error
            hidden[-1].append(states)
            slopes[-1].append(slope)
        inputs.append([_join([states[t] for states in hidden[-1]]) for t in range(steps)])
    bounds.output[:steps, row] = [step.error for step in inputs[-1]]

    d_out = [Approx.exact(step) for step in d_output]
    for index in reversed(range(len(layers))):
        d_in: list[Approx | None] = [None] * steps
        for d, weights in enumerate(layers[index]):
            k = index * len(layers[index]) + d
            size = len(weights.b_hh)
            own = slice(d * size, (d + 1) * size)
            d_h = Approx.exact(d_h_n[k])
            order = _order(steps, d)
            for position in reversed(range(steps)):
                t = order[position]
                before = hidden[index][d][order[position - 1]] if position else Approx.exact(h_0[k])
                arrived = d_h.plus(Approx.of(d_out[t].value[own], d_out[t].error[own]))
                arrived = arrived.rounded(U * arrived.reach)
                d_a = arrived.times(slopes[index][d][t])
                d_a = d_a.rounded(U * d_a.reach + TINY)
                terms[index][d].add(d_a, inputs[index][t], before)
                d_h = _transposed(weights.w_hh, d_a)
                passed = _transposed(weights.w_ih, d_a)
                other = d_in[t]
                if other is not None:
                    passed = passed.plus(other)
                    passed = passed.rounded(U * passed.reach)
                d_in[t] = passed
            bounds.d_h_0[k, row] = d_h.error
        d_out = [step for step in d_in if step is not None]
    bounds.d_x[:steps, row] = [step.error for step in d_out]


def _preactivation(weights: Direction, x: Approx, h: Approx) -> Approx:
    """``W_ih x + b_ih + W_hh h + b_hh``: I + H + 2 terms, summed in any order."""
    biases = Approx.exact(weights.b_ih + weights.b_hh)
    magnitudes = np.abs(weights.w_ih) @ x.reach + np.abs(weights.w_hh) @ h.reach + np.abs(weights.b_ih) + np.abs(weights.b_hh)
    n = len(x.value) + len(h.value) + 2
    return x.through(weights.w_ih).plus(h.through(weights.w_hh)).plus(biases).rounded(gamma(n) * magnitudes + TINY)


def _activate(nonlinearity: str, a: Approx) -> tuple[Approx, Approx]:
    """The activation and its derivative as backward computes it from the activation's value."""
    if nonlinearity == "relu":
        uncertain = np.abs(a.value) <= a.error  # the unit may be on or off
        slope = Approx.of((a.value > 0).astype(float), uncertain.astype(float))
        return _squeezed(np.maximum(a.value, 0.0), a, (a.value + a.error > 0).astype(float)), slope
    steepest = 1 - np.tanh(np.maximum(np.abs(a.value) - a.error, 0.0)) ** 2
    h = _squeezed(np.tanh(a.value), a, steepest)
    h = h.rounded(TANH_ULPS * 2 * U * h.reach + TANH_ULPS * TINY)
    square = h.times(h)
    # 1 - h² in two roundings of numbers up to 1.
    return h, Approx.of(1 - square.value, square.error + 2 * U * (1 + square.error))


def _squeezed(value: Array, a: Approx, slope: Array) -> Approx:
    """``value`` is a function of ``a`` whose slope is nowhere in reach above ``slope``, and that at most 1."""
    error = slope * a.error
    return Approx(value, error, np.minimum(a.norm, np.linalg.norm(error, axis=-1)))


def _transposed(w: Array, d_a: Approx) -> Approx:
    """``W^T d_a``: as many terms as d_a has elements."""
    return d_a.through(w.T).rounded(gamma(len(d_a.value)) * (d_a.reach @ np.abs(w)) + TINY)


def _join(parts: list[Approx]) -> Approx:
    return Approx(
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.error for part in parts]),
        np.sqrt(sum(part.norm**2 for part in parts)),
    )


def _order(steps: int, direction: int) -> list[int]:
    return list(range(steps)) if direction == 0 else list(range(steps - 1, -1, -1))
