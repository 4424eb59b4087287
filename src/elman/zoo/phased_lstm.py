"""Long short-term memory whose units open in turns, for long sequences and irregular times."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class PhasedLSTM(Cell):
    """Long short-term memory in which each unit is open for part of its own period and rests otherwise.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.PhasedLSTM(), 10, 20)
    >>> output, (h_n, c_n, phase_n) = net(torch.randn(5, 3, 10), dt=torch.rand(5, 3))  # dt: the time since the step before

    ::

        phase' = (phase + dt / tau) mod 1
        phi = (phase' - shift) mod 1
        k  = 2 phi / on         where phi < on / 2
             2 - 2 phi / on     where phi < on
             leak phi           elsewhere
        c~ = f c + i tanh(W_ig x + b_ig + W_hg h + b_hg),  i, f and o as in PeepholeLSTM
        c' = k c~ + (1 - k) c
        h' = k o tanh(c~) + (1 - k) h

    phase' is the time since the sequence began, in periods tau; the time of the first step is its dt. The shift is a fraction of the
    period, s / tau in the paper. Initial periods are exp(u), u uniform over [0, log(longest)]; initial shifts are uniform over [0, 1).

    Source: D. Neil, M. Pfeiffer, S.-C. Liu, "Phased LSTM: Accelerating Recurrent Network Training for Long or Event-based Sequences", NIPS
    (2016).

    Args:
        on: the initial fraction of a period for which a unit is open; it is learned.
        leak: the fraction that passes while it rests. The paper sets it to 0 after training.
        longest: the longest initial period, in the unit of dt. The paper's choice depends on the task; one is exp(3), about 20.
    """

    gates = ("i", "f", "g", "o")
    states = ("h", "c", "phase")
    parameters = {"p_i": "H", "p_f": "H", "p_o": "H", "tau": "H", "shift": "H", "on": "H"}
    step_inputs = {"dt": ""}

    def __init__(self, on: float = 0.05, leak: float = 0.001, longest: float = 20.0) -> None:
        self.on = as_number("on", on, above=0, most=1)
        self.leak = as_number("leak", leak, least=0, most=1)
        self.longest = as_number("longest", longest, least=1)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "tau":
            tensor.uniform_(0.0, math.log(self.longest)).exp_()
        elif name == "shift":
            tensor.uniform_(0.0, 1.0)
        elif name == "on":
            tensor.fill_(self.on)
        return name in ("tau", "shift", "on")

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor, Tensor]:
        phase = _fraction(s.phase + x.dt / p.tau)
        phi = _fraction(phase - p.shift)
        ramp = 2 * phi / p.on
        k = torch.where(phi < 0.5 * p.on, ramp, torch.where(phi < p.on, 2 - ramp, self.leak * phi))
        i = torch.sigmoid(x.i + r.i + p.p_i * s.c)
        f = torch.sigmoid(x.f + r.f + p.p_f * s.c)
        c = f * s.c + i * torch.tanh(x.g + r.g)
        o = torch.sigmoid(x.o + r.o + p.p_o * c)
        return k * (o * torch.tanh(c)) + (1 - k) * s.h, k * c + (1 - k) * s.c, phase


def _fraction(v: Tensor) -> Tensor:
    """What v has above a whole number."""
    return v - torch.floor(v)
