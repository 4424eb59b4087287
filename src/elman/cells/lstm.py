"""Long short-term memory: a cell state c; the gates i, f and o control what is written, kept and output; g is the candidate to write.

Source: S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997); the forget gate f: F. A. Gers, J. Schmidhuber,
F. Cummins, "Learning to Forget: Continual Prediction with LSTM", Neural Computation 12 (2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from elman.cells.cell import Cell

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


@final
class Lstm(Cell):
    name = "lstm"
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    saved = ("i", "f", "g", "o", "c")
    sums = ("c",)
    equations = (
        "i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)",
        "f = sigmoid(W_if x + b_if + W_hf h + b_hf)",
        "g = tanh(W_ig x + b_ig + W_hg h + b_hg)",
        "o = sigmoid(W_io x + b_io + W_ho h + b_ho)",
        "c' = f * c + i * g",
        "h' = o * tanh(c')",
    )

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        i = torch.sigmoid(x.i + r.i)
        f = torch.sigmoid(x.f + r.f)
        g = torch.tanh(x.g + r.g)
        o = torch.sigmoid(x.o + r.o)
        c = f * s.c + i * g
        return o * torch.tanh(c), c
