"""A gated cell with the matrices of an Elman network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from elman.cells import Cell
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class FastGRNN(Cell):
    """A gated cell for small devices: gate and candidate share one W and one U, a third of a GRU's weights.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.FastGRNN(), 10, 20, bias=False)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        a  = W_iz x + b_iz + W_hz h + b_hz
        z  = sigmoid(a + b_z)
        n  = tanh(a + b_n)
        h' = (sigmoid(zeta) (1 - z) + sigmoid(nu)) n + z h

    The paper's two numbers between 0 and 1 are the sigmoids of zeta and nu, with the initial values of the authors' code. The paper has
    only the biases b_z and b_n: build the network with ``bias=False``; otherwise z and n also share b_ih and b_hh. The matrices are neither
    factorized nor sparse; use ``torch.nn.utils.parametrize`` for that.

    Source: A. Kusupati, M. Singh, K. Bhatia, A. Kumar, P. Jain, M. Varma, "FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized Gated
    Recurrent Neural Network", NeurIPS (2018).

    Args:
        zeta, nu: the initial values of these parameters.
    """

    gates = ("z",)
    parameters = {"b_z": "H", "b_n": "H", "zeta": "", "nu": ""}

    def __init__(self, zeta: float = 1.0, nu: float = -4.0) -> None:
        self.zeta = as_number("zeta", zeta)
        self.nu = as_number("nu", nu)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name.startswith("weight"):
            nn.init.normal_(tensor, 0.0, 0.1)
        elif name.startswith("bias"):
            tensor.zero_()
        else:
            tensor.fill_({"zeta": self.zeta, "nu": self.nu}.get(name, 1.0))
        return True

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        a = x.z + r.z
        z = torch.sigmoid(a + p.b_z)
        n = torch.tanh(a + p.b_n)
        return (torch.sigmoid(p.zeta) * (1 - z) + torch.sigmoid(p.nu)) * n + z * s.h
