"""A GRU whose gates depend on the input alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_switch

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class MinGRU(Cell):
    """A GRU whose gate and candidate depend on the input alone: there are no recurrent weights, and no product in a step.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.MinGRU(), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        z  = sigmoid(W_iz x + b_iz)
        n  = W_in x + b_in
        h' = (1 - z) h + z n

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadegh, "Were RNNs All We Needed?", arXiv 2410.01201 (2024).

    Args:
        positive: whether n is g(W_in x + b_in), where g(a) is a + 0.5 for a >= 0 and sigmoid(a) otherwise: the paper's variant for
            computing in logarithms. By default n is linear, as in the paper's definition of the cell.
    """

    gates = ("z", "n")
    recurrent_gates = ()

    def __init__(self, positive: bool = False) -> None:
        self.positive = as_switch("positive", positive)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        z = torch.sigmoid(x.z)
        n = positive_part(x.n) if self.positive else x.n
        return (1 - z) * s.h + z * n


def positive_part(a: Tensor) -> Tensor:
    """g(a), which is positive: a + 0.5 for a >= 0, sigmoid(a) otherwise."""
    return torch.where(a >= 0, a + 0.5, torch.sigmoid(a))
