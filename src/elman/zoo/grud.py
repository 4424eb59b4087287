"""A GRU whose state decays between observations, and what fills in missing values for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elman.cells import Cell
from elman.layers.errors import wrong_kind
from elman.layers.options import as_size
from elman.zoo.options import as_switch

if TYPE_CHECKING:
    from elman.cells.values import RecurrentParts, Values


class GRUD(Cell):
    """A GRU for measurements at irregular times and with missing values: its state decays with the time since the previous step.

    >>> import elman, torch
    >>> fill = elman.zoo.GRUDInput(10)
    >>> net = elman.Recurrent(elman.zoo.GRUD(), 2 * 10, 20)
    >>> values, mask = torch.randn(5, 3, 10), torch.rand(5, 3, 10) < 0.7  # mask: what was measured
    >>> dt = torch.rand(5, 3)  # the time since the step before
    >>> output, h_n = net(fill(values, mask, dt), dt=dt)

    ::

        d  = exp(-max(0, w_d dt + b_d)) h
        r  = sigmoid(W_ir x + b_ir + W_hr d + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz d + b_hz)
        n  = tanh(W_in x + b_in + W_hn (r d) + b_hn)
        h' = (1 - z) d + z n

    x holds the filled-in values and the mask, concatenated, as ``GRUDInput`` returns them: W_i contains the paper's W for the values and
    its V for the mask. The state decays with one time, dt, for all variables; the paper mixes one time per variable. w_d and b_d are
    initially uniform over [0, 1/sqrt(H)], so that every unit decays. z weighs the new state here; in torch.nn.GRU it weighs the old one.

    Source: Z. Che, S. Purushotham, K. Cho, D. Sontag, Y. Liu, "Recurrent Neural Networks for Multivariate Time Series with Missing Values",
    Scientific Reports 8 (2018).
    """

    gates = ("r", "z", "n")
    parameters = {"w_d": "H", "b_d": "H"}
    step_inputs = {"dt": ""}

    def init(self, name: str, tensor: Tensor) -> bool:
        if name in self.parameters:
            tensor.uniform_(0.0, tensor.shape[0] ** -0.5)
        return name in self.parameters

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        d = torch.exp(-torch.relu(p.w_d * x.dt + p.b_d)) * s.h
        reset = torch.sigmoid(x.r + r("r", d))
        z = torch.sigmoid(x.z + r("z", d))
        n = torch.tanh(x.n + r("n", reset * d))
        return (1 - z) * d + z * n


class GRUDInput(nn.Module):
    """The input of ``GRUD``: measurements with missing values filled in, and the mask that says which were measured.

    >>> import elman, torch
    >>> fill = elman.zoo.GRUDInput(10)
    >>> fill(torch.randn(5, 3, 10), torch.rand(5, 3, 10) < 0.7, torch.rand(5, 3)).shape
    torch.Size([5, 3, 20])

    A missing value is filled in between the variable's last measurement and its mean, closer to the mean the older the measurement is::

        g = exp(-max(0, w delta + b))
        x = g last + (1 - g) mean

    delta being the time since the last measurement before this step, w and b a number for each variable. Before the first measurement a
    value is the mean.

    Attributes:
        w, b: (I,), uniform over [0, 1/sqrt(I)] at first.
        mean: (I,), a buffer: zeros, for standardized values, until you set it.

    Args:
        num_variables: I, the number of variables.
        batch_first: whether the axes are (B, T, I) instead of (T, B, I).

    Raises:
        TypeError: num_variables is not an int, or batch_first is not a bool.
        ValueError: it is not positive.
    """

    mean: Tensor

    def __init__(self, num_variables: int, batch_first: bool = False) -> None:
        super().__init__()
        self.num_variables = as_size("num_variables", num_variables, 1)
        self.batch_first = as_switch("batch_first", batch_first)
        bound = self.num_variables**-0.5
        self.w, self.b = (nn.Parameter(torch.empty(self.num_variables).uniform_(0.0, bound)) for _ in range(2))
        self.register_buffer("mean", torch.zeros(self.num_variables))

    def extra_repr(self) -> str:
        return f"{self.num_variables}, batch_first=True" if self.batch_first else str(self.num_variables)

    def forward(self, values: Tensor, mask: Tensor, dt: Tensor) -> Tensor:
        """Fill in the missing values.

        Args:
            values: (T, B, I). Values where the mask is False have no effect, even NaN.
            mask: bools, as values: what was measured.
            dt: (T, B), the time since the previous step; that of the first step has no effect.

        Returns:
            The values and the mask, concatenated, (T, B, 2·I).

        Raises:
            TypeError: an argument is not a tensor, or mask is not of bools.
            RuntimeError: a shape is wrong.
        """
        for name, tensor in (("values", values), ("mask", mask), ("dt", dt)):
            if not isinstance(tensor, Tensor):
                raise wrong_kind(name, "a tensor", tensor)
        if mask.dtype is not torch.bool:
            raise TypeError(f"expected mask to have bools, got {mask.dtype}: pass mask.bool()")
        if values.dim() != 3 or values.shape[2] != self.num_variables:
            raise RuntimeError(f"expected values of shape (T, B, {self.num_variables}), got {tuple(values.shape)}")
        if mask.shape != values.shape or dt.shape != values.shape[:2]:
            raise RuntimeError(
                f"expected mask of shape {tuple(values.shape)} and dt of shape {tuple(values.shape[:2])}, got {tuple(mask.shape)} and "
                f"{tuple(dt.shape)}: give a mask for each value and a time for each step"
            )
        time = 1 if self.batch_first else 0
        steps = torch.arange(values.shape[time], device=values.device).view((1, -1, 1) if self.batch_first else (-1, 1, 1))
        seen = torch.where(mask, steps, -1).cummax(time).values.roll(1, time)  # the last measurement before each step, -1 for none
        seen = torch.where(steps == 0, -1, seen)
        dt = torch.where(steps.squeeze(-1) == 0, 0.0, dt.double())  # wide: times of long ago are taken from one another
        clock = dt.cumsum(time).unsqueeze(-1).expand_as(values)
        delta = (clock - clock.gather(time, seen.clamp(min=0))).to(values.dtype)
        known = torch.where(mask, values, 0.0)
        last = torch.where(seen < 0, self.mean, known.gather(time, seen.clamp(min=0)))
        kept = torch.exp(-torch.relu(self.w * delta + self.b))
        filled = torch.where(mask, values, kept * last + (1 - kept) * self.mean)
        return torch.cat((filled, mask.to(filled.dtype)), -1)
