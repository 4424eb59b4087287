"""The tests' own tools tell right from wrong: loops, bounds, assertions, poison."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import cases
import oracle
from cases import Case, allow, assert_same, assert_same_numbers, assert_within, build, evaluate, expect
from elman.backends import BACKENDS, Backend
from kinds import KINDS, TANH
from native import required

CASE = Case(num_layers=2, bidirectional=True, given_state=True, form="packed")
every_case = pytest.mark.parametrize("case", [dataclasses.replace(CASE, kind=kind) for kind in KINDS], ids=lambda case: str(case.kind))


@pytest.mark.slow
@every_case
def test_the_loops_gradients_are_those_of_finite_differences(case: Case) -> None:
    cell, layers, x, initial, lengths, grad_output, grad_finals = cases.arguments(case)

    def loss() -> float:
        result = oracle.run(cell, layers, x, initial, lengths, grad_output, grad_finals)
        return float((result.output * grad_output).sum() + sum((f * d).sum() for f, d in zip(result.finals, grad_finals, strict=True)))

    result = oracle.run(cell, layers, x, initial, lengths, grad_output, grad_finals)
    pairs = [(x, result.grad_x), *zip(initial, result.grad_initial, strict=True)]
    for layer, gradients in zip(layers, result.grad_layers, strict=True):
        for weights, gradient in zip(layer, gradients, strict=True):
            pairs += [(getattr(weights, name), getattr(gradient, name)) for name in weights.names]
    for values, gradient in pairs:
        for place in np.ndindex(values.shape):
            value, step = values[place], 1e-6
            values[place] = value + step
            above = loss()
            values[place] = value - step
            below = loss()
            values[place] = value
            assert abs((above - below) / (2 * step) - gradient[place]) < 1e-7


@every_case
def test_torch_itself_is_within_the_float32_bound(case: Case) -> None:
    assert_within(evaluate(build(nn, case, torch.float32), case, torch.float32), expect(case), allow(case))


@every_case
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0", "weight_hh_l1_reverse"])
def test_the_float32_bound_rejects_a_weight_that_is_off_by_1e4(case: Case, name: str) -> None:
    module = build(nn, case, torch.float32)
    with torch.no_grad():
        module.get_parameter(name).view(-1)[0] += 1e-4
    with pytest.raises(AssertionError, match="off by up to"):
        assert_within(evaluate(module, case, torch.float32), expect(case), allow(case))


@every_case
def test_the_float32_bound_is_small(case: Case) -> None:
    """A bound that lets everything pass holds nothing: this one is under 3e-4 of the largest element, through two layers and back."""
    expected, errors = expect(case), allow(case)
    assert max(errors[name].max().item() / value.abs().max().item() for name, value in expected.items()) < 3e-4


@every_case
def test_the_float32_bound_counts_on_a_float64_run(case: Case) -> None:
    """A run in float64 is much closer than the bound, which would be a mistake's to notice if it were computed from the wrong numbers."""
    errors = {name: error * 1e-5 for name, error in allow(case).items()}
    assert_within(evaluate(build(nn, case, torch.float64), case, torch.float64), expect(case), errors)


def test_assert_same_rejects_what_differs() -> None:
    right = {"output": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    assert_same(right, right, 1e-12)
    wrong = [
        {"output": right["output"] + 5e-12},
        {"output": torch.tensor([1.0, float("nan")], dtype=torch.float64)},
        {"output": right["output"].unsqueeze(0)},
        {"h_n": right["output"]},
        {},
    ]
    for values in wrong:
        with pytest.raises(AssertionError):
            assert_same(values, right, 1e-12)


@required
def test_the_same_numbers_are_the_same_bits_of_the_native_backend_alone() -> None:
    native, *_, reference = BACKENDS
    right = torch.tensor([1.0, 2.0], dtype=torch.float64)
    near, far = right.nextafter(torch.zeros(())), right + 5e-12
    assert_same_numbers(native, [right], [right.clone()])
    assert_same_numbers(reference, [near], [right])
    for backend, values in ((native, [near]), (reference, [far]), (reference, []), (reference, [right.float()])):
        with pytest.raises((AssertionError, ValueError)):
            assert_same_numbers(backend, values, [right])


@pytest.mark.usefixtures("poisoned")
def test_memory_is_poisoned() -> None:
    assert torch.empty(100).isnan().all()
    assert torch.ones(100).new_empty(7).isnan().all()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_which_backends_take_part(backend: Backend) -> None:
    """Tests of every backend leave out those that are skipped here."""
    if (reason := cases.refusal(backend, TANH)) is not None:
        pytest.skip(f"{backend.name} {reason}")
    assert backend.name in [parameter.id for parameter in cases.every_backend()]
