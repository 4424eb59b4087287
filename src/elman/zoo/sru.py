"""The simple recurrent unit: gates of the input and of the unit's own memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class SRU(Cell):
    """The simple recurrent unit: no product in a step, and a highway from the input to the output, for many layers.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.SRU(), 10, 20, num_layers=4)
    >>> output, (h_n, c_n) = net(torch.randn(5, 3, 10))

    ::

        f  = sigmoid(W_if x + b_if + v_f c)
        c' = f c + (1 - f) (W_in x + b_in)
        r  = sigmoid(W_ir x + b_ir + v_r c)
        h' = r c' + (1 - r) alpha (W_ik x + b_ik)

    with alpha = sqrt(1 + 2 exp(highway_bias)). The paper's highway passes on x itself, or a product of x if the numbers of
    units and inputs differ: here it is always the product. Initially W is uniform with variance 1/I, as in the paper, b_ir is highway_bias,
    and all else 0.

    Source: T. Lei, Y. Zhang, S. I. Wang, H. Dai, Y. Artzi, "Simple Recurrent Units for Highly Parallelizable Recurrence", EMNLP (2018).

    Args:
        highway_bias: the initial bias of r; a negative one lets more of the input pass.
    """

    gates = ("f", "n", "r", "k")
    recurrent_gates = ()
    states = ("h", "c")
    parameters = {"v_f": "H", "v_r": "H"}

    def __init__(self, highway_bias: float = 0.0) -> None:
        self.highway_bias = as_number("highway_bias", highway_bias)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "weight_ih":
            bound = math.sqrt(3 / tensor.shape[1])
            tensor.uniform_(-bound, bound)
        else:
            tensor.zero_()
        if name == "bias_ih":
            tensor.chunk(4)[2].fill_(self.highway_bias)
        return True

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        f = torch.sigmoid(x.f + p.v_f * s.c)
        c = f * s.c + (1 - f) * x.n
        reset = torch.sigmoid(x.r + p.v_r * s.c)
        alpha = math.sqrt(1 + 2 * math.exp(self.highway_bias))
        return reset * c + (1 - reset) * (alpha * x.k), c
