"""pytorch-forecasting: subclasses of nn.LSTM and nn.GRU beside ABC, whose forward packs; they take sequences of length zero.

requires: pytorch-forecasting
"""

from __future__ import annotations

import warnings

import torch
from pytorch_forecasting.models.nn import get_rnn
from swap import check
from torch import nn

warnings.simplefilter("ignore")  # convert names the classes that override forward


class Encoder(nn.Module):
    def __init__(self, cell: str, batch_first: bool) -> None:
        super().__init__()
        self.rnn = get_rnn(cell)(3, 8, num_layers=1, batch_first=batch_first)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output, hidden = self.rnn(x, lengths=torch.tensor([4, 0, 2]), enforce_sorted=False)
        again, _ = self.rnn(x, self.rnn.init_hidden_state(x))
        hidden = self.rnn.repeat_interleave(hidden, 2)
        return output, again, *((hidden,) if isinstance(hidden, torch.Tensor) else hidden)


x = torch.randn(3, 4, 3)
for cell in ("LSTM", "GRU"):
    check(f"pytorch-forecasting {cell}", lambda cell=cell: Encoder(cell, True), lambda model: model(x))
