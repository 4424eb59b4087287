"""Long short-term memory with layer normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import layer_norm

from elman.cells import Cell
from elman.zoo.norm import normalized
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values

_GATES = ("i", "f", "g", "o")


class LayerNormLSTM(Cell):
    """Long short-term memory whose products and cell state are normalized over the units of each sequence.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.LayerNormLSTM(), 10, 20, bias=False)
    >>> output, (h_n, c_n) = net(torch.randn(5, 3, 10))

    ::

        (i, f, g, o) = gain_ih LN(W_ih x + b_ih) + gain_hh LN(W_hh h + b_hh) + shift
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(gain_c LN(c') + shift_c)

    LN subtracts the mean and divides by the standard deviation, sqrt(variance + eps): of all 4·H numbers of a product, and of the H of c'.
    The paper's two shifts and its bias are only added to each other, so they are merged into one, ``shift``. Build the network with
    ``bias=False``; otherwise it also has biases before the normalization. Gains are initially 1, shifts 0, as in the paper.

    Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv 1607.06450 (2016).

    Args:
        eps: added to the variance. The paper gives no value.
    """

    gates = _GATES
    states = ("h", "c")
    parameters = dict.fromkeys([f"{kind}_{gate}" for kind in ("gain_ih", "gain_hh", "shift") for gate in _GATES], "H") | {
        "gain_c": "H",
        "shift_c": "H",
    }

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = as_number("eps", eps, above=0)

    def init(self, name: str, tensor: Tensor) -> bool:
        return fill_norm(name, tensor)

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        below = normalized((x.i, x.f, x.g, x.o), self.eps)
        before = normalized((r.i, r.f, r.g, r.o), self.eps)
        i = p.shift_i + p.gain_ih_i * below[0] + p.gain_hh_i * before[0]
        f = p.shift_f + p.gain_ih_f * below[1] + p.gain_hh_f * before[1]
        g = p.shift_g + p.gain_ih_g * below[2] + p.gain_hh_g * before[2]
        o = p.shift_o + p.gain_ih_o * below[3] + p.gain_hh_o * before[3]
        c = torch.sigmoid(f) * s.c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(layer_norm(c, c.shape[-1:], p.gain_c, p.shift_c, self.eps)), c


def fill_norm(name: str, tensor: Tensor) -> bool:
    """Fill a gain with 1 and a shift with 0. Returns whether it was one of these."""
    kind = name.split("_")[0]
    if kind in ("gain", "shift"):
        tensor.fill_(1.0 if kind == "gain" else 0.0)
    return kind in ("gain", "shift")
