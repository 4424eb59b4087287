"""A network of coupled, damped, driven oscillators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.cells import Cell
from elman.zoo.options import as_number

if TYPE_CHECKING:
    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values


class CoRNN(Cell):
    """Coupled oscillators, y'' = tanh(W y + V y' + U x + b) - gamma y - epsilon y', for very long sequences.

    >>> import elman, torch
    >>> net = elman.Recurrent(elman.zoo.CoRNN(), 10, 20)
    >>> output, (y_n, z_n) = net(torch.randn(5, 3, 10))

    ::

        z' = z + dt (tanh(W_iy x + b_iy + W_hy y + b_hy + W_hz z + b_hz) - gamma y - epsilon z)
        y' = y + dt z'

    y is the oscillators' position and the output, z their velocity. The damping uses z, as in the authors' code; the paper also has a
    variant with z'. The initial matrices are uniform over ±1/sqrt(columns), as in the paper.

    Source: T. K. Rusch, S. Mishra, "Coupled Oscillatory Recurrent Neural Network (coRNN): An Accurate and (Gradient) Stable Architecture
    for Learning Long Time Dependencies", ICLR (2021).

    Args:
        dt: the time of a step. This and the other defaults are those of the paper's sequential MNIST.
        gamma: the oscillators' stiffness, their frequency squared.
        epsilon: their damping.
    """

    gates = ("y", "z")
    input_gates = ("y",)
    states = ("y", "z")

    def __init__(self, dt: float = 0.042, gamma: float = 2.7, epsilon: float = 4.7) -> None:
        self.dt = as_number("dt", dt, above=0)
        self.gamma = as_number("gamma", gamma, least=0)
        self.epsilon = as_number("epsilon", epsilon, least=0)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "weight_ih":
            bound = tensor.shape[1] ** -0.5
            tensor.uniform_(-bound, bound)
        return name == "weight_ih"

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        force = torch.tanh(x.y + r.y + r("z", s.z))
        z = s.z + self.dt * (force - self.gamma * s.y - self.epsilon * s.z)
        return s.y + self.dt * z, z
