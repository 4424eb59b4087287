"""Sums over the sequences on a GPU: in the emulator against float64, and compiled for every target."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_emulator
import cuda_model
import elman
from cuda_runs import Given, Run
from cuda_usage import usage_of
from elman.backends import registry
from elman.backends.cuda import gradients, run
from elman.backends.cuda.backend import CudaBackend
from elman.backends.cuda.commands import NO_SCRATCH, At, Commands, addresses_of
from elman.backends.cuda.plan import Number
from elman.backends.cuda.totals import TotalsPlan, sum_totals
from elman.backends.reference import ReferenceBackend
from test_cuda_compiler import needs_nvrtc
from test_cuda_emulated import DTYPES
from test_cuda_kernels import DEVICES

# Whether each total is of units, and whether it is wanted.
ASKED = [(True, True), (False, True), (True, False), (False, True), (True, True)]


def summed(number: Number, parts: Tensor, seed: int, mutation: Any = None) -> list[Tensor]:
    """What the kernel makes of parts, (totals, B, H); each total lies between numbers that are not its own."""
    _, sequences, hidden = parts.shape
    results = [torch.full((1 + (hidden if of_units else 1) + 1,), 7.0, dtype=DTYPES[number]) for of_units, _ in ASKED]
    operands: list[Tensor | None] = [*NO_SCRATCH, parts, *results]
    size = results[0].element_size()
    places = [(At(len(NO_SCRATCH) + 1 + k, size) if is_wanted else 0, of_units) for k, (of_units, is_wanted) in enumerate(ASKED)]
    with pytest.MonkeyPatch.context() as patch:
        cuda_emulator.install(patch, seed=seed, mutation=mutation)
        command = sum_totals(number, At(len(NO_SCRATCH)), places, sequences, hidden, -1)
        Commands([command], -1).run(operands, addresses_of(operands), parts)
    for (_, is_wanted), result in zip(ASKED, results, strict=True):
        assert result[0] == result[-1] == 7.0
        assert is_wanted or (result == 7.0).all()
    return [result[1:-1] for result in results]


@cuda_emulator.required
@pytest.mark.parametrize("number", Number)
@pytest.mark.parametrize(("sequences", "hidden"), [(1, 1), (3, 20), (16, 32), (17, 33), (150, 7), (0, 5), (2, 100)])
def test_they_are_the_sums(number: Number, sequences: int, hidden: int) -> None:
    parts = torch.randn(len(ASKED), sequences, hidden)
    got, again = (summed(number, parts, seed) for seed in (0, 1))
    for (of_units, is_wanted), part, one, other in zip(ASKED, parts.double(), got, again, strict=True):
        if not is_wanted:
            continue
        expected, magnitude = (each.sum(0) if of_units else each.sum().view(1) for each in (part, part.abs()))
        # Each number goes through at most so many additions: those of its thread, of 16 threads, of 32 columns.
        additions = (sequences if of_units else sequences * hidden // 32) // 16 + 1 + 16 + 5
        bound = additions * 2.0**-24 * magnitude + torch.finfo(one.dtype).eps / 2 * expected.abs() + torch.finfo(one.dtype).tiny
        assert ((one.double() - expected).abs() <= bound).all()
        assert torch.equal(one, other)


@cuda_emulator.required
def test_a_barrier_that_lacks_is_found() -> None:
    with pytest.raises(AssertionError, match="race"):
        summed(
            Number.FLOAT32, torch.randn(len(ASKED), 40, 40), 0, lambda text: text.replace("  __syncthreads();\n  if (lane", "  if (lane")
        )


@needs_nvrtc
@pytest.mark.parametrize("target", DEVICES)
def test_it_compiles(target: str) -> None:
    for number, count in product(Number, (1, 2, 7)):
        plan = TotalsPlan(number, count)
        usage = usage_of("totals", target, plan.defines, plan.entry)["scan"]
        assert usage.stack == 0
        assert usage.registers * plan.threads <= DEVICES[target].registers


@cuda_emulator.required
def test_thousands_of_steps_lose_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the roundings of a plain sum of so many numbers of one sign would be ten times as much."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cuda_emulator.install(monkeypatch, [lambda plan: plan.blocks == 1])
    torch.manual_seed(0)
    gru, x = elman.GRU(3, 16), torch.randn(3000, 1, 3)
    exact = copy.deepcopy(gru).double()
    for net, backend, of in ((gru, CudaBackend(), x), (exact, ReferenceBackend(), x.double())):
        monkeypatch.setattr(registry, "BACKENDS", (backend,))
        net(of)[0].sum().backward()
    found, expected = gru.bias_hh_l0.grad[32:], exact.bias_hh_l0.grad[32:]
    assert float(((found.double() - expected) / expected).norm() / 16**0.5) <= 2 * 2.0**-24


@pytest.mark.parametrize(("cell", "bias", "launches"), [("gru", True, 2), ("gru", False, 0), ("lstm", True, 0)])
def test_a_direction_has_one_launch_of_them_or_none(cell: str, bias: bool, launches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_model.install(monkeypatch)
    made: list[At] = []
    monkeypatch.setattr(gradients, "sum_totals", lambda number, parts, *rest: made.append(parts) or sum_totals(number, parts, *rest))
    given = Given(Run(cell, bidirectional=True, bias=bias))
    output, _, saved = run.forward(*given.call(), False, save=True)
    needs = [True] * len(given.inputs)
    run.backward(*given.call(), False, output, saved, given.grad_output, given.grad_finals, needs)
    assert len(made) == launches
