"""The Elman cell: h = f(x W_ih^T + b_ih + h W_hh^T + b_hh), f being tanh or relu.

Source: J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990). With relu: Q. V. Le, N. Jaitly, G. E. Hinton,
"A Simple Way to Initialize Recurrent Networks of Rectified Linear Units" (2015), but for its initial weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from elman.cells.cell import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


@final
class ElmanTanh(Cell):
    name = "rnn_tanh"
    gates = ("h",)
    states = ("h",)
    traced = ()  # its only gate is the state
    equations = ("h' = tanh(W_ih x + b_ih + W_hh h + b_hh)",)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        return torch.tanh(r.h + x.h)  # in this order Inductor makes the input's product when its step comes, not all of them first


@final
class ElmanRelu(Cell):
    name = "rnn_relu"
    gates = ("h",)
    states = ("h",)
    traced = ()  # its only gate is the state
    equations = ("h' = relu(W_ih x + b_ih + W_hh h + b_hh)",)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        return torch.relu(r.h + x.h)


NONLINEARITIES: dict[str, type[Cell]] = {"tanh": ElmanTanh, "relu": ElmanRelu}
