"""A cell made to be stacked in many layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.initial import chrono_, orthogonal_
from elman.zoo.options import as_steps

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class STAR(Cell):
    """The stackable recurrent cell: gradients keep their size through many layers. Three matrices, one of them recurrent.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.STAR(), 10, 20, num_layers=8)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        z  = tanh(W_iz x + b_iz)
        k  = sigmoid(W_ik x + b_ik + W_hk h + b_hk)
        h' = tanh((1 - k) h + k z)

    The recurrent matrix is initially orthogonal. With max_steps the gate's bias is initially -log(u), u uniform over [1, max_steps - 1],
    and the other biases 0 (chrono initialization; k weighs the new state).

    Source: M. O. Turkoglu, S. D'Aronco, J. D. Wegner, K. Schindler, "Gating Revisited: Deep Multi-layer RNNs That Can Be Trained", IEEE
    Transactions on Pattern Analysis and Machine Intelligence 44 (2022).

    Args:
        max_steps: the longest time, in steps, over which the network is to remember, at least 3. By default the biases are drawn as in
            torch.nn.
    """

    gates = ("z", "k")
    recurrent_gates = ("k",)

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = as_steps("max_steps", max_steps)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "weight_hh":
            orthogonal_(tensor)
            return True
        if self.max_steps is None or not name.startswith("bias"):
            return False
        tensor.zero_()
        if name == "bias_ih":
            chrono_(tensor.chunk(2)[1], self.max_steps, sign=-1.0)
        return True

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        z = torch.tanh(x.z)
        k = torch.sigmoid(x.k + r.k)
        return torch.tanh((1 - k) * s.h + k * z)
