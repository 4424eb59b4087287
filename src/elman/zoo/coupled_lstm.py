"""Long short-term memory that forgets as much as it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class CoupledLSTM(Cell):
    """Long short-term memory with one gate for writing and forgetting (CIFG): three quarters of an LSTM's weights.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.CoupledLSTM(), 10, 20)
    >>> output, (h_n, c_n) = net(torch.randn(5, 3, 10))

    ::

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
        g  = tanh(W_ig x + b_ig + W_hg h + b_hg)
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho)
        c' = (1 - i) c + i g
        h' = o tanh(c')

    The paper compares it with an LSTM that has peepholes; this one has none, as torch.nn.LSTM has none.

    Source: K. Greff, R. K. Srivastava, J. Koutník, B. R. Steunebrink, J. Schmidhuber, "LSTM: A Search Space Odyssey", IEEE Transactions on
    Neural Networks and Learning Systems 28 (2017).
    """

    gates = ("i", "g", "o")
    states = ("h", "c")

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x.i + r.i)
        g = torch.tanh(x.g + r.g)
        o = torch.sigmoid(x.o + r.o)
        c = (1 - i) * s.c + i * g
        return o * torch.tanh(c), c
