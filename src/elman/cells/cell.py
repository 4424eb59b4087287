"""What a cell is: the equation of one step, and nothing else.

A cell holds no parameters and no shapes. It names its gates and its states, and computes one step from what the matrix products gave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Cell(ABC):
    """One step of a recurrent network, as a pure function of tensors.

    Attributes:
        name: how backends and operators call it (``"rnn_tanh"``).
        gates: the gates' usual names in the order in which their rows lie in the weights; G is their number.
        states: the states' names; the first is the one that is the layer's output.
        equations: the step for people to read, a line for each gate and state, in the order in which they are computed:
            ``"r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)"``. A gate's weights bear its name; a state after the step has a prime (``h'``).
    """

    name: ClassVar[str]
    gates: ClassVar[tuple[str, ...]]
    states: ClassVar[tuple[str, ...]]
    equations: ClassVar[tuple[str, ...]]

    @abstractmethod
    def activate(self, projected: Tensor, recurrent: Tensor) -> tuple[Tensor, ...]:
        """The gates, each (B, H), in the order of ``self.gates``.

        Args:
            projected: ``x W_ih^T + b_ih``, shape (B, G·H).
            recurrent: ``h W_hh^T + b_hh``, shape (B, G·H). Apart from ``projected``, since some cells (GRU) gate it before adding.
        """

    @abstractmethod
    def step(self, gates: tuple[Tensor, ...], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The next states.

        Args:
            gates: what ``activate`` gave.
            states: the states before the step, each (B, H); where a stack projects its output, the first is as narrow as that.

        Returns:
            The states after the step, each (B, H), in the order of ``self.states``.
        """
