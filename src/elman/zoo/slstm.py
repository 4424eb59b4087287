"""Long short-term memory with exponential gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from elman.cells import Cell
from elman.zoo.options import as_choice

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class SLSTM(Cell):
    """Long short-term memory with exponential gates, the sLSTM of xLSTM, in the stabilized form that does not overflow.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.SLSTM(), 10, 20)
    >>> output, (h_n, c_n, n_n, m_n) = net(torch.randn(5, 3, 10))

    With i, f, g and o for W_ii x + b_ii + W_hi h + b_hi etc.::

        c' = F c + exp(i) tanh(g)       F = sigmoid(f), or exp(f)
        n' = F n + exp(i)
        h' = sigmoid(o) c' / n'

    The states c and n are kept divided by exp(m), m' = max(log F + m, i), so that no exponential is above 1. A sequence begins with n = 0,
    nothing stored, so the initial m does not matter. A negative n, as an initial state may have that is learned, counts as 0.

    The paper mixes only units of the same head; here W_hh mixes all units, as with one head.

    Source: M. Beck, K. Pöppel, M. Spanring, A. Auer, O. Prudnikova, M. Kopp, G. Klambauer, J. Brandstetter, S. Hochreiter, "xLSTM: Extended
    Long Short-Term Memory", NeurIPS (2024).

    Args:
        forget: F, "sigmoid" or "exp". The paper allows both.
    """

    gates = ("i", "f", "g", "o")
    states = ("h", "c", "n", "m")

    def __init__(self, forget: str = "sigmoid") -> None:
        self.forget = as_choice("forget", forget, ("sigmoid", "exp"))

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_i = x.i + r.i
        f = x.f + r.f
        log_f = f if self.forget == "exp" else -softplus(-f)
        kept = torch.where(s.n > 0, log_f + s.m, log_i)  # the logarithm of what the old memory counts; of none, anything
        m = torch.maximum(kept, log_i)
        i, keep = torch.exp(log_i - m), torch.exp(kept - m)
        c = keep * s.c + i * torch.tanh(x.g + r.g)
        n = keep * torch.where(s.n < 0, 0.0, s.n) + i  # no clamp: from torch 2.14 on, a learned n that begins at 0 would get no gradient
        return torch.sigmoid(x.o + r.o) * c / n, c, n, m
