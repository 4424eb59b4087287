"""Independent units: each has a recurrent weight for itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_choice, as_number, as_steps

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class IndRNN(Cell):
    """A network of independent units: each has one recurrent weight, u, and sees the others through the next layer only.

    >>> import elman, torch
    >>> cell = elman.zoo.IndRNN(max_steps=100)
    >>> net = elman.Recurrent(cell, 10, 20, num_layers=2)
    >>> output, h_n = net(torch.randn(100, 3, 10))
    >>> with torch.no_grad():  # after each step of the optimizer, to keep the gradients bounded
    ...     for name, parameter in net.named_parameters():
    ...         if name.startswith("u_"):
    ...             _ = parameter.clamp_(-cell.bound, cell.bound)

    ::

        h' = f(W_ih x + b_ih + u h)

    u is initially uniform over [0, bound]. ``bound`` is gamma ** (1 / max_steps), so that u ** max_steps stays below gamma; without
    max_steps it is 1.

    Source: S. Li, W. Li, C. Cook, C. Zhu, Y. Gao, "Independently Recurrent Neural Network (IndRNN): Building a Longer and Deeper RNN", CVPR
    (2018).

    Args:
        nonlinearity: f, "relu" or "tanh".
        max_steps: the number of steps over which a gradient must not explode, at least 3.
        gamma: the factor by which it may grow over them.
    """

    gates = ("h",)
    recurrent_gates = ()
    parameters = {"u": "H"}

    def __init__(self, nonlinearity: str = "relu", max_steps: int | None = None, gamma: float = 2.0) -> None:
        self.nonlinearity = as_choice("nonlinearity", nonlinearity, ("relu", "tanh"))
        self.max_steps = as_steps("max_steps", max_steps)
        self.gamma = as_number("gamma", gamma, above=0)

    @property
    def bound(self) -> float:
        """The largest recurrent weight."""
        return 1.0 if self.max_steps is None else float(self.gamma ** (1 / self.max_steps))

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "u":
            tensor.uniform_(0.0, self.bound)
        return name == "u"

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        a = x.h + p.u * s.h
        return torch.relu(a) if self.nonlinearity == "relu" else torch.tanh(a)
