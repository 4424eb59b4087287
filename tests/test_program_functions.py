"""The functions of programs, each alone: their largest errors in units in the last place, and what torch gives for all other operations.

exp, log, expm1, log1p and softplus are computed in vectors; of float32 they are tried on every so many-th float of the range that matters.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from elman.backends.program.arithmetic import COMPUTE
from elman.backends.program.program import Opcode, Program
from native import required
from program_runs import states_after
from program_text import OPERANDS, read

pytestmark = [required, pytest.mark.usefixtures("every_isa", "poisoned")]

# Bounds on the error, in units in the last place.
ULPS = {"exp": 1.0, "log": 1.0, "expm1": 1.5, "log1p": 2.5, "softplus": 2.0}
RANGES = {"exp": (-110.0, 95.0), "log": (0.0, np.inf), "expm1": (-90.0, 95.0), "log1p": (-1.0, np.inf), "softplus": (-100.0, 30.0)}
EXACT = {
    "exp": np.exp,
    "log": np.log,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "softplus": lambda x: np.where(x > 20, x, np.log1p(np.exp(x))),
}


def _program(operation: str, operands: int) -> Program:
    """new_state0 = operation(state0, state1 ...), without gates."""
    states = [f"new_state{i} = copy(state{i})" for i in range(1, operands)]
    forward = read("\n".join([f"new_state0 = {operation}({', '.join(f'state{i}' for i in range(operands))})", *states]))
    backward = read("grad_state0 = copy(grad_new_state0)")
    return Program(forward, forward, backward, ((),), 0, 0, operands, (), (), 0, 0, 0)


def _apply(operation: str, *numbers: torch.Tensor) -> torch.Tensor:
    return states_after(_program(operation, len(numbers)), *numbers)[0]


def _floats(first: float, last: float, step: int) -> np.ndarray:
    """Each step-th float of both signs from first to last."""
    every = np.arange(0, int(np.float32(np.inf).view(np.uint32)), step, dtype=np.uint32).view(np.float32)
    every = np.concatenate([-every[::-1], every])
    return every[(every > first) & (every < last)]


@pytest.mark.parametrize("operation", ULPS)
def test_errors_of_floats(operation: str) -> None:
    x = _floats(*RANGES[operation], 1009)
    with np.errstate(all="ignore"):
        exact = EXACT[operation](x.astype(np.float64))
    y = _apply(operation, torch.from_numpy(x).unsqueeze(0)).squeeze(0).numpy()
    most = float(np.finfo(np.float32).max)
    finite = np.abs(exact) < most
    assert np.isinf(y[np.abs(exact) > 1.0001 * most]).all()
    unit = np.maximum(np.exp2(np.floor(np.log2(np.maximum(np.abs(exact[finite]), 2.0**-149)))), 2.0**-126) * 2.0**-23
    assert (np.abs(y[finite] - exact[finite]) / unit).max() <= ULPS[operation]


@pytest.mark.parametrize("operation", ULPS)
def test_errors_of_doubles(operation: str) -> None:
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no wider than double here: there is nothing to compare with")
    low, high = RANGES[operation]
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(max(low, -40), min(high, 40), 200_000), np.exp(rng.uniform(-30, 3, 100_000)), -np.exp(rng.uniform(-30, -1, 100_000))]
    )
    x = x[(x > low) & (x < high)]
    exact = EXACT[operation](x.astype(np.longdouble))
    y = _apply(operation, torch.from_numpy(x).unsqueeze(0)).squeeze(0).numpy()
    unit = np.exp2(np.floor(np.log2(np.abs(exact))) - 52)
    assert float((np.abs(y - exact) / unit).max()) <= ULPS[operation]


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.5,
    20.0,
    20.5,
    1e-30,
    -1e-30,
    1e-40,
    3e38,
    -3e38,
    89.5,
    -104.5,
    math.inf,
    -math.inf,
    math.nan,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("operation", [each.name.lower() for each in Opcode if each is not Opcode.POW])
def test_every_operation_gives_what_torch_gives(operation: str, dtype: torch.dtype) -> None:
    """Of infinities, NaN, ties and zeros of both signs, too, in whole vectors and parts of one."""
    opcode = Opcode[operation.upper()]
    count, fused = OPERANDS[operation], operation in ("fma", "fnma", "row_sum_fma", "row_mean_fma")
    generator = torch.Generator().manual_seed(0)
    special = torch.tensor([each for each in SPECIAL if not (fused and 1e38 < abs(each) < math.inf)], dtype=dtype)
    grid = [each.reshape(-1) for each in torch.meshgrid(*[special] * count, indexing="ij")]
    for width in (1, 7, 16, 33, 100):
        numbers = [torch.randn(3, width, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]
        rows = len(grid[0]) // width
        if rows and not opcode.over_rows:
            numbers = [torch.cat([some, each[: rows * width].reshape(-1, width)]) for some, each in zip(numbers, grid, strict=True)]
        found, expected = _apply(operation, *numbers), COMPUTE[opcode](*numbers)
        unit = torch.finfo(dtype).eps
        room = width * unit if opcode.over_rows else 8 * unit if fused else 1e-44  # of sums, and of what nearly cancels
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=6 * unit, atol=room)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [0.0, 0.5, -0.5, 1.0, 2.0, 3.0, -1.0, -2.0, 2.5, 1e30])
def test_powers_are_torchs(exponent: float, dtype: torch.dtype) -> None:
    x = torch.tensor([SPECIAL], dtype=dtype)
    found = _apply("pow", x, torch.full_like(x, exponent))
    torch.testing.assert_close(found, torch.pow(x, exponent), equal_nan=True, rtol=6 * torch.finfo(dtype).eps, atol=1e-44)
