"""Long short-term memory whose gates see the cell state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class PeepholeLSTM(Cell):
    """Long short-term memory whose gates see the cell state, through a weight for each unit.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.PeepholeLSTM(), 10, 20)
    >>> output, (h_n, c_n) = net(torch.randn(5, 3, 10))

    ::

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi + p_i c)
        f  = sigmoid(W_if x + b_if + W_hf h + b_hf + p_f c)
        g  = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f c + i g
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho + p_o c')
        h' = o tanh(c')

    The output gate sees the new cell state, the others the old one. The squashing functions are tanh, as in an LSTM.

    Source: F. A. Gers, J. Schmidhuber, "Recurrent Nets that Time and Count", IJCNN (2000).
    """

    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    parameters = {"p_i": "H", "p_f": "H", "p_o": "H"}

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x.i + r.i + p.p_i * s.c)
        f = torch.sigmoid(x.f + r.f + p.p_f * s.c)
        c = f * s.c + i * torch.tanh(x.g + r.g)
        o = torch.sigmoid(x.o + r.o + p.p_o * c)
        return o * torch.tanh(c), c
