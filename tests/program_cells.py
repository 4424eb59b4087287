# ruff: noqa: RUF012 - written as a user writes them
"""Cells to record, each written from its paper in the terms of elman.Cell."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from elman import Cell


class LSTM(Cell):
    gates = ("i", "f", "g", "o")
    states = ("h", "c")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        i, f = torch.sigmoid(x.i + r.i), torch.sigmoid(x.f + r.f)
        g, o = torch.tanh(x.g + r.g), torch.sigmoid(x.o + r.o)
        c = f * s.c + i * g
        return o * torch.tanh(c), c


class GRU(Cell):
    gates = ("r", "z", "n")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        reset, z = torch.sigmoid(x.r + r.r), torch.sigmoid(x.z + r.z)
        n = torch.tanh(x.n + reset * r.n)
        return (1 - z) * n + z * s.h


class GRU2014(Cell):
    gates = ("r", "z", "n")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        reset, z = torch.sigmoid(x.r + r.r), torch.sigmoid(x.z + r.z)
        n = torch.tanh(x.n + r("n", reset * s.h))
        return n + z * (s.h - n)


class PeepholeLSTM(Cell):
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    parameters = {"p_i": "H", "p_f": "H", "p_o": "H"}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        i = torch.sigmoid(x.i + r.i + p.p_i * s.c)
        f = torch.sigmoid(x.f + r.f + p.p_f * s.c)
        c = f * s.c + i * torch.tanh(x.g + r.g)
        o = torch.sigmoid(x.o + r.o + p.p_o * c)
        return o * torch.tanh(c), c


class LayerNormLSTM(Cell):
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    parameters = dict.fromkeys([f"{kind}_{gate}" for gate in ("i", "f", "g", "o", "c") for kind in ("scale", "shift")], "H")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        def norm(value: Any, gate: str) -> Any:
            return F.layer_norm(value, value.shape[-1:], getattr(p, f"scale_{gate}"), getattr(p, f"shift_{gate}"))

        i, f = torch.sigmoid(norm(x.i + r.i, "i")), torch.sigmoid(norm(x.f + r.f, "f"))
        g, o = torch.tanh(norm(x.g + r.g, "g")), torch.sigmoid(norm(x.o + r.o, "o"))
        c = f * s.c + i * g
        return o * torch.tanh(norm(c, "c")), c


class SLSTM(Cell):
    """Exponential gates, with a stabiliser m (M. Beck et al., 2024)."""

    gates = ("i", "f", "z", "o")
    states = ("h", "c", "n", "m")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        log_f = F.softplus(-(x.f + r.f)).neg()
        log_i = x.i + r.i
        m = torch.maximum(log_f + s.m, log_i)
        i, f = torch.exp(log_i - m), torch.exp(log_f + s.m - m)
        c = f * s.c + i * torch.tanh(x.z + r.z)
        n = f * s.n + i
        return torch.sigmoid(x.o + r.o) * c / n, c, n, m


class LiGRU(Cell):
    gates = ("z", "n")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        z = torch.sigmoid(F.layer_norm(x.z, x.z.shape[-1:]) + r.z)
        return z * s.h + (1 - z) * F.relu(F.layer_norm(x.n, x.n.shape[-1:]) + r.n)


class CfC(Cell):
    gates = ("a", "b", "f", "g")
    step_inputs = {"dt": ""}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        f, g = torch.tanh(x.f + r.f), torch.tanh(x.g + r.g)
        t = torch.sigmoid((x.a + r.a) * x.dt + (x.b + r.b))
        return f * (1 - t) + t * g


class PhasedLSTM(Cell):
    """Open in a part of each period of time only; written without a remainder, by the sine of the phase."""

    gates = ("i", "f", "g", "o")
    states = ("h", "c", "time")
    parameters = {"period": "H", "shift": "H", "leak": ""}
    step_inputs = {"dt": ""}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        time = s.time + x.dt
        phase = torch.sin(time * p.period + p.shift)
        k = torch.where(phase > 0.5, 2 * (1 - phase), torch.where(phase > 0, 2 * phase, p.leak * phase))
        i, f = torch.sigmoid(x.i + r.i), torch.sigmoid(x.f + r.f)
        c = f * s.c + i * torch.tanh(x.g + r.g)
        h = torch.sigmoid(x.o + r.o) * torch.tanh(c)
        return k * h + (1 - k) * s.h, k * c + (1 - k) * s.c, time


class TwoProducts(Cell):
    """Products that need what the one before has given, one of them for two gates."""

    gates = ("a", "b", "c", "d")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        a = torch.sigmoid(x.a + r.a)
        v = a * s.h
        b, c = torch.tanh(x.b + r("b", v)), torch.sin(x.c * r("c", v))
        d = torch.tanh(x.d + r("d", b * c + torch.exp(-a)))
        return a * b + (1 - a) * d + torch.sin(v)


class MinGRU(Cell):
    gates = ("z", "n")
    recurrent_gates = ()

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        z = torch.sigmoid(x.z)
        return (1 - z) * s.h + z * x.n


class SRU(Cell):
    """No product; the second state alone is carried on."""

    gates = ("f", "n", "r", "k")
    recurrent_gates = ()
    states = ("h", "c")
    parameters = {"v_f": "H", "v_r": "H"}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        f, reset = torch.sigmoid(x.f + p.v_f * s.c), torch.sigmoid(x.r + p.v_r * s.c)
        c = f * s.c + (1 - f) * x.n
        return reset * c + (1 - reset) * x.k, c


class Ageing(Cell):
    """No product, and all else that a cell can have. One gate is not used, and what depends on own parameters alone is."""

    gates = ("g", "k", "unused")
    recurrent_gates = ()
    states = ("h", "m", "age")
    parameters = {"rate": "H", "scale": ""}
    step_inputs = {"dt": "", "mask": "H"}
    draws = {"u": "step", "v": "sequence"}

    def step(self, x: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        m = torch.exp(-F.softplus(p.rate) * x.dt) * s.m + x.mask * torch.tanh(x.g)
        if d is not None:
            m = torch.where(d.u < 0.1, s.m, m + 0.1 * d.v)
        return torch.tanh(torch.exp(p.scale) * m + torch.sigmoid(x.k) * s.h) + 0 * x.unused, m, s.age + x.dt


class Normalized(Cell):
    """No product, but units that meet in operations over a row: of the input, and of the state."""

    gates = ("a", "b")
    recurrent_gates = ()
    parameters = {"gain": "H"}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        kept = torch.sigmoid(F.layer_norm(x.a, x.a.shape[-1:], p.gain)) * p.gain.softmax(-1)
        return kept * s.h + torch.softmax(x.b + s.h, -1)


class Noisy(Cell):
    gates = ("h",)
    draws = {"u": "step", "v": "sequence"}
    parameters = {"rate": ""}

    def step(self, x: Any, r: Any, s: Any, p: Any, d: Any) -> Any:
        h = torch.tanh(x.h + r.h)
        if d is None:
            return p.rate * s.h + (1 - p.rate) * h
        return torch.where(d.u < 0.1, s.h, h * torch.sigmoid(p.rate) + 0.1 * d.v)


class Attention(Cell):
    """Everything over the units."""

    gates = ("k", "v")
    parameters = {"w": "H"}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        weights = torch.softmax(x.k + r.k, -1) + p.w.softmax(-1)
        centred = x.v - x.v.mean(-1, keepdim=True)
        normed = F.rms_norm(r.v + centred, x.v.shape[-1:], p.w)
        return weights * s.h + normed * s.h.amax(-1, keepdim=True) - p.w.sum() * centred.abs().sum(-1, keepdim=True)


CELLS: tuple[type[Any], ...] = (
    LSTM,
    GRU,
    GRU2014,
    PeepholeLSTM,
    LayerNormLSTM,
    SLSTM,
    LiGRU,
    CfC,
    PhasedLSTM,
    TwoProducts,
    MinGRU,
    SRU,
    Ageing,
    Normalized,
    Noisy,
    Attention,
)
