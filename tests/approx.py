"""Numbers in float64, and how far a float32 computation of them may be: the arithmetic that ``bounds`` builds a network of.

A sum of n products in any order, with or without fused multiply-adds, is off by at most gamma(n) times the sum of the products'
magnitudes, gamma(n) = n·u / (1 - n·u), u = 2^-24 (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. 2002,
section 3.1).
The rest is how an error that is already there passes on:

- through a matrix W: each element by |W| e, and no more than its row's 2-norm times the error's 2-norm; the vector's 2-norm by that of W.
  The first is sharp for one step, the second over many, since |W| grows where W does not; both hold, so the smaller is taken;
- through an activation: by the largest slope in reach, which is at most 1; tanh and sigmoid add their own error, at most ``TANH_ULPS`` and
  ``SIGMOID_ULPS`` units in the last place, each at most 2u of the value;
- through a product: |a b - A B| <= |A| e_b + |B| e_a + e_a e_b; k factors in any order add gamma(k - 1) of the product.

Everything is computed with the magnitudes of the actual run, so an error is as small as the numbers allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from oracle import Array

U = 2.0**-24
TINY = 2.0**-149  # what underflow may lose
# Measured over all floats, many doubles and all instruction sets (test_activations): 2.52 (at 0.06235) and 2.40 (at -4.157).
TANH_ULPS, SIGMOID_ULPS = 2.6, 2.5


def gamma(n: int) -> float:
    """The relative error of n roundings."""
    return n * U / (1 - n * U)


@lru_cache(64)
def _spectral_norm(numbers: bytes, columns: int) -> float:
    """Of a matrix of float64, by rows. A network's matrices are asked for again at every step and on every instruction set.

    The root of the largest eigenvalue of its square: a tenth of the time of singular values, of which there is no need.
    """
    matrix = np.frombuffer(numbers).reshape(-1, columns)
    largest = np.abs(matrix).max()
    if not np.isfinite(largest) or not largest:
        return float(largest)
    scaled = matrix / largest
    square = scaled.T @ scaled if columns <= len(matrix) else scaled @ scaled.T
    return float(largest * np.sqrt(np.linalg.eigvalsh(square)[-1]))


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

    def stored(self, unit: float) -> Approx:
        """The same, rounded once more to a type whose numbers are twice ``unit`` apart at 1; 0: as it is."""
        return self.rounded(unit * self.reach) if unit else self

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


def added(*terms: Approx) -> Approx:
    total = Sum.of(terms[0])
    for term in terms[1:]:
        total += Sum.of(term)
    return total.rounded()


def relu(a: Approx) -> Approx:
    return _squeezed(np.maximum(a.value, 0.0), a, (a.value + a.error > 0).astype(float))


def relu_slope(h: Approx) -> Approx:
    uncertain = (h.value <= h.error) & (h.error > 0)  # the unit may be on or off
    return Approx.of((h.value > 0).astype(float), uncertain.astype(float))


def tanh(a: Approx) -> Approx:
    h = _squeezed(np.tanh(a.value), a, 1 - np.tanh(_nearest_to_zero(a)) ** 2)
    return h.rounded(TANH_ULPS * (2 * U * h.reach + TINY))


def tanh_slope(h: Approx) -> Approx:
    """The derivative as backward computes it from the activation's value: 1 - h² in at most two roundings of numbers up to 1."""
    square = h.times(h)
    return Approx.of(1 - square.value, square.error + 2 * U * (1 + square.error))


def sigmoid(a: Approx) -> Approx:
    least = _logistic(_nearest_to_zero(a))
    s = _squeezed(_logistic(a.value), a, least * (1 - least))
    return s.rounded(SIGMOID_ULPS * (2 * U * s.reach + TINY))


def sigmoid_slope(s: Approx) -> Approx:
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


def join(parts: list[Approx]) -> Approx:
    return Approx(
        np.concatenate([part.value for part in parts], -1),
        np.concatenate([part.error for part in parts], -1),
        np.sqrt(sum(part.norm**2 for part in parts)),
    )
