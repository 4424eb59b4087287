"""How far a float32 run may be from a float64 run of the same numbers: derived, not chosen.

``approx`` says how rounding errors arise and pass through sums, products, matrices and activations; here are the cells' equations and
gradients in these numbers, step after step, in the forward and in the backward direction.

Where an equation is written in more than one way (GRU's h' = (1 - z) n + z h = n + z (h - n), and the gradients that follow from each) the
bound holds for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from approx import TINY, Approx, Matrix, Sum, U, added, gamma, join, product, relu, relu_slope, sigmoid, sigmoid_slope, tanh, tanh_slope
from oracle import order

if TYPE_CHECKING:
    from oracle import Array, Direction, States


class Weights:
    """The parameters of one direction of one layer, and what a step does with them. Vectors may come in batches, one for each sequence.

    ``unit``: the rounding of what is kept between two products: h, units to be projected, and the gradients of gates and of h; 0 where
    it is what they are computed in.
    """

    def __init__(self, cell: Cell, of: Direction, unit: float = 0.0) -> None:
        self.cell, self.unit = cell, unit
        self.w_ih, self.w_hh = ([Matrix(rows) for rows in np.split(w, cell.gates)] for w in (of.w_ih, of.w_hh))
        self.b_ih, self.b_hh = ([Approx.exact(rows) for rows in np.split(b, cell.gates)] for b in (of.b_ih, of.b_hh))
        self.w_hr = None if of.w_hr is None else Matrix(of.w_hr)
        self.back_ih, self.back_hh, self.back_hr = (None if w is None else Matrix(w.T) for w in (of.w_ih, of.w_hh, of.w_hr))
        self.width = of.w_hh.shape[1]  # of h

    def forward(self, x: Approx, states: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        """The states after a step, and what is saved of it."""
        a = [Sum.product(w, x) + Sum.of(b) for w, b in zip(self.w_ih, self.b_ih, strict=True)]
        q = [Sum.product(w, states[0]) + Sum.of(b) for w, b in zip(self.w_hh, self.b_hh, strict=True)]
        (h, *others), saved = self.cell.forward(a, q, states)
        h = h.stored(self.unit)
        return (h if self.w_hr is None else Sum.product(self.w_hr, h).rounded().stored(self.unit), *others), saved

    def backward(
        self,
        x: Approx,
        before: tuple[Approx, ...],
        saved: tuple[Approx, ...],
        h: Approx,
        grad_after: tuple[Sum, ...],
        terms: Terms,
        grad_saved: tuple[Approx, ...] | None = None,
    ) -> tuple[Sum, tuple[Sum, ...]]:
        """The gradients of x and of the states before the step; those of the parameters are added to ``terms``."""
        d_h, *others = grad_after
        if self.w_hr is not None:
            projected = d_h.rounded().stored(self.unit)
            terms.add("w_hr", projected, self.cell.output(*saved[-2:]).stored(self.unit))
            d_h = Sum.product(self.back_hr, projected)
        gates, recurrent, direct = self.cell.backward(saved, before[-1], h, (d_h, *others), grad_saved)
        d_a, d_q = join(gates).stored(self.unit), join(recurrent).stored(self.unit)
        terms.add("w_ih", d_a, x)
        terms.add("w_hh", d_q, before[0])
        terms.add("b_ih", d_a)
        terms.add("b_hh", d_q)
        through = Sum.product(self.back_hh, d_q)
        return Sum.product(self.back_ih, d_a), (through if direct[0] is None else through + direct[0], *direct[1:])


class Cell(ABC):
    """One step and its gradient, as ``oracle.Cell``, of approximate vectors; a and q come as a sum for each gate, before rounding.

    The gradient is computed from no more than the states before and after the step and what ``forward`` saves.
    """

    gates: int

    @abstractmethod
    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        """The states after the step, and what is saved."""

    @abstractmethod
    def backward(
        self, saved: tuple[Approx, ...], before: Approx, h: Approx, grad_after: tuple[Sum, ...], grad_saved: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        """The gradients of a, of q, and of the states before the step, less what reaches h through q.

        Args:
            saved: what ``forward`` saved.
            before: the last of the states before the step.
            h: the first of the states after it.
            d_after: the gradients of these.
            grad_saved: those that arrive at the saved numbers themselves; None for zeros.
        """


class Elman(Cell):
    gates = 1

    def __init__(self, nonlinearity: str) -> None:
        self.activate = {"tanh": tanh, "relu": relu}[nonlinearity]
        self.slope = {"tanh": tanh_slope, "relu": relu_slope}[nonlinearity]

    def forward(self, a: list[Sum], q: list[Sum], before: tuple[Approx, ...]) -> tuple[tuple[Approx, ...], tuple[Approx, ...]]:
        return (self.activate((a[0] + q[0]).rounded()),), ()

    def backward(
        self, saved: tuple[Approx, ...], before: Approx, h: Approx, grad_after: tuple[Sum, ...], grad_saved: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        d = product(grad_after[0].rounded(), self.slope(h))
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
        self, saved: tuple[Approx, ...], before: Approx, h: Approx, grad_after: tuple[Sum, ...], grad_saved: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        r, z, n, q_n = saved
        d_h = grad_after[0].rounded()
        # d_h (1 - z) may be d_h - d_h z, and d_h (h - n) may be d_h h - d_h n: rounding is relative to the terms then.
        rest = Approx(1 - z.value, z.error, z.norm).rounded(np.full_like(z.value, 2 * U))
        step = before.minus(n).rounded(gamma(2) * (before.reach + n.reach))
        slope_r, slope_z, slope_n = sigmoid_slope(r), sigmoid_slope(z), tanh_slope(n)
        d_n, d_z, direct = product(d_h, rest, slope_n), product(d_h, step, slope_z), (Sum.of(product(d_h, z)),)
        d_r, d_q = product(d_n, q_n, slope_r), product(d_n, r)
        if grad_saved is not None:  # n's gradient goes on in two parts, which may be added before or after
            at_n = product(grad_saved[2], slope_n)
            d_r = added(d_r, product(at_n, q_n, slope_r), product(grad_saved[0], slope_r))
            d_z = added(d_z, product(grad_saved[1], slope_z))
            d_q = added(d_q, product(at_n, r), grad_saved[3])
            d_n = added(d_n, at_n)
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
        self, saved: tuple[Approx, ...], before: Approx, h: Approx, grad_after: tuple[Sum, ...], grad_saved: tuple[Approx, ...] | None
    ) -> tuple[list[Approx], list[Approx], tuple[Sum | None, ...]]:
        i, f, g, o, after = saved
        shown = tanh(after)
        d_h = grad_after[0].rounded()
        at_c = grad_after[1] if grad_saved is None else grad_after[1] + Sum.of(grad_saved[4])
        d_c = (at_c + Sum.of(product(d_h, o, tanh_slope(shown)))).rounded()
        slopes = sigmoid_slope(i), sigmoid_slope(f), tanh_slope(g), sigmoid_slope(o)
        d = [product(*factors, slope) for factors, slope in zip(((d_c, g), (d_c, before), (d_c, i), (d_h, shown)), slopes, strict=True)]
        if grad_saved is not None:
            d = [added(of, product(grad, slope)) for of, grad, slope in zip(d, grad_saved, slopes, strict=False)]
        return d, d, (None, Sum.of(product(d_c, f)))


CELLS: dict[str, Cell] = {"rnn_tanh": Elman("tanh"), "rnn_relu": Elman("relu"), "gru": Gru(), "lstm": Lstm()}


@dataclass
class Bounds:
    """For each result of ``oracle.run`` the largest error that float32 may have; same shapes."""

    output: Array
    finals: States
    grad_x: Array
    grad_initial: States
    grad_layers: list[list[Direction]]


def run(
    cell: str,
    layers: list[list[Direction]],
    x: Array,
    initial: States,
    lengths: list[int],
    grad_output: Array,
    grad_finals: States,
    unit: float = 0.0,
) -> Bounds:
    """The bounds for what ``oracle.run`` computes from the same arguments, all of them exact in float32; or with what is kept between two
    products rounded to a ``unit``. Results are not rounded to it once more.
    """
    bounds = Bounds(
        output=np.zeros(grad_output.shape),
        finals=tuple(np.zeros(state.shape) for state in initial),
        grad_x=np.zeros(x.shape),
        grad_initial=tuple(np.zeros(state.shape) for state in initial),
        grad_layers=[],
    )
    terms = [[Terms(direction) for direction in layer] for layer in layers]
    weights = [[Weights(CELLS[cell], direction, unit) for direction in layer] for layer in layers]
    for b, length in enumerate(lengths):
        if not length:
            continue  # nothing is computed
        grads = grad_output[:length, b], tuple(state[:, b] for state in grad_finals)
        _run_sequence(weights, x[:length, b], tuple(state[:, b] for state in initial), *grads, b, bounds, terms)
    bounds.grad_layers = [[term.error(sum(lengths)) for term in layer] for layer in terms]
    return bounds


class Terms:
    """A parameter's gradient sums over steps and sequences: its terms' values, errors, and magnitudes, to which rounding is relative."""

    def __init__(self, like: Direction) -> None:
        self.values, self.errors, self.magnitudes = like.zeros(), like.zeros(), like.zeros()

    def add(self, name: str, d: Approx, by: Approx | None = None) -> None:
        """One step's gradient: d, or its outer product with ``by``; of every sequence, where they come in batches."""
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
    grad_output: Array,
    grad_finals: States,
    b: int,
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
                states, saved = weights.forward(inputs[-1][t], before)
                memory[-1][d][t] = before, saved, states[0]
            for final, state in zip(bounds.finals, states, strict=True):
                final[k, b] = state.error
        inputs.append([join([direction[t][-1] for direction in memory[-1]]) for t in range(steps)])
    bounds.output[:steps, b] = [step.error for step in inputs[-1]]

    grad_out = [Approx.exact(step) for step in grad_output]
    for index in reversed(range(len(layers))):
        grad_in: dict[int, Sum] = {}
        for d, weights in enumerate(layers[index]):
            k = index * len(layers[index]) + d
            own = slice(d * weights.width, (d + 1) * weights.width)
            grad_states = tuple(Sum.of(Approx.exact(state[k])) for state in grad_finals)
            for t in reversed(order(steps, d)):
                d_h = grad_states[0] + Sum.of(Approx.of(grad_out[t].value[own], grad_out[t].error[own]))
                passed, grad_states = weights.backward(inputs[index][t], *memory[index][d][t], (d_h, *grad_states[1:]), terms[index][d])
                if t in grad_in:  # what the first direction has left
                    passed = passed + Sum.of(grad_in[t].rounded().stored(weights.unit))
                grad_in[t] = passed
            for grad_state, state in zip(bounds.grad_initial, grad_states, strict=True):
                grad_state[k, b] = state.rounded().error
        grad_out = [grad_in[t].rounded().stored(weights.unit if index else 0.0) for t in range(steps)]
    bounds.grad_x[:steps, b] = [step.error for step in grad_out]
