"""How far a float32 run may be from a float64 run of the same numbers: derived, not chosen.

A sum of n products in any order, with or without fused multiply-adds, is off by at most gamma(n) times the sum of the products'
magnitudes, gamma(n) = n·u / (1 - n·u), u = 2^-24 (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. 2002,
section 3.1).
The rest is how an error that is already there passes on, step after step, in the forward and in the backward direction:

- through a matrix W: each element by |W| e, and no more than its row's 2-norm times the error's 2-norm; the vector's 2-norm by that of W.
  The first is sharp for one step, the second over many, since |W| grows where W does not; both hold, so the smaller is taken;
- through an activation: by the largest slope in reach, which is at most 1; tanh and sigmoid add their own error, at most ``TANH_ULPS`` and
  ``SIGMOID_ULPS`` units in the last place, each at most 2u of the value;
- through a product: |a b - A B| <= |A| e_b + |B| e_a + e_a e_b; k factors in any order add gamma(k - 1) of the product.

Where an equation is written in more than one way (GRU's h' = (1 - z) n + z h = n + z (h - n), and the gradients that follow from each) the
bound holds for all of them.

Everything is computed with the magnitudes of the actual run, so the bound is as small as the numbers allow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from oracle import order

if TYPE_CHECKING:
    from oracle import Array, Direction, States

U = 2.0**-24
TINY = 2.0**-149  # what underflow may lose
# Measured over all floats, many doubles and all instruction sets (test_activations): 2.52 (at 0.06235) and 2.40 (at -4.157).
TANH_ULPS, SIGMOID_ULPS = 2.6, 2.5


def gamma(n: int) -> float:
    """The relative error of n roundings."""
    return n * U / (1 - n * U)


@lru_cache(64)
def _spectral_norm(numbers: bytes, columns: int) -> float:
    """Of a matrix of float64, by rows. A network's matrices are asked for again at every step and on every instruction set."""
    return float(np.linalg.norm(np.frombuffer(numbers).reshape(-1, columns), 2))


class Matrix:
    """A matrix that is exact, and what bounds its products."""

    def __init__(self, value: Array) -> None:
        self.value, self.magnitude, self.columns = value, np.abs(value), value.shape[1]

    @cached_property
    def norm(self) -> float:
        return _spectral_norm(self.value.tobytes(), self.columns) if self.value.size else 0.0

    @cached_property
    def row_norms(self) -> Array:
        return np.linalg.norm(self.value, axis=1)


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

    def through(self, w: Matrix) -> Approx:
        """``w @ value``, with no rounding of its own."""
        error = np.minimum(self.error @ w.magnitude.T, np.multiply.outer(self.norm, w.row_norms))
        norm = np.minimum(w.norm * self.norm, np.linalg.norm(error, axis=-1))
        return Approx(self.value @ w.value.T, error, norm)

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

    def __getitem__(self, rows: slice) -> Approx:
        """Some of the vectors."""
        return Approx(self.value[rows], self.error[rows], self.norm[rows])

    def followed_by(self, other: Approx) -> Approx:
        """More vectors after these."""
        return Approx(*(np.concatenate((getattr(self, name), getattr(other, name))) for name in ("value", "error", "norm")))


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
    def product(w: Matrix, x: Approx) -> Sum:
        """``w @ x``."""
        return Sum(x.through(w), x.reach @ w.magnitude.T, w.columns)

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


