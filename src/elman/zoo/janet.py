"""Just another network: an LSTM with the forget gate alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.initial import chrono_
from elman.zoo.options import as_number, as_steps

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class JANET(Cell):
    """Long short-term memory with the forget gate alone: half of an LSTM's weights.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.JANET(max_steps=784), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        a  = W_if x + b_if + W_hf h + b_hf
        n  = tanh(W_in x + b_in + W_hn h + b_hn)
        h' = sigmoid(a) h + (1 - sigmoid(a - beta)) n

    Its output is its cell state. With max_steps the forget gate's bias is initially log(u), u uniform over [1, max_steps - 1], and the
    other biases 0, as in the paper (chrono initialization).

    Source: J. van der Westhuizen, J. Lasenby, "The Unreasonable Effectiveness of the Forget Gate", arXiv 1804.04849 (2018).

    Args:
        beta: the amount subtracted from the gate's pre-activation for writing, so that more is written than forgotten.
        max_steps: the longest time, in steps, over which the network is to remember, at least 3. By default all is drawn as in torch.nn.
    """

    gates = ("f", "n")

    def __init__(self, beta: float = 1.0, max_steps: int | None = None) -> None:
        self.beta = as_number("beta", beta)
        self.max_steps = as_steps("max_steps", max_steps)

    def init(self, name: str, tensor: Tensor) -> bool:
        if self.max_steps is None or not name.startswith("bias"):
            return False
        tensor.zero_()
        if name == "bias_ih":
            chrono_(tensor.chunk(2)[0], self.max_steps)
        return True

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        a = x.f + r.f
        n = torch.tanh(x.n + r.n)
        return torch.sigmoid(a) * s.h + (1 - torch.sigmoid(a - self.beta)) * n
