"""The gated recurrent unit with layer normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import layer_norm

from elman.cells import Cell
from elman.zoo.layer_norm_lstm import fill_norm
from elman.zoo.norm import normalized
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class LayerNormGRU(Cell):
    """The gated recurrent unit whose products are normalized over the units of each sequence.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.LayerNormGRU(), 10, 20, bias=False)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        (z, r) = gain_ih LN(W_ih x + b_ih) + gain_hh LN(W_hh h + b_hh) + shift
        n  = tanh(gain_ih_n LN(W_in x + b_in) + shift_n + sigmoid(r) (gain_hh_n LN(W_hn h + b_hn) + shift_hn))
        h' = (1 - sigmoid(z)) h + sigmoid(z) n

    LN subtracts the mean and divides by the standard deviation, sqrt(variance + eps): of the 2·H numbers of z and r together, and of the H
    of n. z weighs the new state here; in torch.nn.GRU it weighs the old one. As in ``LayerNormLSTM``, shifts that are only added to each
    other are merged into one, so build the network with ``bias=False``. Gains are initially 1, shifts 0.

    Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv 1607.06450 (2016).

    Args:
        eps: added to the variance. The paper gives no value.
    """

    gates = ("z", "r", "n")
    parameters = dict.fromkeys([f"{kind}_{gate}" for kind in ("gain_ih", "gain_hh", "shift") for gate in ("z", "r", "n")], "H") | {
        "shift_hn": "H"
    }

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = as_number("eps", eps, above=0)

    def init(self, name: str, tensor: Tensor) -> bool:
        return fill_norm(name, tensor)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        below_z, below_r = normalized((x.z, x.r), self.eps)
        before_z, before_r = normalized((r.z, r.r), self.eps)
        z = torch.sigmoid(p.shift_z + p.gain_ih_z * below_z + p.gain_hh_z * before_z)
        reset = torch.sigmoid(p.shift_r + p.gain_ih_r * below_r + p.gain_hh_r * before_r)
        below = layer_norm(x.n, x.n.shape[-1:], p.gain_ih_n, p.shift_n, self.eps)
        before = layer_norm(r.n, r.n.shape[-1:], p.gain_hh_n, p.shift_hn, self.eps)
        n = torch.tanh(below + reset * before)
        return (1 - z) * s.h + z * n
