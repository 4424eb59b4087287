"""The gated recurrent unit of 2014, which resets before the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class GRU2014(Cell):
    """The gated recurrent unit as it was published: the reset gate acts on h before the product with W_hn.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.GRU2014(), 10, 20)
    >>> output, h_n = net(torch.randn(5, 3, 10))

    ::

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + W_hn (r h) + b_hn)
        h' = (1 - z) n + z h

    In torch.nn.GRU the reset gate acts on W_hn h + b_hn instead, so that one product serves all gates.

    Source: K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk, Y. Bengio, "Learning Phrase Representations using
    RNN Encoder-Decoder for Statistical Machine Translation", EMNLP (2014).
    """

    gates = ("r", "z", "n")

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        reset = torch.sigmoid(x.r + r.r)
        z = torch.sigmoid(x.z + r.z)
        n = torch.tanh(x.n + r("n", reset * s.h))
        return (1 - z) * n + z * s.h
