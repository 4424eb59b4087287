"""A closed form of a liquid network, for irregular times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class CfC(Cell):
    """The closed-form continuous-time network: the time since the last step interpolates between two states.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.CfC(), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10), dt=torch.rand(5, 3))  # dt: the time since the step before

    ::

        f  = W_if x + b_if + W_hf h + b_hf
        g  = tanh(W_ig x + b_ig + W_hg h + b_hg)
        k  = tanh(W_ik x + b_ik + W_hk h + b_hk)
        h' = sigmoid(-f dt) g + (1 - sigmoid(-f dt)) k

    The paper does not fix the three functions of x and h (f, g and h there). Here each is one layer. The paper's common layers below them
    are left out: put them before the network.

    Source: R. Hasani, M. Lechner, A. Amini, L. Liebenwein, A. Ray, M. Tschaikowski, G. Teschl, D. Rus, "Closed-form Continuous-time Neural
    Networks", Nature Machine Intelligence 4 (2022).
    """

    gates = ("f", "g", "k")
    step_inputs = {"dt": ""}

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        f = torch.sigmoid(-(x.f + r.f) * x.dt)
        g = torch.tanh(x.g + r.g)
        k = torch.tanh(x.k + r.k)
        return f * g + (1 - f) * k
