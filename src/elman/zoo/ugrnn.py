"""The update gate RNN: an Elman network with one gate, which keeps the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class UGRNN(Cell):
    """The update gate RNN: an Elman network with one gate, which keeps the state.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.UGRNN(), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        n  = tanh(W_in x + b_in + W_hn h + b_hn)
        g  = sigmoid(W_ig x + b_ig + W_hg h + b_hg + keep_bias)
        h' = g h + (1 - g) n

    Source: J. Collins, J. Sohl-Dickstein, D. Sussillo, "Capacity and Trainability in Recurrent Neural Networks", ICLR (2017).

    Args:
        keep_bias: added to the gate's pre-activation. The paper tunes it; 1 is the usual value.
    """

    gates = ("n", "g")

    def __init__(self, keep_bias: float = 1.0) -> None:
        self.keep_bias = as_number("keep_bias", keep_bias)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        n = torch.tanh(x.n + r.n)
        g = torch.sigmoid(x.g + r.g + self.keep_bias)
        return g * s.h + (1 - g) * n
