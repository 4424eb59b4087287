"""tanh and relu of the kernels: over all floats that matter, the largest error in units in the last place.

For x from 2^-13 to 9.2 every float is tried on the instruction set in use, every sixteenth on the others. Below, tanh x is x to a quarter
of a unit, above it rounds to 1, and there floats are sampled. ELMAN_EXHAUSTIVE=1 tries every float everywhere, which takes minutes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bounds import TANH_ULPS

if TYPE_CHECKING:
    from collections.abc import Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

# Measured, over all instruction sets: 2.52 (at 0.06235) and 2.52.
FLOAT32_ULPS, FLOAT64_ULPS = 2.6, 2.6
SMALL, LARGE = np.float32(2.0**-13), np.float32(9.2)
EXHAUSTIVE = os.environ.get("ELMAN_EXHAUSTIVE") == "1"
TANH, RELU = 0, 1

every_isa = pytest.mark.parametrize("isa", _native.isas())


@pytest.fixture(autouse=True)
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = _native.isa()
    yield
    _native.use(isa)


def _apply(cell: int, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    _native.activation(cell, int(x.dtype == np.float64), x.ctypes.data, y.ctypes.data, x.size)
    return y


def _floats(first: np.float32, last: np.float32, step: int) -> Iterator[np.ndarray]:
    """All positive floats from first to last, or each step-th, in pieces that fit a cache."""
    start, stop, size = int(first.view(np.uint32)), int(last.view(np.uint32)), 1 << 18
    for at in range(start, stop, size * step):
        yield np.arange(at, min(at + size * step, stop), step, dtype=np.uint32).view(np.float32)


def _ulps(y: np.ndarray, exact: np.ndarray) -> float:
    """The largest error of float32 results in units in the last place of the exact values, which must be normal numbers."""
    power = (exact.view(np.int64) & 0x7FF0000000000000).view(np.float64)
    error = np.subtract(y, exact)
    error /= power
    return float(np.abs(error, out=error).max()) * 2.0**23


@every_isa
def test_tanh_of_every_float_is_within_its_bound_and_at_most_one(isa: str) -> None:
    step = 1 if EXHAUSTIVE or isa == _native.isa() else 16
    _native.use(isa)
    for x in _floats(SMALL, LARGE, step):
        y = _apply(TANH, x)
        worst = _ulps(y, np.tanh(x, dtype=np.float64))
        assert worst <= FLOAT32_ULPS, f"{worst} units for one of {x[0]} to {x[-1]}"
        assert y.max() <= 1


@every_isa
def test_tanh_of_tiny_numbers_is_the_number(isa: str) -> None:
    """To its bound: x³/3 is a quarter of a unit at 2^-13. Denormal numbers to the bit."""
    _native.use(isa)
    for x in _floats(np.float32(0), SMALL, 1 if EXHAUSTIVE else 1021):
        assert (np.abs(_apply(TANH, x) - x) <= FLOAT32_ULPS * np.spacing(x)).all()
    for x in _floats(np.float32(0), np.float32(2.0**-126), 1 if EXHAUSTIVE else 13):
        assert (_apply(TANH, x) == x).all()


@every_isa
def test_tanh_of_large_numbers_is_exactly_one(isa: str) -> None:
    _native.use(isa)
    for x in _floats(LARGE, np.float32(np.inf), 1 if EXHAUSTIVE else 1021):
        assert (_apply(TANH, x) == 1).all()


@every_isa
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", [TANH, RELU])
def test_nan_infinities_and_zeros_of_both_signs_are_kept(isa: str, dtype: type, cell: int) -> None:
    _native.use(isa)
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan], dtype)
    expected = [0.0, -0.0, 1.0, -1.0, np.nan, np.nan] if cell == TANH else [0.0, -0.0, np.inf, 0.0, np.nan, np.nan]
    for copies in range(1, 12):  # whole vectors and parts of one
        y = _apply(cell, np.tile(x, copies)).reshape(copies, 6)
        np.testing.assert_array_equal(y, np.tile(np.array(expected, dtype), (copies, 1)))
        np.testing.assert_array_equal(np.signbit(y[:, :4]), np.tile([False, True, False, cell == TANH], (copies, 1)))


@every_isa
def test_tanh_is_odd_to_the_bit(isa: str) -> None:
    _native.use(isa)
    for x in _floats(np.float32(0), np.float32(np.inf), 4093):
        assert (_apply(TANH, -x) == -_apply(TANH, x)).all()
    x = np.random.default_rng(0).normal(0, 3, 100_000)
    assert (_apply(TANH, -x) == -_apply(TANH, x)).all()


@every_isa
def test_tanh_of_doubles_is_within_its_bound_and_at_most_one(isa: str) -> None:
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no wider than double here: there is nothing to compare with")
    _native.use(isa)
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(1e-3, 22, 400_000), rng.uniform(0, 1, 400_000), np.exp(rng.uniform(-40, 3, 400_000))])
    y, exact = _apply(TANH, x), np.tanh(x, dtype=np.longdouble)
    unit = np.exp2(np.floor(np.log2(exact)) - 52)
    assert (np.abs(y - exact) / unit).max() <= FLOAT64_ULPS
    assert y.max() <= 1
    huge = np.array([19.1, 20.0, 25.0, 710.0, 1e300])
    assert (_apply(TANH, huge) == 1).all()
    tiny = np.array([5e-324, 2.3e-308, 1e-300, 1e-20])
    assert (_apply(TANH, tiny) == tiny).all()


@every_isa
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_is_exact(isa: str, dtype: type) -> None:
    _native.use(isa)
    x = np.random.default_rng(0).standard_normal(1001).astype(dtype)
    np.testing.assert_array_equal(_apply(RELU, x), np.where(x < 0, 0, x))


def test_the_bounds_of_other_tests_leave_room_for_it() -> None:
    """They count in units of 2^-23 relative to the value, each one or two units in the last place."""
    assert max(FLOAT32_ULPS, FLOAT64_ULPS) <= TANH_ULPS


def test_an_error_of_three_units_is_seen() -> None:
    exact = np.array([0.3, 0.7])
    y = exact.astype(np.float32)
    assert _ulps(y, exact) <= 0.5
    assert _ulps(np.nextafter(np.nextafter(np.nextafter(y, np.float32(1)), np.float32(1)), np.float32(1)), exact) > FLOAT32_ULPS - 0.1
