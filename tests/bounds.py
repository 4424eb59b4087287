"""How far a float32 run may be from a float64 run of the same numbers: derived, not chosen.

A sum of n products in any order, with or without fused multiply-adds, is off by at most gamma(n) times the sum of the products'
magnitudes, gamma(n) = n·u / (1 - n·u), u = 2^-24 (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. 2002,
section 3.1).
The rest is how an error that is already there passes on, step after step, in the forward and in the backward direction:

- through a matrix W: each element by |W| e, and no more than its row's 2-norm times the error's 2-norm; the vector's 2-norm by that of W.
  The first is sharp for one step, the second over many, since |W| grows where W does not; both hold, so the smaller is taken;
- through an activation: by the largest slope in reach, which is at most 1; tanh and sigmoid add their own error, at most ``TANH_ULPS`` and
  ``SIGMOID_ULPS`` units in the last place;
- through a product: |a b - A B| <= |A| e_b + |B| e_a + e_a e_b; k factors in any order add gamma(k - 1) of the product.

Where an equation is written in more than one way (GRU's h' = (1 - z) n + z h = n + z (h - n), and the gradients that follow from each) the
bound holds for all of them.

Everything is computed with the magnitudes of the actual run, so the bound is as small as the numbers allow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oracle import order

if TYPE_CHECKING:
    from oracle import Array, Direction, States

U = 2.0**-24
TINY = 2.0**-149  # what underflow may lose
TANH_ULPS = 4.0
SIGMOID_ULPS = 4.0


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

    def minus(self, other: Approx) -> Approx:
        return Approx(self.value - other.value, self.error + other.error, self.norm + other.norm)

    def times(self, other: Approx) -> Approx:
        error = np.abs(self.value) * other.error + np.abs(other.value) * self.error + self.error * other.error
        return Approx.of(self.value * other.value, error)

    def rounded(self, by: Array) -> Approx:
        """The same with a rounding error of at most ``by`` for each element."""
        return Approx(self.value, self.error + by, self.norm + np.linalg.norm(by, axis=-1))


@dataclass
class Sum:
    """Terms, of which some are products, to be added in any order: what they come to but for rounding, and what rounding is relative to."""

    value: Approx
    magnitude: Array  # the sum of the terms' magnitudes
    terms: int

    @staticmethod
    def of(term: Approx) -> Sum:
        return Sum(term, term.reach, 1)

    @staticmethod
    def product(w: Array, x: Approx) -> Sum:
        """``w @ x``."""
        return Sum(x.through(w), x.reach @ np.abs(w).T, len(x.value))

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.value.plus(other.value), self.magnitude + other.magnitude, self.terms + other.terms)

    def rounded(self) -> Approx:
        return self.value.rounded(gamma(self.terms) * self.magnitude + self.terms * TINY)


def product(*factors: Approx) -> Approx:
    """The product of vectors, element by element, multiplied in any order."""
    result = factors[0]
    for factor in factors[1:]:
        result = result.times(factor)
    roundings = len(factors) - 1
    return result.rounded(gamma(roundings) * result.reach + roundings * TINY)


class Cell(ABC):
    """One step and its gradient, as ``oracle.Cell``, of approximate vectors; a and q come as a sum for each gate, before rounding."""

    gates: int

    @abstractmethod
    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], Any]: ...

    @abstractmethod
    def backward(self, kept: Any, d_after: tuple[Sum, ...]) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]: ...


class Elman(Cell):
    gates = 1

    def __init__(self, nonlinearity: str) -> None:
        self.activate = {"tanh": _tanh, "relu": _relu}[nonlinearity]

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], Any]:
        h, slope = self.activate((a[0] + q[0]).rounded())
        return (h,), slope

    def backward(self, kept: Any, d_after: tuple[Sum, ...]) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        d = product(d_after[0].rounded(), kept)
        return [d], [d], (None,)


class Gru(Cell):
    gates = 3

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], Any]:
        (h,) = before
        (r, r_slope), (z, z_slope) = _sigmoid((a[0] + q[0]).rounded()), _sigmoid((a[1] + q[1]).rounded())
        q_n = q[2].rounded()
        n, n_slope = _tanh((a[2] + Sum.of(product(r, q_n))).rounded())
        # The error of (1 - z) n + z h is dz (h - n) + (1 - z) dn + z dh + dz (dh - dn), and rounding adds, in the one way of writing it,
        # 2u (1 - z) |n| + u z |h| + u |h'|, in the other 2u z |h - n| + u |h'|; both are below 3u (|n| + z |h|).
        value = (1 - z.value) * n.value + z.value * h.value
        error = z.error * np.abs(h.value - n.value) + (1 - z.value) * n.error + z.value * h.error + z.error * (h.error + n.error)
        after = Approx.of(value, error).rounded(gamma(3) * (n.reach + z.reach * h.reach) + 3 * TINY)
        return (after,), (r, r_slope, z, z_slope, n, n_slope, q_n, h)

    def backward(self, kept: Any, d_after: tuple[Sum, ...]) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        r, r_slope, z, z_slope, n, n_slope, q_n, h = kept
        d_h = d_after[0].rounded()
        # d_h (1 - z) may be d_h - d_h z, and d_h (h - n) may be d_h h - d_h n: rounding is relative to the terms then.
        rest = Approx(1 - z.value, z.error, z.norm).rounded(np.full_like(z.value, 2 * U))
        step = h.minus(n).rounded(gamma(2) * (h.reach + n.reach))
        d_n = product(d_h, rest, n_slope)
        d_z = product(d_h, step, z_slope)
        d_r = product(d_n, q_n, r_slope)
        return [d_r, d_z, d_n], [d_r, d_z, product(d_n, r)], (Sum.of(product(d_h, z)),)


class Lstm(Cell):
    gates = 4

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], Any]:
        _, c = before
        a_i, a_f, a_g, a_o = ((from_x + from_h).rounded() for from_x, from_h in zip(a, q, strict=True))
        (i, i_slope), (f, f_slope), (g, g_slope), (o, o_slope) = _sigmoid(a_i), _sigmoid(a_f), _tanh(a_g), _sigmoid(a_o)
        after = (Sum.of(f.times(c)) + Sum.of(i.times(g))).rounded()
        shown, shown_slope = _tanh(after)
        return (product(o, shown), after), (i, i_slope, f, f_slope, g, g_slope, o, o_slope, c, shown, shown_slope)

    def backward(self, kept: Any, d_after: tuple[Sum, ...]) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        i, i_slope, f, f_slope, g, g_slope, o, o_slope, c, shown, shown_slope = kept
        d_h = d_after[0].rounded()
        d_c = (d_after[1] + Sum.of(product(d_h, o, shown_slope))).rounded()
        d = [product(d_c, g, i_slope), product(d_c, c, f_slope), product(d_c, i, g_slope), product(d_h, shown, o_slope)]
        return d, d, (None, Sum.of(product(d_c, f)))


def _relu(a: Approx) -> tuple[Approx, Approx]:
    """The activation and its derivative."""
    uncertain = np.abs(a.value) <= a.error  # the unit may be on or off
    slope = Approx.of((a.value > 0).astype(float), uncertain.astype(float))
    return _squeezed(np.maximum(a.value, 0.0), a, (a.value + a.error > 0).astype(float)), slope


def _tanh(a: Approx) -> tuple[Approx, Approx]:
    """The activation, and its derivative as backward computes it from the activation's value."""
    steepest = 1 - np.tanh(_nearest_to_zero(a)) ** 2
    h = _squeezed(np.tanh(a.value), a, steepest)
    h = h.rounded(TANH_ULPS * (2 * U * h.reach + TINY))
    square = h.times(h)
    # 1 - h² in two roundings of numbers up to 1.
    return h, Approx.of(1 - square.value, square.error + 2 * U * (1 + square.error))


