"""The light GRU: no reset gate, relu, normalized input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import layer_norm

from elman.cells import Cell
from elman.zoo.initial import orthogonal_
from elman.zoo.layer_norm_lstm import fill_norm
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class LiGRU(Cell):
    """The light GRU of speech recognition: no reset gate, relu instead of tanh, normalized input parts.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.LiGRU(), 10, 20, bidirectional=True)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        z  = sigmoid(gain_z LN(W_iz x + b_iz) + shift_z + W_hz h + b_hz)
        n  = relu(gain_n LN(W_in x + b_in) + shift_n + W_hn h + b_hn)
        h' = z h + (1 - z) n

    The paper normalizes over the batch, which a single step of one sequence cannot do. Instead LN normalizes each gate over its H units.
    b_ih then has hardly any effect and the shift replaces b_hh: ``bias=False`` leaves both out, as the paper does. The recurrent matrices
    are initially orthogonal, as in the paper.

    Source: M. Ravanelli, P. Brakel, M. Omologo, Y. Bengio, "Light Gated Recurrent Units for Speech Recognition", IEEE Transactions on
    Emerging Topics in Computational Intelligence 2 (2018).

    Args:
        eps: added to the variance.
    """

    gates = ("z", "n")
    parameters = {"gain_z": "H", "gain_n": "H", "shift_z": "H", "shift_n": "H"}

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = as_number("eps", eps, above=0)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "weight_hh":
            orthogonal_(tensor)
            return True
        return fill_norm(name, tensor)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        z = torch.sigmoid(layer_norm(x.z, x.z.shape[-1:], p.gain_z, p.shift_z, self.eps) + r.z)
        n = torch.relu(layer_norm(x.n, x.n.shape[-1:], p.gain_n, p.shift_n, self.eps) + r.n)
        return z * s.h + (1 - z) * n
