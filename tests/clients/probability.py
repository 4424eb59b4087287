"""pyro: modules whose class is made from torch.nn's, with weights that are drawn anew at each access.

requires: pyro-ppl
"""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import Normal
from pyro.nn import PyroModule, PyroSample
from swap import check
from torch import nn

x = torch.randn(5, 2, 3)


class Model(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.cell = PyroModule[nn.GRUCell](3, 4)
        self.cell.weight_hh = PyroSample(Normal(torch.zeros(12, 4), 1.0).to_event(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(2, 4)
        for each in x:
            h = self.cell(each, h)
        return h


def run(model: nn.Module) -> torch.Tensor:
    pyro.clear_param_store()
    return model(x)


check("pyro", Model, run)
