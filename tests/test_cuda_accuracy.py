"""What the CUDA kernels' roundings add up to: over many steps, and over many units. On the CPU, by the emulator, in which an instruction
is as inexact as NVIDIA's manual and measurements of the tensor cores allow.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cuda_emulator
from elman.backends import Operands
from elman.backends.cuda import run
from elman.backends.stack import Stack
from elman.cells import BY_NAME

pytestmark = [cuda_emulator.required, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cuda_emulator.install(monkeypatch)


def _final(stack: Stack, x: Tensor, states: tuple[Tensor, ...], params: list[Tensor]) -> tuple[Tensor, ...]:
    _, finals, _ = run.forward(stack, Operands(x, states, tuple(params)), False, save=False)
    return finals


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_gate_that_forgets_a_thousandth_at_each_step_does(dtype: torch.dtype) -> None:
    """What remains of c after a thousand steps. A sigmoid that is off by 2^-12 would make 0.29 or 0.47 of 0.37."""
    steps, hidden, b_f = 1000, 4, 6.90625  # which all dtypes have
    stack = Stack(BY_NAME["lstm"](), 1, hidden, 1, False, True)
    params = [torch.zeros(shape, dtype=dtype) for shape in stack.shapes]
    params[2][hidden : 2 * hidden] = b_f
    states = torch.zeros(1, 1, hidden, dtype=dtype), torch.ones(1, 1, hidden, dtype=dtype)
    _, c = _final(stack, torch.zeros(steps, 1, 1, dtype=dtype), states, params)
    expected = torch.tensor(b_f, dtype=torch.float64).sigmoid() ** steps
    # A sigmoid's error of 2^-21, and of the product 2^-24, at each step; and what c is rounded to in the end.
    allowed = steps * (2.0**-21 + 2.0**-24) + torch.finfo(dtype).eps / 2
    assert ((c.double() - expected).abs() <= allowed * expected).all(), c


def test_float32_adds_up_a_row_as_float32_does() -> None:
    """Without TF32: the tensor cores cut sums off, which over all these units would be three times the error of additions that round."""
    hidden, batch, generator = 512, 64, torch.Generator().manual_seed(0)
    stack = Stack(BY_NAME["rnn_relu"](), 1, hidden, 1, False, False)
    w_ih, w_hh = torch.zeros(hidden, 1), torch.randn(hidden, hidden, generator=generator) / hidden**0.5
    h = torch.randn(1, batch, hidden, generator=generator)
    (found,) = _final(stack, torch.zeros(1, batch, 1), (h,), [w_ih, w_hh])
    exact = (h[0].double() @ w_hh.double().t()).clamp_min(0)
    plain = torch.zeros(batch, hidden)
    for k in range(hidden):  # one after the other, each rounded
        plain += h[0, :, k : k + 1] * w_hh[:, k]
    errors = [float((numbers.double() - exact).norm() / exact.norm()) for numbers in (found[0], plain.clamp_min(0))]
    assert errors[0] <= errors[1], [error * 2**24 for error in errors]
