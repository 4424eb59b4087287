"""Which value is a gate's in a trace of an own cell, by its program and by the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import elman
from elman.backends.native import NativeBackend
from kinds import as_states

B, I, H = 3, 3, 4  # noqa: E741


backends = pytest.mark.parametrize("refused", [False, True], ids=["native", "reference"])


def refuse(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if refused:
        monkeypatch.setattr(NativeBackend, "refuses", lambda *_: "is not asked")


def assert_close(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Stabilised(elman.Cell):
    """Two gates that meet before they are activated, as in the sLSTM, one that nothing activates, and one that is not even added."""

    gates = ("i", "f", "z", "y")
    states = ("h", "m")
    recurrent_gates = ("i", "f", "z")

    def step(self, x, r, s, p):
        i, f = x.i + r.i, x.f + r.f
        m = torch.maximum(f + s.m, i)
        return torch.exp(i - m) * (x.z + r.z) * 2 + torch.exp(f + s.m - m) * s.h + x.y.detach(), m


@backends
def test_a_gate_is_what_the_first_activation_makes_of_its_parts(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(refused, monkeypatch)
    rnn = elman.Recurrent(Stabilised(), I, H, dtype=torch.float64)
    x = torch.randn(1, B, I, dtype=torch.float64)
    parts = (x[0] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0).chunk(4, -1)
    recurrent = rnn.bias_hh_l0.chunk(3)
    i, f = (a + b for a, b in zip(parts[:2], recurrent[:2], strict=True))
    m = torch.maximum(f, i)
    gates = rnn.trace(x).gates
    assert_close([gates["i"][0, 0, 0], gates["f"][0, 0, 0]], [torch.exp(i - m), torch.exp(f - m)])
    assert_close([gates["z"][0, 0, 0], gates["y"][0, 0, 0]], [parts[2] + recurrent[2], parts[3]])


class Unusual(elman.Cell):
    """Gates without an activation, with one that clamps, and one whose activation another gate's part goes into."""

    gates = ("a", "b", "c", "f", "n")

    def step(self, x, r, s, p):
        a = (0.2 * (x.a + r.a) + 0.5).clamp(0, 1)
        b = x.b + r("b", a * s.h)
        c = torch.where(x.c + r.c > 0, x.c, r.c)
        f = torch.sigmoid(x.f + r.f + x.n)
        n = torch.tanh(x.n + r.n)
        return a * n + (1 - a) * s.h * f + torch.tanh(b) * c


@backends
def test_a_gate_is_never_another_value(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(refused, monkeypatch)
    rnn = elman.Recurrent(Unusual(), I, H, dtype=torch.float64)
    x = torch.randn(1, B, I, dtype=torch.float64)
    state = torch.randn(1, B, H, dtype=torch.float64)
    a, b, c, f, n = (x[0] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0).chunk(5, -1)
    w, bias = rnn.weight_hh_l0.chunk(5), rnn.bias_hh_l0.chunk(5)
    of_a, _, of_c, of_f, of_n = (state[0] @ matrix.T + more for matrix, more in zip(w, bias, strict=True))
    expected_a = (0.2 * (a + of_a) + 0.5).clamp(0, 1)
    of_b = (expected_a * state[0]) @ w[1].T + bias[1]
    expected = [expected_a, torch.tanh(b + of_b), c + of_c, torch.sigmoid(f + of_f + n), torch.tanh(n + of_n)]
    assert_close([rnn.trace(x, state).gates[gate][0, 0, 0] for gate in "abcfn"], expected)


def _one_for_a_sequence(parts: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(parts.mean(-1))[:, None]


def _with_another_axis(parts: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(parts[..., None]).sum(-1)


def _in_groups(parts: torch.Tensor) -> torch.Tensor:
    return torch.softmax(parts.unflatten(-1, (2, -1)), -1).flatten(-2)


def _twice_as_many(parts: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(torch.cat([parts, parts], -1)).chunk(2, -1)[0]


SHAPES = {_one_for_a_sequence: True, _with_another_axis: True, _in_groups: True, _twice_as_many: False}  # and whether they are the gate


@backends
@pytest.mark.parametrize("activate", SHAPES, ids=lambda function: function.__name__.strip("_"))
@pytest.mark.parametrize("batch", [1, 3, H])
def test_a_gate_of_another_shape_is_each_units(activate: Any, batch: int, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shaped(elman.Cell):
        gates = ("f",)

        def step(self, x, r, s, p):
            return activate(x.f + r.f) * (s.h + 1)

    refuse(refused, monkeypatch)
    rnn = elman.Recurrent(Shaped(), I, H, dtype=torch.float64)
    x = torch.randn(1, batch, I, dtype=torch.float64)
    parts = x[0] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0
    expected = activate(parts).expand(batch, H) if SHAPES[activate] else parts
    traced = rnn.trace(x)
    assert_close([traced.gates["f"][0, 0, 0], traced.output[0]], [expected, activate(parts).expand(batch, H)])


class Crossed(elman.Cell):
    """Parts of two gates that are only added, one to the other: in a call the product may start from what the input gives."""

    gates = ("u", "a", "b", "c")
    input_gates = ("u", "b", "c")
    recurrent_gates = ("a", "b", "c")

    def step(self, x, r, s, p):
        return s.h / 2 + (x.u + r.a) / 8 + torch.tanh(x.b + r.c) * torch.sigmoid(x.c + r.b)


class Memory(elman.Cell):
    """A memory of which no gate is activated (A. Voelker, I. Kajić, C. Eliasmith, "Legendre Memory Units", 2019)."""

    gates = ("u", "a")
    states = ("h", "m")
    input_gates = ("u",)
    recurrent_gates = ("a",)

    def step(self, x, r, s, p):
        m = s.m + 0.1 * (r("a", s.m) + x.u)
        return torch.tanh(m), m


@pytest.mark.parametrize("cell", [Crossed(), Memory(), Stabilised(), Unusual()], ids=lambda cell: type(cell).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trace_changes_no_bit_of_a_call(cell: elman.Cell, dtype: torch.dtype) -> None:
    rnn = elman.Recurrent(cell, 5, 20, num_layers=2, bidirectional=True, dtype=dtype)
    x = torch.randn(9, 7, 5, dtype=dtype)
    results = [rnn(x), rnn.trace(x)[:2]]
    with torch.no_grad():
        results += rnn(x), rnn.trace(x)[:2]
    for output, final in results[1:]:
        assert torch.equal(output, results[0][0])
        assert all(map(torch.equal, as_states(final), as_states(results[0][1])))
