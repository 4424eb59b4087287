"""The product of options that torch.nn.RNN and elman.RNN share, numbers for each, and what a network makes of them."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bounds
import oracle
from elman.backends import BACKENDS, Stack
from elman.cells import ElmanTanh
from oracle import Direction

T, B, I, H = 4, 3, 3, 4  # noqa: E741
LENGTHS = [2, 4, 1]  # not sorted

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    nonlinearity: str = "tanh"
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
    def rows(self) -> int:
        return 1 if self.form == "unbatched" else B

    @property
    def lengths(self) -> list[int]:
        return LENGTHS if self.form == "packed" else [T] * self.rows

    @property
    def num_states(self) -> int:
        return self.num_layers * (2 if self.bidirectional else 1)

    def options(self) -> dict[str, object]:
        """The constructor's keyword arguments, sizes apart."""
        names = ("nonlinearity", "num_layers", "bidirectional", "bias", "batch_first")
        return {name: getattr(self, name) for name in names}

    def numbers(self, dtype: torch.dtype) -> Values:
        """Input, initial states, and the gradients that arrive at the results: the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(0)
        width = H * (2 if self.bidirectional else 1)
        shapes = {
            "x": (T, self.rows, I),
            "hx": (self.num_states, self.rows, H),
            "d_output": (T, self.rows, width),
            "d_h_n": (self.num_states, self.rows, H),
        }
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def every_backend() -> list[object]:
    """The backends, marked as skipped where they refuse the plainest of calls."""
    x, params = torch.zeros(1, 1, 1), [torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.zeros(1)]
    refusals = {backend: backend.refuses(Stack(ElmanTanh(), 1, 1), x, None, params, None) for backend in BACKENDS}
    return [
        pytest.param(backend, id=backend.name, marks=[] if refusal is None else pytest.mark.skip(f"{backend.name} {refusal}"))
        for backend, refusal in refusals.items()
    ]


def product() -> list[Case]:
    both = (False, True)
    return [
        Case(*options) for options in itertools.product(("tanh", "relu"), (1, 2), both, both, both, both, ("padded", "packed", "unbatched"))
    ]


def build(kind: type[nn.Module], case: Case, dtype: torch.dtype) -> nn.Module:
    """A network of this kind with the case's options, and weights that are the same in every dtype and kind."""
    module = kind(I, H, **case.options())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return module.to(dtype)


def evaluate(module: nn.Module, case: Case, dtype: torch.dtype) -> Values:
    """Output (T, B, D·H) and h_n (L·D, B, H), and the gradient of each input and each parameter, whatever the form of the call."""
    numbers = case.numbers(dtype)
    x, hx = numbers["x"].requires_grad_(), numbers["hx"].requires_grad_()
    state = hx
    given: object = x.transpose(0, 1) if case.batch_first else x
    if case.form == "packed":
        given = pack_padded_sequence(given, case.lengths, batch_first=case.batch_first, enforce_sorted=False)
    elif case.form == "unbatched":
        given, state = x[:, 0], hx[:, 0]
    output, h_n = module(given, state) if case.given_state else module(given)
    if case.form == "packed":
        output, lengths = pad_packed_sequence(output)
        assert lengths.tolist() == case.lengths
    elif case.form == "unbatched":
        output, h_n = output.unsqueeze(1), h_n.unsqueeze(1)
    elif case.batch_first:
        output = output.transpose(0, 1)
    leaves = {"x": x, **dict(module.named_parameters())}
    if case.given_state:
        leaves["hx"] = hx
    gradients = torch.autograd.grad((output, h_n), list(leaves.values()), (numbers["d_output"], numbers["d_h_n"]))
    return {"output": output.detach(), "h_n": h_n.detach()} | {
        f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)
    }


@functools.cache
def expect(case: Case) -> Values:
    """The same from the float64 loops of ``oracle``."""
    return _named(case, oracle.run(*arguments(case)))


@functools.cache
def allow(case: Case) -> Values:
    """For each of the values the error that float32 may have."""
    return _named(case, bounds.run(*arguments(case)))


def arguments(case: Case) -> tuple[object, ...]:
    numbers = {name: value.double().numpy() for name, value in case.numbers(torch.float32).items()}
    parameters = [parameter.detach().double().numpy() for parameter in build(nn.RNN, case, torch.float32).parameters()]
    if not case.bias:
        parameters = [array for pair in zip(parameters[::2], parameters[1::2], strict=True) for array in (*pair, np.zeros(H), np.zeros(H))]
    directions = [Direction(*parameters[i : i + 4]) for i in range(0, len(parameters), 4)]
    width = 2 if case.bidirectional else 1
    layers = [directions[i : i + width] for i in range(0, len(directions), width)]
    h_0 = numbers["hx"] if case.given_state else np.zeros_like(numbers["hx"])
    return case.nonlinearity, layers, numbers["x"], h_0, case.lengths, numbers["d_output"], numbers["d_h_n"]


def _named(case: Case, result: oracle.Result | bounds.Bounds) -> Values:
    """A result of the loops under the names of ``evaluate``."""
    values = {"output": result.output, "h_n": result.h_n, "d x": result.d_x}
    if case.given_state:
        values["d hx"] = result.d_h_0
    for index, layer in enumerate(result.d_layers):
        for d, direction in enumerate(layer):
            suffix = f"l{index}{'_reverse' * d}"
            values |= {f"d weight_ih_{suffix}": direction.w_ih, f"d weight_hh_{suffix}": direction.w_hh}
            if case.bias:
                values |= {f"d bias_ih_{suffix}": direction.b_ih, f"d bias_hh_{suffix}": direction.b_hh}
    return {name: torch.from_numpy(value) for name, value in values.items()}


def assert_same(got: Values, expected: Values, tolerance: float) -> None:
    """Raise unless every value is the expected one, to a tolerance relative to its largest element (absolute below 1)."""
    assert_within(got, expected, {name: torch.full_like(value, tolerance * max(1.0, _largest(value))) for name, value in expected.items()})


def assert_within(got: Values, expected: Values, errors: Values) -> None:
    """Raise unless every element of every value is as near to the expected one as ``errors`` allows."""
    assert got.keys() == expected.keys(), f"expected {sorted(expected)}, got {sorted(got)}"
    for name, value in expected.items():
        assert got[name].shape == value.shape, f"{name}: expected shape {tuple(value.shape)}, got {tuple(got[name].shape)}"
        error = (got[name].double() - value).abs()
        assert (error <= errors[name]).all(), f"{name}: off by up to {_largest(error):.3g}, allowed {_largest(errors[name]):.3g}"


def _largest(value: Tensor) -> float:
    return value.abs().max().item() if value.numel() else 0.0
