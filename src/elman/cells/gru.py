"""The gated recurrent unit: a reset gate r, an update gate z, and a candidate n between which and the old state z chooses.

Source: K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk, Y. Bengio, "Learning Phrase Representations using
RNN Encoder-Decoder for Statistical Machine Translation", EMNLP (2014). There r gates h before W_hn; here it gates W_hn h, bias
included, as in torch.nn and cuDNN, so that one product with h serves all three gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from elman.cells.cell import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


@final
class Gru(Cell):
    name = "gru"
    gates = ("r", "z", "n")
    states = ("h",)
    saved = ("r", "z", "n", "")  # the last: the recurrent part of n
    sums = ("h",)
    equations = (
        "r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)",
        "z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)",
        "n = tanh(W_in x + b_in + r * (W_hn h + b_hn))",
        "h' = (1 - z) * n + z * h",
    )

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        reset = torch.sigmoid(x.r + r.r)
        z = torch.sigmoid(x.z + r.z)
        n = torch.tanh(x.n + reset * r.n)
        return n + z * (s.h - n)
