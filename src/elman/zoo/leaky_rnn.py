"""A network in continuous time, as neuroscience trains it: leaky units, noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_choice, as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class LeakyRNN(Cell):
    """A rate network in continuous time, tau dv/dt = -v + W_hh h + W_ih x + b + noise, h = f(v), in steps of alpha = dt / tau.

    Units that only excite or only inhibit (Dale's law) and missing connections are constraints on the weights, which
    ``torch.nn.utils.parametrize`` keeps during training:

    >>> import elman, torch
    >>> class Dale(torch.nn.Module):
    ...     def __init__(self, excitatory, mask):
    ...         super().__init__()
    ...         signs = torch.where(torch.arange(mask.shape[1]) < excitatory, 1.0, -1.0)  # of the unit that sends
    ...         self.register_buffer("allowed", mask * signs)
    ...     def forward(self, weight):
    ...         return torch.relu(weight) * self.allowed
    ...     def right_inverse(self, weight):
    ...         return weight.abs()
    >>> net = elman.Recurrent(elman.zoo.LeakyRNN(alpha=0.2, noise=0.05), 10, 20)
    >>> mask = (torch.rand(20, 20) < 0.5) & ~torch.eye(20, dtype=torch.bool)  # sparse, no unit connected to itself
    >>> _ = torch.nn.utils.parametrize.register_parametrization(net, "weight_hh_l0", Dale(16, mask))
    >>> output, (h_n, v_n) = net(torch.randn(50, 3, 10))
    >>> bool((net.weight_hh_l0[:, :16] >= 0).all() and (net.weight_hh_l0[:, 16:] <= 0).all())
    True

    ::

        v' = (1 - alpha) v + alpha (W_hh h + b_hh + W_ih x + b_ih) + sqrt(2 alpha) noise xi
        h' = f(v')

    xi is a normal random number, fresh for each unit and step, in training only. The output is the rate h; the states are h and the
    current v.

    Source: H. F. Song, G. R. Yang, X.-J. Wang, "Training Excitatory-Inhibitory Recurrent Neural Networks for Cognitive Tasks: A Simple and
    Flexible Framework", PLOS Computational Biology 12 (2016).

    Args:
        alpha: the ratio of the time step to the units' time constant, dt / tau: above 0 and at most 1.
        noise: the standard deviation of the noise, sigma_rec in the paper.
        nonlinearity: f, "relu" or "tanh".
    """

    gates = ("v",)
    states = ("h", "v")

    def __init__(self, alpha: float = 0.2, noise: float = 0.0, nonlinearity: str = "relu") -> None:
        self.alpha = as_number("alpha", alpha, above=0, most=1)
        self.noise = as_number("noise", noise, least=0)
        self.nonlinearity = as_choice("nonlinearity", nonlinearity, ("relu", "tanh"))

    @property
    def draws(self) -> dict[str, str]:  # type: ignore[override]  # it depends on an option
        """Two uniform numbers for each unit and step, which make a normal one."""
        return {"radius": "step", "angle": "step"} if self.noise else {}

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values, d: Values | None = None) -> tuple[Tensor, Tensor]:
        v = (1 - self.alpha) * s.v + self.alpha * (x.v + r.v)
        if d is not None:
            xi = torch.sqrt(-2 * torch.log1p(-d.radius)) * torch.cos(2 * math.pi * d.angle)  # G. E. P. Box, M. E. Muller (1958)
            v = v + math.sqrt(2 * self.alpha) * self.noise * xi
        return torch.relu(v) if self.nonlinearity == "relu" else torch.tanh(v), v