class Weights:
    """The parameters of one direction of one layer, and what a step does with them. Vectors may come in batches, one for each row."""

    def __init__(self, cell: Cell, of: Direction) -> None:
        self.cell = cell
        self.w_ih, self.w_hh = ([Matrix(rows) for rows in np.split(w, cell.gates)] for w in (of.w_ih, of.w_hh))
        self.b_ih, self.b_hh = ([Approx.exact(rows) for rows in np.split(b, cell.gates)] for b in (of.b_ih, of.b_hh))
        self.w_hr = None if of.w_hr is None else Matrix(of.w_hr)
        self.back_ih, self.back_hh, self.back_hr = (None if w is None else Matrix(w.T) for w in (of.w_ih, of.w_hh, of.w_hr))
        self.width = of.w_hh.shape[1]  # of h

    def forward(self, x: Approx, states: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        """The states after a step, and what is kept of it."""
        a = [Sum.product(w, x) + Sum.of(b) for w, b in zip(self.w_ih, self.b_ih, strict=True)]
        q = [Sum.product(w, states[0]) + Sum.of(b) for w, b in zip(self.w_hh, self.b_hh, strict=True)]
        (h, *others), kept = self.cell.forward(a, q, states)
        return (h if self.w_hr is None else Sum.product(self.w_hr, h).rounded(), *others), kept

    def backward(
        self,
        x: Approx,
        before: tuple[Approx, ...],
        kept: tuple[Approx, ...],
        h: Approx,
        d_after: tuple[Sum, ...],
        terms: Terms,
        d_kept: tuple[Approx, ...] | None = None,
    ) -> tuple[Sum, tuple[Sum, ...]]:
        """The gradients of x and of the states before the step; those of the parameters are added to ``terms``."""
        d_h, *others = d_after
        if self.w_hr is not None:
            terms.add("w_hr", d_h.rounded(), self.cell.output(*kept[-2:]))
            d_h = Sum.product(self.back_hr, d_h.rounded())
        gates, recurrent, direct = self.cell.backward(kept, before[-1], h, (d_h, *others), d_kept)
        d_a, d_q = _join(gates), _join(recurrent)
        terms.add("w_ih", d_a, x)
        terms.add("w_hh", d_q, before[0])
        terms.add("b_ih", d_a)
        terms.add("b_hh", d_q)
        through = Sum.product(self.back_hh, d_q)
        return Sum.product(self.back_ih, d_a), (through if direct[0] is None else through + direct[0], *direct[1:])


class Cell(ABC):
    """One step and its gradient, as ``oracle.Cell``, of approximate vectors; a and q come as a sum for each gate, before rounding.

    The gradient is computed from no more than the states before and after the step and what ``forward`` keeps.
    """

    gates: int

    @abstractmethod
    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        """The states after the step, and what is kept."""

    @abstractmethod
    def backward(
        self, kept: tuple[Approx, ...], before: Approx, h: Approx, d_after: tuple[Sum, ...], d_kept: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        """The gradients of a, of q, and of the states before the step, less what reaches h through q.

        Args:
            kept: what ``forward`` kept.
            before: the last of the states before the step.
            h: the first of the states after it.
            d_after: the gradients of these.
            d_kept: those that arrive at the kept numbers themselves; None for zeros.
        """


class Elman(Cell):
    gates = 1

    def __init__(self, nonlinearity: str) -> None:
        self.activate = {"tanh": tanh, "relu": _relu}[nonlinearity]
        self.slope = {"tanh": _tanh_slope, "relu": _relu_slope}[nonlinearity]

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        return (self.activate((a[0] + q[0]).rounded()),), ()

    def backward(
        self, kept: tuple[Approx, ...], before: Approx, h: Approx, d_after: tuple[Sum, ...], d_kept: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        d = product(d_after[0].rounded(), self.slope(h))
        return [d], [d], (None,)


class Gru(Cell):
    gates = 3

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        (h,) = before
        r, z = sigmoid((a[0] + q[0]).rounded()), sigmoid((a[1] + q[1]).rounded())
        q_n = q[2].rounded()
        n = tanh((a[2] + Sum.of(product(r, q_n))).rounded())
        # The error of (1 - z) n + z h is dz (h - n) + (1 - z) dn + z dh + dz (dh - dn), and rounding adds, in the one way of writing it,
        # 2u (1 - z) |n| + u z |h| + u |h'|, in the other 2u z |h - n| + u |h'|; both are below 3u (|n| + z |h|).
        value = (1 - z.value) * n.value + z.value * h.value
        error = z.error * np.abs(h.value - n.value) + (1 - z.value) * n.error + z.value * h.error + z.error * (h.error + n.error)
        after = Approx.of(value, error).rounded(gamma(3) * (n.reach + z.reach * h.reach) + 3 * TINY)
        return (after,), (r, z, n, q_n)

    def backward(
        self, kept: tuple[Approx, ...], before: Approx, h: Approx, d_after: tuple[Sum, ...], d_kept: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        r, z, n, q_n = kept
        d_h = d_after[0].rounded()
        # d_h (1 - z) may be d_h - d_h z, and d_h (h - n) may be d_h h - d_h n: rounding is relative to the terms then.
        rest = Approx(1 - z.value, z.error, z.norm).rounded(np.full_like(z.value, 2 * U))
        step = before.minus(n).rounded(gamma(2) * (before.reach + n.reach))
        slope_r, slope_z, slope_n = _sigmoid_slope(r), _sigmoid_slope(z), _tanh_slope(n)
        d_n, d_z, direct = product(d_h, rest, slope_n), product(d_h, step, slope_z), (Sum.of(product(d_h, z)),)
        d_r, d_q = product(d_n, q_n, slope_r), product(d_n, r)
        if d_kept is not None:  # n's gradient goes on in two parts, which may be added before or after
            at_n = product(d_kept[2], slope_n)
            d_r = _added(d_r, product(at_n, q_n, slope_r), product(d_kept[0], slope_r))
            d_z = _added(d_z, product(d_kept[1], slope_z))
            d_q = _added(d_q, product(at_n, r), d_kept[3])
            d_n = _added(d_n, at_n)
        return [d_r, d_z, d_n], [d_r, d_z, d_q], direct


class Lstm(Cell):
    gates = 4

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        _, c = before
        a_i, a_f, a_g, a_o = ((from_x + from_h).rounded() for from_x, from_h in zip(a, q, strict=True))
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o)
        after = (Sum.of(f.times(c)) + Sum.of(i.times(g))).rounded()
        return (self.output(o, after), after), (i, f, g, o, after)

    @staticmethod
    def output(o: Approx, c: Approx) -> Approx:
        return product(o, tanh(c))

    def backward(
        self, kept: tuple[Approx, ...], before: Approx, h: Approx, d_after: tuple[Sum, ...], d_kept: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        i, f, g, o, after = kept
        shown = tanh(after)
        d_h = d_after[0].rounded()
        at_c = d_after[1] if d_kept is None else d_after[1] + Sum.of(d_kept[4])
        d_c = (at_c + Sum.of(product(d_h, o, _tanh_slope(shown)))).rounded()
        slopes = _sigmoid_slope(i), _sigmoid_slope(f), _tanh_slope(g), _sigmoid_slope(o)
        d = [product(*factors, slope) for factors, slope in zip(((d_c, g), (d_c, before), (d_c, i), (d_h, shown)), slopes, strict=True)]
        if d_kept is not None:
            d = [_added(of, product(arriving, slope)) for of, arriving, slope in zip(d, d_kept, slopes, strict=False)]
        return d, d, (None, Sum.of(product(d_c, f)))


def _added(*terms: Approx) -> Approx:
    total = Sum.of(terms[0])
    for term in terms[1:]:
        total += Sum.of(term)
    return total.rounded()


def _relu(a: Approx) -> Approx:
    return _squeezed(np.maximum(a.value, 0.0), a, (a.value + a.error > 0).astype(float))


def _relu_slope(h: Approx) -> Approx:
    uncertain = (h.value <= h.error) & (h.error > 0)  # the unit may be on or off
    return Approx.of((h.value > 0).astype(float), uncertain.astype(float))


def tanh(a: Approx) -> Approx:
    h = _squeezed(np.tanh(a.value), a, 1 - np.tanh(_nearest_to_zero(a)) ** 2)
    return h.rounded(TANH_ULPS * (2 * U * h.reach + TINY))


def _tanh_slope(h: Approx) -> Approx:
    """The derivative as backward computes it from the activation's value: 1 - h² in at most two roundings of numbers up to 1."""
    square = h.times(h)
    return Approx.of(1 - square.value, square.error + 2 * U * (1 + square.error))


def sigmoid(a: Approx) -> Approx:
    least = _logistic(_nearest_to_zero(a))
    s = _squeezed(_logistic(a.value), a, least * (1 - least))
    return s.rounded(SIGMOID_ULPS * (2 * U * s.reach + TINY))


def _sigmoid_slope(s: Approx) -> Approx:
    slope = Approx.of(s.value * (1 - s.value), np.abs(1 - 2 * s.value) * s.error + s.error**2)
    return slope.rounded(gamma(2) * slope.reach + 2 * TINY)


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
        d_layers=[],
    )
    terms = [[Terms(direction) for direction in layer] for layer in layers]
    weights = [[Weights(CELLS[cell], direction) for direction in layer] for layer in layers]
    for row, length in enumerate(lengths):
        if not length:
            continue  # nothing is computed
        arriving = d_output[:length, row], tuple(state[:, row] for state in d_finals)
        _run_sequence(weights, x[:length, row], tuple(state[:, row] for state in initial), *arriving, row, bounds, terms)
    bounds.d_layers = [[term.error(sum(lengths)) for term in layer] for layer in terms]
    return bounds


class Terms:
    """A parameter's gradient is a sum over steps and rows: its terms' values, errors, and magnitudes, to which rounding is relative."""

    def __init__(self, like: Direction) -> None:
        self.values, self.errors, self.magnitudes = like.zeros(), like.zeros(), like.zeros()

    def add(self, name: str, d: Approx, by: Approx | None = None) -> None:
        """One step's gradient: d, or its outer product with ``by``; of every row, where they come in batches."""
        value, error, reach = (np.atleast_2d(array) for array in (d.value, d.error, d.reach))
        if by is None:
            found = value.sum(0), error.sum(0), reach.sum(0)
        else:
            other, other_error, other_reach = (np.atleast_2d(array) for array in (by.value, by.error, by.reach))
            found = value.T @ other, np.abs(value).T @ other_error + error.T @ other_reach, reach.T @ other_reach
        for to, what in zip((self.values, self.errors, self.magnitudes), found, strict=True):
            getattr(to, name)[...] += what

    def error(self, count: int) -> Direction:
        """How far the sums of ``count`` terms may be off."""
        total = self.errors.zeros()
        for name in total.names:
            getattr(total, name)[...] = getattr(self.errors, name) + gamma(count + 2) * getattr(self.magnitudes, name) + TINY
        return total


def _run_sequence(
    layers: list[list[Weights]],
    x: Array,
    initial: States,
    d_output: Array,
    d_finals: States,
    row: int,
    bounds: Bounds,
    terms: list[list[Terms]],
) -> None:
    steps = len(x)
    inputs: list[list[Approx]] = [[Approx.exact(step) for step in x]]
    memory: list[list[dict[int, tuple[tuple[Approx, ...], tuple[Approx, ...], Approx]]]] = []  # for each layer, direction and step
    for index, layer in enumerate(layers):
        memory.append([{} for _ in layer])
        for d, weights in enumerate(layer):
            k = index * len(layer) + d
            states = tuple(Approx.exact(state[k]) for state in initial)
            for t in order(steps, d):
                before = states
                states, kept = weights.forward(inputs[-1][t], before)
                memory[-1][d][t] = before, kept, states[0]
            for final, state in zip(bounds.finals, states, strict=True):
                final[k, row] = state.error
        inputs.append([_join([direction[t][-1] for direction in memory[-1]]) for t in range(steps)])
    bounds.output[:steps, row] = [step.error for step in inputs[-1]]

    d_out = [Approx.exact(step) for step in d_output]
    for index in reversed(range(len(layers))):
        d_in: dict[int, Sum] = {}
        for d, weights in enumerate(layers[index]):
            k = index * len(layers[index]) + d
            own = slice(d * weights.width, (d + 1) * weights.width)
            d_states = tuple(Sum.of(Approx.exact(state[k])) for state in d_finals)
            for t in reversed(order(steps, d)):
                d_h = d_states[0] + Sum.of(Approx.of(d_out[t].value[own], d_out[t].error[own]))
                passed, d_states = weights.backward(inputs[index][t], *memory[index][d][t], (d_h, *d_states[1:]), terms[index][d])
                d_in[t] = d_in[t] + passed if t in d_in else passed
            for d_state, state in zip(bounds.d_initial, d_states, strict=True):
                d_state[k, row] = state.rounded().error
        d_out = [d_in[t].rounded() for t in range(steps)]
    bounds.d_x[:steps, row] = [step.error for step in d_out]


def _join(parts: list[Approx]) -> Approx:
    return Approx(
        np.concatenate([part.value for part in parts], -1),
        np.concatenate([part.error for part in parts], -1),
        np.sqrt(sum(part.norm**2 for part in parts)),
    )
