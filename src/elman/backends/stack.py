"""What to run: a cell, its sizes, layers and directions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
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

    If ``proj_size`` P is not 0, the first state is projected: after each step it becomes W_hr h, (P,), which is the layer's output and the
    input of the next step and of the layer above. Only for a cell whose step does not read its first state, as the LSTM's. Source:
    H. Sak, A. Senior, F. Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling",
    Interspeech (2014).

    ``recompute`` asks a backend to keep less for the gradient and to run steps again instead; results stay the same.

    ``members``, if not 0, makes it an ensemble: so many networks of this kind that run in one call, each with operands of its own. All
    tensors of a call, given and returned, then have an axis of members before their others.

    ``left_out``, only for one layer in one direction, is how many leading axes x, the output and the states lack because there is one of
    what they count: 1 for a single step, x (B, I) and states (B, H); 2 for that of a single sequence, (I,) and (H,). The output of a single
    step is the first of its final states.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    proj_size: int = 0
    recompute: bool = False
    members: int = 0
    left_out: int = 0

    # What follows from these, computed once: a cached_property takes a lock in Python 3.11, which torch.compile cannot trace.
    num_directions: int = field(init=False, repr=False, compare=False)
    # How many axes all tensors have before those of a single network, and how many an x that is not packed has in all.
    lead: int = field(init=False, repr=False, compare=False)
    axes: int = field(init=False, repr=False, compare=False)
    single_step: bool = field(init=False, repr=False, compare=False)
    # The width of each of the cell's states.
    state_sizes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    output_size: int = field(init=False, repr=False, compare=False)
    # The kinds of parameters that one direction of one layer has, in torch's order, and their number.
    kinds: tuple[str, ...] = field(init=False, repr=False, compare=False)
    tensors_per_direction: int = field(init=False, repr=False, compare=False)
    # All parameters' shapes, in torch's order.
    shapes: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    # What runs, as the kernels are told (csrc/stack.h).
    numbers: tuple[object, ...] = field(init=False, repr=False, compare=False)
    _layers: tuple[Stack, ...] = field(init=False, repr=False, compare=False, default=())
    _sequence: Stack | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        directions = 2 if self.bidirectional else 1
        width = self.proj_size or self.hidden_size
        sizes = self.input_size, self.hidden_size, self.proj_size
        parameters = self.cell.shapes(*sizes, self.bias)
        direction = tuple(parameters.values())
        set_once = partial(object.__setattr__, self)
        set_once("num_directions", directions)
        set_once("lead", 1 if self.members else 0)
        set_once("axes", 3 + self.lead - self.left_out)
        set_once("state_sizes", (width,) + (self.hidden_size,) * (len(self.cell.states) - 1))
        set_once("output_size", directions * width)
        set_once("kinds", tuple(parameters))
        set_once("tensors_per_direction", len(direction))
        depth = self.num_layers, directions
        set_once("numbers", (self.cell.name, *sizes, *depth, self.bias, self.recompute, self.members, self.left_out))
        set_once("single_step", self.left_out > 0)
        if self.left_out:
            set_once("_sequence", replace(self, left_out=0))
        if self.num_layers > 1:
            first = replace(self, num_layers=1)
            set_once("_layers", (first,) + (replace(first, input_size=self.output_size),) * (self.num_layers - 1))
        set_once("shapes", tuple([shape for layer in self._layers for shape in layer.shapes]) or direction * directions)

    def of(self, members: int) -> Stack:
        """This stack as an ensemble of so many members; 0: as a single network."""
        return _of(self, members)

    @property
    def sequence(self) -> Stack:
        """This stack, of sequences of any length."""
        return self._sequence or self

    @property
    def layers(self) -> tuple[Stack, ...]:
        """This stack's layers, each as a stack of its own."""
        return self._layers or (self,)


@lru_cache(maxsize=64)
def _of(stack: Stack, members: int) -> Stack:
    return replace(stack, members=members)
