"""tanh, sigmoid and relu of the kernels: over all floats that matter, the largest error in units in the last place.

On the instruction set in use every float is tried from 2^-13 to 9.2 for tanh, and of both signs from 2^-6 to 104 for sigmoid; every
sixteenth on the others. Beyond, floats are sampled: tanh x is x to a quarter of a unit below, and rounds to 1 above; sigmoid moves by less
than a quarter of a unit over sixteen floats below, and rounds to 0 or 1 above. ELMAN_EXHAUSTIVE=1 tries every float everywhere, which takes
minutes. Where a result is below the normal numbers (sigmoid's, from -87.3 down), a unit is the distance between two numbers there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from approx import SIGMOID_ULPS, TANH_ULPS

if TYPE_CHECKING:
    from collections.abc import Iterator

_native = pytest.importorskip("elman._native", reason="the kernels are not built here", exc_type=ImportError)

SMALL, LARGE = np.float32(2.0**-13), np.float32(9.2)
EXHAUSTIVE = os.environ.get("ELMAN_EXHAUSTIVE") == "1"
TANH, RELU, SIGMOID = 0, 1, 2

every_isa = pytest.mark.parametrize("isa", _native.isas())


@pytest.fixture(autouse=True)
def _the_instruction_set_stays_as_it_was() -> Iterator[None]:
    isa = _native.isa()
    yield
    _native.use(isa)


def _apply(function: int, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    _native.activation(function, x.reshape(-1), y.reshape(-1))
    return y


def _floats(first: np.float32, last: np.float32, step: int) -> Iterator[np.ndarray]:
    """All positive floats from first to last, or each step-th, in pieces that fit a cache."""
    start, stop, size = int(first.view(np.uint32)), int(last.view(np.uint32)), 1 << 18
    for at in range(start, stop, size * step):
        yield np.arange(at, min(at + size * step, stop), step, dtype=np.uint32).view(np.float32)


def _ulps(y: np.ndarray, exact: np.ndarray) -> float:
    """The largest error of float32 results in units in the last place of the exact values."""
    power = (exact.view(np.int64) & 0x7FF0000000000000).view(np.float64)
    error = np.subtract(y, exact)
    error /= np.maximum(power, 2.0**-126, out=power)
    return float(np.abs(error, out=error).max()) * 2.0**23


def _sigmoid(x: np.ndarray, wider: type) -> np.ndarray:
    e = np.exp(-np.abs(x, dtype=wider))
    return np.where(x < 0, e, wider(1)) / (1 + e)


@pytest.mark.slow
@every_isa
def test_tanh_of_every_float_is_within_its_bound_and_at_most_one(isa: str) -> None:
    step = 1 if EXHAUSTIVE or isa == _native.isa() else 16
    _native.use(isa)
    for x in _floats(SMALL, LARGE, step):
        y = _apply(TANH, x)
        worst = _ulps(y, np.tanh(x, dtype=np.float64))
        assert worst <= TANH_ULPS, f"{worst} units for one of {x[0]} to {x[-1]}"
        assert y.max() <= 1


@every_isa
def test_tanh_of_tiny_numbers_is_the_number(isa: str) -> None:
    """To its bound: x³/3 is a quarter of a unit at 2^-13. Denormal numbers to the bit."""
    _native.use(isa)
    for x in _floats(np.float32(0), SMALL, 1 if EXHAUSTIVE else 1021):
        assert (np.abs(_apply(TANH, x) - x) <= TANH_ULPS * np.spacing(x)).all()
    for x in _floats(np.float32(0), np.float32(2.0**-126), 1 if EXHAUSTIVE else 13):
        assert (_apply(TANH, x) == x).all()


@every_isa
def test_tanh_of_large_numbers_is_exactly_one(isa: str) -> None:
    _native.use(isa)
    for x in _floats(LARGE, np.float32(np.inf), 1 if EXHAUSTIVE else 1021):
        assert (_apply(TANH, x) == 1).all()


@pytest.mark.slow
@every_isa
@pytest.mark.parametrize("sign", [1, -1])
def test_sigmoid_of_every_float_is_within_its_bound_and_at_most_one(isa: str, sign: int) -> None:
    every = 1 if EXHAUSTIVE or isa == _native.isa() else 16
    _native.use(isa)
    for first, last, step in ((0.0, 2.0**-40, 1021), (2.0**-40, 2.0**-6, 1 if EXHAUSTIVE else 16), (2.0**-6, 104.0, every)):
        for x in _floats(np.float32(first), np.float32(last), step):
            x *= sign
            y = _apply(SIGMOID, x)
            worst = _ulps(y, _sigmoid(x, np.float64))
            assert worst <= SIGMOID_ULPS, f"{worst} units for one of {x[0]} to {x[-1]}"
            assert y.max() <= 1


@every_isa
def test_sigmoid_of_large_numbers_is_exactly_one_or_zero(isa: str) -> None:
    _native.use(isa)
    step = 1 if EXHAUSTIVE else 1021
    for x in _floats(np.float32(17.4), np.float32(np.inf), step):
        assert (_apply(SIGMOID, x) == 1).all()
    for x in _floats(np.float32(104.0), np.float32(np.inf), step):
        assert not _apply(SIGMOID, -x).any()
    assert _apply(SIGMOID, np.float32([-103.9])) == 2.0**-149


LIMITS = {
    TANH: [0.0, -0.0, 1.0, -1.0, np.nan, np.nan],
    RELU: [0.0, -0.0, np.inf, 0.0, np.nan, np.nan],
    SIGMOID: [0.5, 0.5, 1.0, 0.0, np.nan, np.nan],
}


@every_isa
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", LIMITS)
def test_nan_infinities_and_zeros_of_both_signs_give_the_limits(isa: str, dtype: type, function: int) -> None:
    _native.use(isa)
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan], dtype)
    expected = np.array(LIMITS[function], dtype)
    for copies in range(1, 12):  # whole vectors and parts of one
        y = _apply(function, np.tile(x, copies)).reshape(copies, 6)
        np.testing.assert_array_equal(y, np.tile(expected, (copies, 1)))
        np.testing.assert_array_equal(np.signbit(y[:, :4]), np.tile(np.signbit(expected[:4]), (copies, 1)))


@every_isa
def test_tanh_is_odd_to_the_bit(isa: str) -> None:
    _native.use(isa)
    for x in _floats(np.float32(0), np.float32(np.inf), 4093):
        assert (_apply(TANH, -x) == -_apply(TANH, x)).all()
    x = np.random.default_rng(0).normal(0, 3, 100_000)
    assert (_apply(TANH, -x) == -_apply(TANH, x)).all()


def _ulps_of_doubles(y: np.ndarray, exact: np.ndarray) -> float:
    unit = np.maximum(np.exp2(np.floor(np.log2(exact)) - 52), np.longdouble(2.0**-1074))
    return float((np.abs(y - exact) / unit).max())


@pytest.fixture
def _longer_doubles() -> None:
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no wider than double here: there is nothing to compare with")


@every_isa
@pytest.mark.usefixtures("_longer_doubles")
def test_tanh_of_doubles_is_within_its_bound_and_at_most_one(isa: str) -> None:
    _native.use(isa)
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(1e-3, 22, 400_000), rng.uniform(0, 1, 400_000), np.exp(rng.uniform(-40, 3, 400_000))])
    y = _apply(TANH, x)
    assert _ulps_of_doubles(y, np.tanh(x, dtype=np.longdouble)) <= TANH_ULPS
    assert y.max() <= 1
    huge = np.array([19.1, 20.0, 25.0, 710.0, 1e300])
    assert (_apply(TANH, huge) == 1).all()
    tiny = np.array([5e-324, 2.3e-308, 1e-300, 1e-20])
    assert (_apply(TANH, tiny) == tiny).all()


@every_isa
@pytest.mark.usefixtures("_longer_doubles")
def test_sigmoid_of_doubles_is_within_its_bound_and_at_most_one(isa: str) -> None:
    _native.use(isa)
    rng = np.random.default_rng(0)
    pieces = (
        np.linspace(-40, 40, 600_000),
        rng.uniform(-1, 1, 200_000),
        np.exp(rng.uniform(-40, 0, 100_000)),
        rng.uniform(-745, 0, 300_000),
    )
    x = np.concatenate(pieces)
    y = _apply(SIGMOID, x)
    assert _ulps_of_doubles(y, _sigmoid(x, np.longdouble)) <= SIGMOID_ULPS
    assert y.max() <= 1
    huge = np.array([37.5, 750.0, 1e300])
    assert (_apply(SIGMOID, huge) == 1).all()
    assert not _apply(SIGMOID, -20 * huge).any()
    assert _apply(SIGMOID, np.array([-745.0])) == 2.0**-1074


@every_isa
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_is_exact(isa: str, dtype: type) -> None:
    _native.use(isa)
    x = np.random.default_rng(0).standard_normal(1001).astype(dtype)
    np.testing.assert_array_equal(_apply(RELU, x), np.where(x < 0, 0, x))


def test_an_error_of_three_units_is_seen() -> None:
    exact = np.array([0.3, 0.7])
    y = exact.astype(np.float32)
    assert _ulps(y, exact) <= 0.5
    assert _ulps(np.nextafter(np.nextafter(np.nextafter(y, np.float32(1)), np.float32(1)), np.float32(1)), exact) > TANH_ULPS - 0.1
    smallest = np.array([0.0, 2.0**-149, 2.0**-148], np.float32)
    assert _ulps(smallest, np.array([2.0**-149] * 3)) == 1
