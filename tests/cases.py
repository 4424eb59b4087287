"""The options that torch.nn's networks and elman's share, numbers for each choice of them, and what a network makes of these."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bounds
import elman
import oracle
from elman.backends import BACKENDS, Backend, Operands
from kinds import KINDS, TANH, Kind, as_hx, as_states
from oracle import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

T, B, I, H = 4, 3, 3, 4  # noqa: E741
LENGTHS = [2, 4, 1]  # not sorted
RAGGED = [2, 0, 3]  # none lives through all steps, one through none

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    kind: Kind = TANH
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    given_state: bool = False
    form: str = "padded"

    def __str__(self) -> str:
        return "-".join(
            str(getattr(self, f.name)) if not isinstance(f.default, bool) else f.name * getattr(self, f.name) for f in fields(self)
        )

    @property
    def batch_size(self) -> int:
        return 1 if self.form == "unbatched" else B

    @property
    def lengths(self) -> list[int]:
        return {"packed": LENGTHS, "ragged": RAGGED}.get(self.form, [T] * self.batch_size)

    def options(self) -> dict[str, object]:
        """The constructor's keyword arguments, sizes and the kind's own apart."""
        return {name: getattr(self, name) for name in ("num_layers", "bidirectional", "bias", "batch_first")}

    def numbers(self, dtype: torch.dtype) -> Values:
        """Input, initial states, and the gradients that arrive at the results: the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(0)
        directions = 2 if self.bidirectional else 1
        widths = dict(zip(self.kind.states, self.kind.widths(H), strict=True))
        shapes = {
            "x": (T, self.batch_size, I),
            **{f"{name}_0": (self.num_layers * directions, self.batch_size, width) for name, width in widths.items()},
            "grad_output": (T, self.batch_size, directions * self.kind.widths(H)[0]),
            **{f"grad_{name}_n": (self.num_layers * directions, self.batch_size, width) for name, width in widths.items()},
        }
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@functools.cache
def refusal(backend: Backend, kind: Kind) -> str | None:
    """Why a backend does not run this kind of network at all; None if it does."""
    network = kind.build(elman, 3, 4)
    return backend.refuses(network.stack, Operands(torch.zeros(2, 1, 3), None, list(network.parameters())))


def every_backend() -> list[object]:
    """The backends that run the plainest of calls here; test_cases says which do not, once and not in a thousand tests."""
    return [pytest.param(backend, id=backend.name) for backend in BACKENDS if refusal(backend, TANH) is None]


def selection() -> list[Case]:
    """Every combination of options for one kind; for each of the others half of them, in which any four options meet in every way."""
    both = (False, True)
    return [
        Case(kind, *options)
        for kind in KINDS
        for options in itertools.product((1, 2), both, both, both, both, ("padded", "packed", "unbatched"))
        if kind is TANH or sum(options[:-1]) % 2
    ]


def build(library: ModuleType, case: Case, dtype: torch.dtype) -> nn.Module:
    """A network of this library with the case's options, and weights that are the same in every dtype and library."""
    module = case.kind.build(library, I, H, **case.options())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return module.to(dtype)


def evaluate(module: nn.Module, case: Case, dtype: torch.dtype) -> Values:
    """Output (T, B, D·H) and final states (L·D, B, H), and the gradient of each input and each parameter, whatever the form of the call."""
    numbers = case.numbers(dtype)
    if case.form == "ragged":  # what lies past a sequence's length is nobody's concern
        for b, length in enumerate(case.lengths):
            numbers["x"][length:, b] = numbers["grad_output"][length:, b] = float("nan")
    numbers = {name: value.requires_grad_(not name.startswith("grad_")) for name, value in numbers.items()}
    x, states = numbers["x"], {name: numbers[name] for name in (f"{state}_0" for state in case.kind.states)}
    given: object = x.transpose(0, 1) if case.batch_first else x
    initial = tuple(states.values())
    if case.form == "packed":
        given = pack_padded_sequence(given, case.lengths, batch_first=case.batch_first, enforce_sorted=False)
    elif case.form == "unbatched":
        given, initial = x[:, 0], tuple(state[:, 0] for state in initial)
    more = {"lengths": case.lengths} if case.form == "ragged" else {}
    output, hx = module(given, as_hx(initial), **more) if case.given_state else module(given, **more)
    finals = as_states(hx)
    if case.form == "packed":
        output, lengths = pad_packed_sequence(output)
        assert lengths.tolist() == case.lengths
    elif case.form == "unbatched":
        output, finals = output.unsqueeze(1), tuple(state.unsqueeze(1) for state in finals)
    elif case.batch_first:
        output = output.transpose(0, 1)
    leaves = {"x": x, **dict(module.named_parameters()), **(states if case.given_state else {})}
    results = {"output": output, **{f"{name}_n": final for name, final in zip(case.kind.states, finals, strict=True)}}
    gradients = torch.autograd.grad(tuple(results.values()), list(leaves.values()), [numbers[f"grad_{name}"] for name in results])
    return {name: result.detach() for name, result in results.items()} | {
        f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)
    }