def _sigmoid(a: Approx) -> tuple[Approx, Approx]:
    """The same."""
    least = _logistic(_nearest_to_zero(a))
    s = _squeezed(_logistic(a.value), a, least * (1 - least))
    s = s.rounded(SIGMOID_ULPS * (2 * U * s.reach + TINY))
    slope = Approx.of(s.value * (1 - s.value), np.abs(1 - 2 * s.value) * s.error + s.error**2)
    return s, slope.rounded(gamma(2) * slope.reach + 2 * TINY)


def _logistic(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def _nearest_to_zero(a: Approx) -> Array:
    """The smallest magnitude that a computed element may have: where tanh and sigmoid are steepest."""
    return np.maximum(np.abs(a.value) - a.error, 0.0)


def _squeezed(value: Array, a: Approx, slope: Array) -> Approx:
    """``value`` is a function of ``a`` whose slope is nowhere in reach above ``slope``, and that at most 1."""
    error = slope * a.error
    return Approx(value, error, np.minimum(a.norm, np.linalg.norm(error, axis=-1)))


CELLS: dict[str, Cell] = {"rnn_tanh": Elman("tanh"), "rnn_relu": Elman("relu"), "gru": Gru(), "lstm": Lstm()}


@dataclass
class Bounds:
    """For each result of ``oracle.run`` the largest error that float32 may have; same shapes."""

    output: Array
    finals: States
    d_x: Array
    d_initial: States
    d_layers: list[list[Direction]]


def run(
    cell: str, layers: list[list[Direction]], x: Array, initial: States, lengths: list[int], d_output: Array, d_finals: States
) -> Bounds:
    """The bounds for what ``oracle.run`` computes from the same arguments, all of them exact in float32."""
    bounds = Bounds(
        output=np.zeros(d_output.shape),
        finals=tuple(np.zeros(state.shape) for state in initial),
        d_x=np.zeros(x.shape),
        d_initial=tuple(np.zeros(state.shape) for state in initial),
        d_layers=[[direction.zeros() for direction in layer] for layer in layers],
    )
    terms = [[_Terms.like(direction) for direction in layer] for layer in layers]
    for row, length in enumerate(lengths):
        arriving = d_output[:length, row], tuple(state[:, row] for state in d_finals)
        _run_sequence(CELLS[cell], layers, x[:length, row], tuple(state[:, row] for state in initial), *arriving, row, bounds, terms)
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

    def add(self, name: str, d: Approx, by: Approx | None = None) -> None:
        """One step's gradient: d, or its outer product with ``by``."""
        if by is None:
            error, magnitude = d.error, d.reach
        else:
            error = np.outer(np.abs(d.value), by.error) + np.outer(d.error, by.reach)
            magnitude = np.outer(d.reach, by.reach)
        getattr(self.error, name)[...] += error
        getattr(self.magnitude, name)[...] += magnitude

    def finish(self, bounds: Direction, rounding: float) -> None:
        for name in bounds.names:
            getattr(bounds, name)[...] = getattr(self.error, name) + rounding * getattr(self.magnitude, name) + TINY


def _run_sequence(
    cell: Cell,
    layers: list[list[Direction]],
    x: Array,
    initial: States,
    d_output: Array,
    d_finals: States,
    row: int,
    bounds: Bounds,
    terms: list[list[_Terms]],
) -> None:
    steps = len(x)
    inputs: list[list[Approx]] = [[Approx.exact(step) for step in x]]
    kept: list[list[dict[int, Any]]] = []  # for each layer, direction and step
    unprojected: list[list[dict[int, Approx]]] = []
    hidden: list[list[dict[int, Approx]]] = []
    for index, layer in enumerate(layers):
        for memory in (kept, unprojected, hidden):
            memory.append([{} for _ in layer])
        for d, weights in enumerate(layer):
            k = index * len(layer) + d
            states = tuple(Approx.exact(state[k]) for state in initial)
            for t in order(steps, d):
                a = _sums(cell.gates, weights.w_ih, weights.b_ih, inputs[-1][t])
                q = _sums(cell.gates, weights.w_hh, weights.b_hh, states[0])
                states, kept[-1][d][t] = cell.forward(a, q, states)
                if weights.w_hr is not None:
                    unprojected[-1][d][t] = states[0]
                    states = (Sum.product(weights.w_hr, states[0]).rounded(), *states[1:])
                hidden[-1][d][t] = states[0]
            for final, state in zip(bounds.finals, states, strict=True):
                final[k, row] = state.error
        inputs.append([_join([outputs[t] for outputs in hidden[-1]]) for t in range(steps)])
    bounds.output[:steps, row] = [step.error for step in inputs[-1]]

    d_out = [Approx.exact(step) for step in d_output]
    for index in reversed(range(len(layers))):
        d_in: dict[int, Sum] = {}
        for d, weights in enumerate(layers[index]):
            k = index * len(layers[index]) + d
            width = weights.w_hh.shape[1]
            own = slice(d * width, (d + 1) * width)
            term = terms[index][d]
            d_states = tuple(Sum.of(Approx.exact(state[k])) for state in d_finals)
            way = order(steps, d)
            for position in reversed(range(steps)):
                t = way[position]
                before = hidden[index][d][way[position - 1]] if position else Approx.exact(initial[0][k])
                d_h = d_states[0] + Sum.of(Approx.of(d_out[t].value[own], d_out[t].error[own]))
                if weights.w_hr is not None:
                    term.add("w_hr", d_h.rounded(), unprojected[index][d][t])
                    d_h = Sum.product(weights.w_hr.T, d_h.rounded())
                gates, recurrent, direct = cell.backward(kept[index][d][t], (d_h, *d_states[1:]))
                d_a, d_q = _join(gates), _join(recurrent)
                term.add("w_ih", d_a, inputs[index][t])
                term.add("w_hh", d_q, before)
                term.add("b_ih", d_a)
                term.add("b_hh", d_q)
                passed = Sum.product(weights.w_ih.T, d_a)
                d_in[t] = d_in[t] + passed if t in d_in else passed
                through = Sum.product(weights.w_hh.T, d_q)
                d_states = (through if direct[0] is None else through + direct[0], *direct[1:])
            for d_state, state in zip(bounds.d_initial, d_states, strict=True):
                d_state[k, row] = state.rounded().error
        d_out = [d_in[t].rounded() for t in range(steps)]
    bounds.d_x[:steps, row] = [step.error for step in d_out]


def _sums(gates: int, w: Array, b: Array, x: Approx) -> list[Sum]:
    """``w @ x + b``, a sum for each gate."""
    return [Sum.product(rows, x) + Sum.of(Approx.exact(bias)) for rows, bias in zip(np.split(w, gates), np.split(b, gates), strict=True)]


def _join(parts: list[Approx]) -> Approx:
    return Approx(
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.error for part in parts]),
        np.sqrt(sum(part.norm**2 for part in parts)),
    )
