"""What a cell is: the equation of one step, and what belongs to it.

A cell holds no parameters and no shapes. It declares its gates, its states, which parameters it has and what a kernel saves of a step, once
and for everybody: layers, the scan, the backends, ``trace``, ``elman explain`` and the benchmarks read it here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class Cell(ABC):
    """One step of a recurrent network, as a pure function of tensors.

    Attributes:
        name: how backends and operators call it (``"rnn_tanh"``). A kernel of this name runs it.
        gates: the gates' usual names in the order in which their rows lie in the weights; G is their number.
        states: the states' names; the first is the one that is the layer's output.
        equations: the step for people to read, a line for each gate and state, in the order in which they are computed:
            ``"r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)"``. A gate's weights bear its name; a state after the step has a prime (``h'``).
        saved: what its kernel saves of each unit and step for the gradient, in order (csrc/cells): names of gates and states, and ``""``
            for a number that is neither. Nothing where the kernel needs only the outputs, or where there is none.
        sums: the states that are sums over many steps, which keep their dtype under autocast as torch's sums do.
    """

    name: ClassVar[str]
    gates: ClassVar[tuple[str, ...]]
    states: ClassVar[tuple[str, ...]]
    equations: ClassVar[tuple[str, ...]]
    saved: ClassVar[tuple[str, ...]] = ()
    sums: ClassVar[tuple[str, ...]] = ()

    def parameters(self, input_size: int, hidden_size: int, proj_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """The parameters of one direction of one layer, in torch's order: the shape of each by its kind.

        A cell may leave out ``weight_hh`` and ``bias_hh``, or add parameters of its own under other names.
        """
        rows, width = len(self.gates) * hidden_size, proj_size or hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, width)}
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return shapes | {"weight_hr": (proj_size, hidden_size)} if proj_size else shapes

    @abstractmethod
    def step(
        self, projected: Tensor, recurrent: Tensor, states: tuple[Tensor, ...], own: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One step.

        Args:
            projected: ``x W_ih^T + b_ih``, (B, G·H).
            recurrent: ``h W_hh^T + b_hh``, (B, G·H). Apart from ``projected``, since some cells (GRU) gate it before adding. As narrow as
                (B, 0) where there is no ``weight_hh``.
            states: the states before the step, each (B, H); where a stack projects its output, the first is as narrow as that.
            own: the parameters of the cell's own, by kind.

        Returns:
            The states after the step, each (B, H), in the order of ``self.states``; and the gates, each (B, H), in that of ``self.gates``.
        """
