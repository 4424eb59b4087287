"""A network whose recurrent matrix is antisymmetric: it neither forgets nor explodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

from elman.cells import Cell
from elman.layers import Recurrent, RecurrentCell
from elman.layers.errors import wrong_module
from elman.zoo.options import as_number, as_switch

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from torch import Tensor

    from elman.cells.values import RecurrentParts, Values

    Network = TypeVar("Network", bound="Recurrent[Any] | RecurrentCell[Any]")


class AntisymmetricRNN(Cell):
    """An Elman network with an antisymmetric recurrent matrix: Euler's method on a stable differential equation, which forgets slowly.

    >>> import elman, torch
    >>> net = elman.zoo.antisymmetric(elman.Recurrent(elman.zoo.AntisymmetricRNN(), 10, 20))
    >>> output, h_n = net(torch.randn(5, 3, 10))
    >>> torch.equal(net.weight_hh_l0, -net.weight_hh_l0.T)
    True

    ::

        h' = h + epsilon tanh(W_ih x + b_ih + (W_hh - gamma I) h + b_hh)

    with W_hh = -W_hh^T. Its initial value is M - M^T, with M normal, of variance 1/H. ``elman.zoo.antisymmetric`` makes W_hh a function of
    its upper triangle, so that it stays antisymmetric in training; otherwise the optimizer may change that.

    With gated=True, the paper's second variant, a gate that uses the same product slows each unit:
    z = sigmoid(W_iz x + b_iz + (W_hh - gamma I) h + b_hh), h' = h + epsilon z tanh(...).

    Source: B. Chang, M. Chen, E. Haber, E. H. Chi, "AntisymmetricRNN: A Dynamical System View on Recurrent Neural Networks", ICLR (2019).

    Args:
        epsilon: the step of Euler's method.
        gamma: the strength of diffusion, which keeps the method stable.
        gated: whether there is a gate.
    """

    recurrent_gates = ("h",)

    def __init__(self, epsilon: float = 0.01, gamma: float = 0.01, gated: bool = False) -> None:
        self.epsilon = as_number("epsilon", epsilon, above=0)
        self.gamma = as_number("gamma", gamma, least=0)
        self.gated = as_switch("gated", gated)

    @property
    def gates(self) -> tuple[str, ...]:  # type: ignore[override]  # it depends on an option
        """The candidate, and the gate if there is one."""
        return ("h", "z") if self.gated else ("h",)

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "weight_hh":
            matrix = nn.init.normal_(torch.empty_like(tensor), std=tensor.shape[1] ** -0.5)
            tensor.copy_(matrix - matrix.T)
        return name == "weight_hh"

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        a = r.h - self.gamma * s.h
        change = torch.tanh(x.h + a)
        if self.gated:
            change = torch.sigmoid(x.z + a) * change
        return s.h + self.epsilon * change


class _Antisymmetric(nn.Module):
    """An antisymmetric matrix as a function of its upper triangle."""

    def forward(self, matrix: Tensor) -> Tensor:
        upper = matrix.triu(1)
        return upper - upper.T

    def right_inverse(self, matrix: Tensor) -> Tensor:
        return matrix


def antisymmetric(net: Network) -> Network:
    """Keep the recurrent matrices of a network of ``AntisymmetricRNN`` antisymmetric, by torch.nn.utils.parametrize.

    >>> import elman
    >>> net = elman.zoo.antisymmetric(elman.Recurrent(elman.zoo.AntisymmetricRNN(), 10, 20, num_layers=2))

    Args:
        net: the network or the single cell, changed in place.

    Returns:
        The same network.

    Raises:
        TypeError: it is not a network of an AntisymmetricRNN.
    """
    if not isinstance(net, Recurrent | RecurrentCell):
        raise wrong_module("net", "networks", net)
    cell = net.stack.cell
    if not isinstance(cell, AntisymmetricRNN):
        got = f"one of {type(cell).__name__}" if type(net) in (Recurrent, RecurrentCell) else type(net).__name__
        raise TypeError(f"expected a network of AntisymmetricRNN, got {got}, which means another matrix")
    for name in [name for name, _ in net.named_parameters() if name.startswith("weight_hh")]:
        parametrize.register_parametrization(net, name, _Antisymmetric())
    return net
