"""What is to be run: a cell, its sizes, layers and directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elman.cells import Cell


@dataclass(frozen=True)
class Stack:
    """A stack of recurrent layers: what a backend runs.

    >>> from elman.cells import ElmanTanh
    >>> stack = Stack(ElmanTanh(), input_size=10, hidden_size=20, num_layers=2, bidirectional=True)
    >>> stack.num_directions, stack.tensors_per_direction, stack.layers[1].input_size
    (2, 4, 40)

    ``proj_size`` P, where it is not 0, narrows the first state: after each step it becomes W_hr h, (P,), and that is what the layer puts
    out, the next step reads and the layer above sees. Only for a cell whose step does not read its first state, as the LSTM's. Source:
    H. Sak, A. Senior, F. Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling",
    Interspeech (2014).
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    proj_size: int = 0

    @cached_property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of each of the cell's states."""
        return (self.proj_size or self.hidden_size,) + (self.hidden_size,) * (len(self.cell.states) - 1)

    @cached_property
    def output_size(self) -> int:
        return self.num_directions * self.state_sizes[0]

    @cached_property
    def tensors_per_direction(self) -> int:
        """How many parameters one direction of one layer has: w_ih, w_hh, with bias b_ih, b_hh, and with a projection w_hr."""
        return (4 if self.bias else 2) + (1 if self.proj_size else 0)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The parameters' shapes, in torch's order."""
        rows = len(self.cell.gates) * self.hidden_size
        biases: tuple[tuple[int, ...], ...] = ((rows,), (rows,)) if self.bias else ()
        projection: tuple[tuple[int, ...], ...] = ((self.proj_size, self.hidden_size),) if self.proj_size else ()
        return tuple(
            shape
            for layer in self.layers
            for _ in range(self.num_directions)
            for shape in ((rows, layer.input_size), (rows, self.state_sizes[0]), *biases, *projection)
        )

    @cached_property
    def layers(self) -> tuple[Stack, ...]:
        """This stack's layers, each as a stack of its own."""
        first = replace(self, num_layers=1)
        above = replace(first, input_size=self.output_size)
        return (first,) + (above,) * (self.num_layers - 1)