@functools.cache
def expect(case: Case, dtype: torch.dtype = torch.float32) -> Values:
    """The same from the float64 loops of ``oracle``, of numbers that are rounded to a dtype."""
    return _named(case, oracle.run(*arguments(case, dtype)))


@functools.cache
def allow(case: Case, dtype: torch.dtype = torch.float32, unit: float = 0.0) -> Values:
    """For each of the values the error that float32 may have; and with a ``unit``, if what is kept between products is rounded to that."""
    return _named(case, bounds.run(*arguments(case, dtype), unit))


def arguments(case: Case, dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
    """What ``oracle.run`` and ``bounds.run`` take."""
    numbers = {name: value.double().numpy() for name, value in case.numbers(dtype).items()}
    parameters = [parameter.detach().double().numpy() for parameter in build(nn, case, dtype).parameters()]
    initial = tuple(numbers[f"{name}_0"] * case.given_state for name in case.kind.states)
    grad_finals = tuple(numbers[f"grad_{name}_n"] for name in case.kind.states)
    layers = as_layers(parameters, case.num_layers, 2 if case.bidirectional else 1, case.bias)
    return case.kind.cell, layers, numbers["x"], initial, case.lengths, numbers["grad_output"], grad_finals


def as_layers(parameters: list[np.ndarray], num_layers: int, directions: int, bias: bool) -> list[list[Direction]]:
    """A network's parameters, in torch's order, as ``oracle`` takes them."""
    tensors = len(parameters) // (num_layers * directions)
    zeros = [] if bias else [np.zeros(len(parameters[0]))] * 2
    found = [Direction(*parameters[i : i + 2], *zeros, *parameters[i + 2 : i + tensors]) for i in range(0, len(parameters), tensors)]
    return [found[i : i + directions] for i in range(0, len(found), directions)]


def _named(case: Case, result: oracle.Result | bounds.Bounds) -> Values:
    """A result of the loops under the names of ``evaluate``."""
    values = {"output": result.output, "d x": result.grad_x}
    values |= {f"{name}_n": final for name, final in zip(case.kind.states, result.finals, strict=True)}
    if case.given_state:
        values |= {f"d {name}_0": gradient for name, gradient in zip(case.kind.states, result.grad_initial, strict=True)}
    for index, layer in enumerate(result.grad_layers):
        for d, direction in enumerate(layer):
            for name in direction.names:
                if case.bias or not name.startswith("b_"):
                    long = name.replace("w_", "weight_").replace("b_", "bias_")
                    values[f"d {long}_l{index}{'_reverse' * d}"] = getattr(direction, name)
    return {name: torch.from_numpy(value) for name, value in values.items()}


def assert_same(got: Values, expected: Values, tolerance: float) -> None:
    """Raise unless every value is the expected one, to a tolerance relative to its largest element (absolute below 1)."""
    assert_within(got, expected, {name: torch.full_like(value, tolerance * max(1.0, _largest(value))) for name, value in expected.items()})


def assert_same_numbers(backend: Backend, got: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """Raise unless a backend gave the same in float64 for the same numbers, however they were handed to it.

    The native backend promises the same bits. The reference's products are a BLAS's, which may add in another order where memory lies
    otherwise, or for another number of threads: 1e-12.
    """
    for one, other in zip(got, expected, strict=True):
        assert one.dtype is other.dtype is torch.float64
        if backend.name == "native":
            assert torch.equal(one, other), f"off by up to {_largest(one - other):.3g}"
        else:
            assert_same({"value": one}, {"value": other}, 1e-12)


def assert_within(got: Values, expected: Values, errors: Values) -> None:
    """Raise unless every element of every value is as near to the expected one as ``errors`` allows."""
    assert got.keys() == expected.keys(), f"expected {sorted(expected)}, got {sorted(got)}"
    for name, value in expected.items():
        assert got[name].shape == value.shape, f"{name}: expected shape {tuple(value.shape)}, got {tuple(got[name].shape)}"
        error = (got[name].double() - value).abs()
        assert (error <= errors[name]).all(), f"{name}: off by up to {_largest(error):.3g}, allowed {_largest(errors[name]):.3g}"


def _largest(value: Tensor) -> float:
    return value.abs().max().item() if value.numel() else 0.0
