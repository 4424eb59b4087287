"""An LSTM whose gates depend on the input alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from elman.cells import Cell
from elman.zoo.min_gru import positive_part
from elman.zoo.options import as_switch

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class MinLSTM(Cell):
    """An LSTM whose gates and candidate depend on the input alone: there are no recurrent weights, and no product in a step.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.MinLSTM(), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        f  = sigmoid(W_if x + b_if)
        i  = sigmoid(W_ii x + b_ii)
        n  = W_in x + b_in
        h' = f / (f + i) h + i / (f + i) n

    This is the variant whose two gates sum to 1, which the paper calls length-independent. f / (f + i) is computed as in the paper, as
    sigmoid(log f - log i) with log f = -softplus(-a), which stays finite where both gates are near 0.

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadegh, "Were RNNs All We Needed?", arXiv 2410.01201 (2024).

    Args:
        positive: whether n is g(W_in x + b_in), where g(a) is a + 0.5 for a >= 0 and sigmoid(a) otherwise: the paper's variant for
            computing in logarithms. By default n is linear, as in the paper's definition of the cell.
    """

    gates = ("f", "i", "n")
    recurrent_gates = ()

    def __init__(self, positive: bool = False) -> None:
        self.positive = as_switch("positive", positive)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        _f, _i = torch.sigmoid(x.f), torch.sigmoid(x.i)  # for trace, whose gates they are
        n = positive_part(x.n) if self.positive else x.n
        keep = torch.sigmoid(softplus(-x.i) - softplus(-x.f))
        return keep * s.h + (1 - keep) * n
