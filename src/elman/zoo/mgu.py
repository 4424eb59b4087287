"""The minimal gated unit: a GRU with one gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class MGU(Cell):
    """The minimal gated unit: one gate both resets and updates. Two thirds of a GRU's weights.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.MGU(), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
        n  = tanh(W_in x + b_in + W_hn (f h) + b_hn)
        h' = (1 - f) h + f n

    Source: G.-B. Zhou, J. Wu, C.-L. Zhang, Z.-H. Zhou, "Minimal Gated Unit for Recurrent Neural Networks", International Journal of
    Automation and Computing 13 (2016).
    """

    gates = ("f", "n")

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        f = torch.sigmoid(x.f + r.f)
        n = torch.tanh(x.n + r("n", f * s.h))
        return (1 - f) * s.h + f * n
