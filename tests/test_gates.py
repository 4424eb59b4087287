"""Which value is a gate's in a trace of an own cell, by its program and by the reference."""

from __future__ import annotations

import pytest
import torch

import elman
from elman.backends.native import NativeBackend

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
