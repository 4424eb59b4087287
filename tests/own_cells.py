"""Cells as a user writes them, each with the same step as a loop has it: of one sequence, written from the paper with the weights' rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

import elman

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import Tensor

    from loops import Step


class Peephole(elman.Cell):
    """Long short-term memory whose gates see the cell state (Gers & Schmidhuber, 2000)."""

    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    parameters = {"p_i": "H", "p_f": "H", "p_o": "H"}  # noqa: RUF012

    def step(self, x, r, s, p):
        i = torch.sigmoid(x.i + r.i + p.p_i * s.c)
        f = torch.sigmoid(x.f + r.f + p.p_f * s.c)
        c = f * s.c + i * torch.tanh(x.g + r.g)
        o = torch.sigmoid(x.o + r.o + p.p_o * c)
        return o * torch.tanh(c), c


def peephole(x: Tensor, states: tuple[Tensor, ...], w: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    h, c = states
    a_i, a_f, a_g, a_o = _product(w, "ih", x).add(_product(w, "hh", h)).chunk(4)
    i, f = torch.sigmoid(a_i + w["p_i"] * c), torch.sigmoid(a_f + w["p_f"] * c)
    c = f * c + i * torch.tanh(a_g)
    return torch.sigmoid(a_o + w["p_o"] * c) * torch.tanh(c), c


class Gru2014(elman.Cell):
    """The gated recurrent unit as it was (Cho et al., 2014): reset before the product."""

    gates = ("r", "z", "n")

    def step(self, x, r, s, p):
        reset = torch.sigmoid(x.r + r.r)
        z = torch.sigmoid(x.z + r.z)
        n = torch.tanh(x.n + r("n", reset * s.h))
        return z * s.h + (1 - z) * n


def gru2014(x: Tensor, states: tuple[Tensor, ...], w: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    (h,) = states
    w_r, w_z, w_n = w["weight_hh"].chunk(3)
    a_r, a_z, a_n = _product(w, "ih", x).chunk(3)
    b_r, b_z, b_n = w["bias_hh"].chunk(3) if "bias_hh" in w else (0.0, 0.0, 0.0)
    r, z = torch.sigmoid(a_r + w_r @ h + b_r), torch.sigmoid(a_z + w_z @ h + b_z)
    n = torch.tanh(a_n + w_n @ (r * h) + b_n)
    return (z * h + (1 - z) * n,)


class Decay(elman.Cell):
    """Forgets with time: a rate for each unit and a common one, dt with each step, a mask for each unit; one gate has no input's part."""

    gates = ("g", "k")
    states = ("h", "m", "age")
    input_gates = ("g",)
    recurrent_gates = ("k",)
    parameters = {"rate": "H", "scale": ""}  # noqa: RUF012
    step_inputs = {"dt": "", "mask": "H"}  # noqa: RUF012

    def __init__(self, floor: float = 0.1) -> None:
        self.floor = floor

    def step(self, x, r, s, p):
        kept = self.floor + torch.exp(-torch.nn.functional.softplus(p.rate) * x.dt)
        m = kept * s.m + x.mask * torch.tanh(x.g)
        h = torch.tanh(p.scale * m + torch.sigmoid(r.k))
        return h, m, s.age + x.dt


def decay(x: Tensor, states: tuple[Tensor, ...], w: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    h, m, age = states
    kept = 0.1 + torch.exp(-torch.log1p(torch.exp(w["rate"])) * beside["dt"])
    m = kept * m + beside["mask"] * torch.tanh(_product(w, "ih", x))
    return torch.tanh(w["scale"] * m + torch.sigmoid(_product(w, "hh", h))), m, age + beside["dt"]


class Independent(elman.Cell):
    """No recurrent weights (IndRNN: Li et al., 2018)."""

    gates = ("h",)
    recurrent_gates = ()
    parameters = {"u": "H"}  # noqa: RUF012

    def init(self, name, tensor):
        if name == "u":
            tensor.fill_(0.5)
        return name == "u"

    def step(self, x, r, s, p):
        return torch.relu(x.h + p.u * s.h)


def independent(x: Tensor, states: tuple[Tensor, ...], w: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (torch.relu(_product(w, "ih", x) + w["u"] * states[0]),)


class Layered(elman.Cell):
    """A unit sees all others of its sequence: layer norm and softmax over the units."""

    gates = ("a", "b")
    parameters = {"gain": "H", "shift": "H"}  # noqa: RUF012

    def step(self, x, r, s, p):
        normed = torch.nn.functional.layer_norm(x.a + r.a, x.a.shape[-1:], p.gain, p.shift)
        return torch.tanh(normed) * torch.softmax(x.b + r.b, -1) + 0.5 * s.h


def layered(x: Tensor, states: tuple[Tensor, ...], w: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    (h,) = states
    a, b = (_product(w, "ih", x) + _product(w, "hh", h)).chunk(2)
    centred = a - a.mean()
    normed = centred / torch.sqrt((centred * centred).mean() + 1e-5) * w["gain"] + w["shift"]
    return (torch.tanh(normed) * (torch.exp(b) / torch.exp(b).sum()) + 0.5 * h,)


class Lstm(elman.Cell):
    gates = ("i", "f", "g", "o")
    states = ("h", "c")

    def step(self, x, r, s, p):
        c = torch.sigmoid(x.f + r.f) * s.c + torch.sigmoid(x.i + r.i) * torch.tanh(x.g + r.g)
        return torch.sigmoid(x.o + r.o) * torch.tanh(c), c


class Gru(elman.Cell):
    gates = ("r", "z", "n")

    def step(self, x, r, s, p):
        z = torch.sigmoid(x.z + r.z)
        return (1 - z) * torch.tanh(x.n + torch.sigmoid(x.r + r.r) * r.n) + z * s.h


class Tanh(elman.Cell):
    gates = ("h",)

    def step(self, x, r, s, p):
        return torch.tanh(x.h + r.h)


class Relu(elman.Cell):
    gates = ("h",)

    def step(self, x, r, s, p):
        return torch.relu(x.h + r.h)


class Own(NamedTuple):
    """A cell and its step as a loop has it."""

    cell: elman.Cell
    step: Step


OWN = {
    "peephole": Own(Peephole(), peephole),
    "gru2014": Own(Gru2014(), gru2014),
    "decay": Own(Decay(), decay),
    "independent": Own(Independent(), independent),
    "layered": Own(Layered(), layered),
}


def _product(w: Mapping[str, Tensor], which: str, v: Tensor) -> Tensor:
    product = w[f"weight_{which}"] @ v
    return product + w[f"bias_{which}"] if f"bias_{which}" in w else product


def cell(step: Any, **declared: Any) -> elman.Cell:
    """A cell of a class ``Mine`` with this step."""
    return type("Mine", (elman.Cell,), {"gates": ("f", "n"), "states": ("h", "c"), **declared, "step": step})()
