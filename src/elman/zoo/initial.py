"""Initial values that several papers ask for. Each function fills a tensor in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def orthogonal_(weight_hh: Tensor) -> None:
    """Fill each gate's (H, H) with an orthogonal matrix (A. M. Saxe, J. L. McClelland, S. Ganguli, ICLR 2014)."""
    for gate in weight_hh.chunk(weight_hh.shape[0] // weight_hh.shape[1]):
        matrix = torch.empty_like(gate, dtype=torch.promote_types(gate.dtype, torch.float32))  # one that torch can factorize
        nn.init.orthogonal_(matrix)
        gate.copy_(matrix)


def chrono_(bias: Tensor, max_steps: int, sign: float = 1.0) -> None:
    """Fill a gate's bias with ±log(u), u uniform over [1, max_steps - 1] (C. Tallec, Y. Ollivier, ICLR 2018).

    A gate that keeps the state a share sigmoid(log u) = u / (1 + u) of each time remembers over about u steps.
    """
    bias.uniform_(1.0, max_steps - 1.0).log_().mul_(sign)
