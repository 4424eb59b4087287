"""pytorch-nlp: layers whose weights are dropped, by a forward of the object that replaces parameters before each call.

requires: pytorch-nlp
"""

from __future__ import annotations

import warnings

import torch
from swap import check
from torch import nn
from torchnlp.nn import WeightDrop, WeightDropGRU, WeightDropLSTM

import elman

x = torch.randn(5, 2, 3)

# Their forward is an attribute that holds the method of the class as it was: convert leaves them alone and says so.
check("pytorch-nlp WeightDropLSTM", lambda: WeightDropLSTM(3, 4, 2, weight_dropout=0.5), lambda model: model(x)[0], convertible=False)
check("pytorch-nlp WeightDropGRU", lambda: WeightDropGRU(3, 4, weight_dropout=0.5), lambda model: model(x)[0], convertible=False)


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.drop = WeightDrop(self.cell, ["weight_hh"], 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(x, torch.ones(2, 4))


check("pytorch-nlp WeightDrop", Dropped, lambda model: model(x[0]), convertible=False)

model = WeightDropLSTM(3, 4)
with warnings.catch_warnings(record=True) as caught:
    elman.convert(model)
assert type(model) is WeightDropLSTM
assert "an attribute forward replaces its method" in str(caught[0].message)
